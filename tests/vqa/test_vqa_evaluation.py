"""Answerer x test split -> VqaEvaluation: who is asked, what is counted, what is noted."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from scanomaly.data.mivqa import Corpus, VqaItem
from scanomaly.errors import DataError, WeightsError
from scanomaly.questions import QUESTIONS, question_of
from scanomaly.report.vqa_tables import vqa_metrics_json
from scanomaly.vqa.base import Generated
from scanomaly.vqa.checkpoint import FittedAnswerer
from scanomaly.vqa.evaluation import evaluate
from scanomaly.vqa.results import OpenSet, VqaEvaluation
from vqa.tiny_vqa import MASS, UNSEEN, TinyVqa

Says = Callable[[VqaItem], str]


@pytest.fixture
def saying(tiny_vqa: TinyVqa, monkeypatch: pytest.MonkeyPatch) -> Callable[..., VqaEvaluation]:
    """Evaluates an answerer that says to each item what a function does."""

    def evaluated(says: Says, corpus: Corpus | None = None, **options: object) -> VqaEvaluation:
        asked: list[str] = []

        def answers(self, triples):
            asked.extend(item.id for items in triples for item in items)
            return [Generated(says(item), -0.5) for items in triples for item in items]

        monkeypatch.setattr(FittedAnswerer, "answers", answers)
        run = tiny_vqa.run.with_overrides([f"{k}={v}" for k, v in options.items()])
        fitted = replace(tiny_vqa.fitted, run=run)
        evaluation = evaluate(fitted, corpus or tiny_vqa.corpus)
        assert sorted(asked) == sorted(row.item.id for row in evaluation.rows), "each once"
        return evaluation

    return evaluated


def truth(item: VqaItem) -> str:
    return item.answer


def values(metrics: Mapping) -> dict[str, float | None]:
    return {name: estimate.value for name, estimate in metrics.items()}


def found_open_set(saying: Callable[..., VqaEvaluation]) -> OpenSet:
    found = saying(truth, **{"data.exclude_unseen": True}).open_set
    assert found is not None
    return found


class TestRows:
    """Who is asked."""

    def test_test_items_alone_in_their_order(self, tiny_vqa: TinyVqa, saying):
        rows = saying(truth).rows
        assert [row.item for row in rows] == list(tiny_vqa.corpus.test)

    def test_the_real_answerer_is_asked_some_triples_at_a_time(self, tiny_vqa: TinyVqa):
        told = []
        evaluation = evaluate(
            tiny_vqa.fitted, tiny_vqa.corpus, progress=lambda *done: told.append(done)
        )
        assert told[-1] == (21, 21)
        one = tiny_vqa.fitted.answers([[tiny_vqa.corpus.test[5]]])[0]
        assert evaluation.rows[5].answer == one.text.strip()
        assert evaluation.rows[5].log_probability == pytest.approx(one.log_probability, abs=1e-4)

    def test_blanks_around_texts_do_not_count(self, saying):
        rows = saying(lambda item: f"  {item.answer}\n").rows
        assert all(row.answer == row.truth for row in rows)

    def test_no_test_split(self, tiny_vqa: TinyVqa):
        with pytest.raises(DataError, match=r"corpus: expected a test split .* `scanomaly ask`"):
            evaluate(tiny_vqa.fitted, replace(tiny_vqa.corpus, test=()))

    def test_a_question_that_is_too_long_is_named_before_anything_is_asked(
        self, tiny_vqa: TinyVqa, monkeypatch
    ):
        monkeypatch.setattr(FittedAnswerer, "answers", None)
        *others, last = tiny_vqa.corpus.test
        long = replace(last, question="Where? " * 60)
        with pytest.raises(DataError, match=rf"^{last.id}: the question 'Where\? .* shorten it"):
            evaluate(tiny_vqa.fitted, replace(tiny_vqa.corpus, test=(*others, long)))

    def test_a_judge_that_is_not_here_before_anything_is_asked(self, tiny_vqa, monkeypatch):
        monkeypatch.setattr(FittedAnswerer, "answers", None)
        with pytest.raises(WeightsError):
            evaluate(tiny_vqa.fitted, tiny_vqa.corpus, nli=["roberta"])


class TestNumbers:
    """What is counted."""

    def test_the_truth_is_perfect(self, saying):
        found = saying(truth)
        assert set(values(found.closed).values()) == {1.0}
        assert values(found.open)["bleu_1"] == pytest.approx(1.0)
        by_name = {result.question.name: result for result in found.questions}
        assert list(by_name) == ["C1", "C2", "C3", "O1"]
        assert (by_name["C1"].items, by_name["C2"].items) == (6, 5)
        assert by_name["O1"].confusion is None
        assert by_name["O1"].gain is None

    def test_the_majority_answer_gains_nothing(self, saying):
        """In training one of the unhealthy cases is unseen, so that C2's majority is normal."""
        majority = {"C1": "Yes.", "C2": "It's a normal brain", "C3": "Not applicable.", "O1": "No."}
        found = saying(lambda item: majority[question_of(item.question).name])
        assert {r.question.name: r.majority for r in found.questions} == majority
        assert values(found.closed) == values(found.closed_baseline)
        assert values(found.open) == values(found.open_baseline)
        assert found.gain.value == 0.0
        perfect = saying(truth)
        assert perfect.gain.value == pytest.approx(1 - found.closed["class_accuracy"].value)
        assert perfect.gain.low is not None
        assert values(perfect.closed_baseline) == values(found.closed_baseline)

    def test_text_outside_the_vocabulary_is_wrong_and_noted(self, saying):
        found = saying(lambda item: "perhaps")
        assert found.closed["class_accuracy"].value == 0.0
        assert not any(row.correct for row in found.rows)
        note = "16 closed answers are outside the vocabulary and count as wrong, such as 'perhaps'."
        assert note in found.notes

    def test_free_questions_stand_alone(self, tiny_vqa: TinyVqa, saying):
        corpus = tiny_vqa.corpus
        free = {"Where is it?": "Left.", "How large is it?": "Small."}
        more = {
            split: (
                *corpus.split(split),
                *(
                    replace(item, id=f"{item.id}{text}", question=f" {text} ", answer=answer)
                    for item in corpus.split(split)
                    if item.question == QUESTIONS["C1"].text
                    for text, answer in free.items()
                ),
            )
            for split in ("train", "test")
        }

        def says(item: VqaItem) -> str:
            return "Small." if item.question.strip() in free else item.answer

        found, alone = saying(says, replace(corpus, **more)), saying(truth)
        assert values(found.open) == values(alone.open), "the seven alone"
        assert values(found.open_baseline) == values(alone.open_baseline)
        where, large = found.questions[-1], found.questions[-2]
        assert [one.question.text for one in (where, large)] == list(free)
        assert (where.items, where.majority, large.majority) == (6, "Left.", "Small.")
        assert where.metrics["first_word"].value == 0.0
        assert large.metrics["first_word"].value == where.baseline["first_word"].value == 1.0
        assert found.notes[-1].startswith("2 questions are none of the seven: each has metrics of")
        written = json.loads(vqa_metrics_json(found))
        assert set(written["questions"]) == {"C1", "C2", "C3", "O1", *free}
        assert written["number_of_questions"]["free"] == 12

    def test_contradictions_with_the_detector_are_counted(self, tiny_vqa: TinyVqa, saying):
        """Everything is flagged but the second case, a mass, and the last, of which nothing is
        known."""
        pictures = list(dict.fromkeys(item.pictures for item in tiny_vqa.corpus.test))
        flags = [True, False, True, True, True, None]
        test = tuple(
            replace(item, flagged=flags[pictures.index(item.pictures)])
            for item in tiny_vqa.corpus.test
        )
        found = saying(truth, replace(tiny_vqa.corpus, test=test))
        told = {row.item.id: row.contradicts for row in found.rows if row.question.name == "C1"}
        assert list(told.values()) == [True, True, True, False, True, None]
        assert all(row.contradicts is None for row in found.rows if not row.question.closed)
        assert (
            "4 of 5 answers to C1 contradict the detector: 3 say normal of a flagged image, 1 "
            "abnormal of one that is not flagged."
        ) in found.notes
        assert not any("contradict" in note for note in saying(truth).notes), "flags unknown"

    def test_confusions_count_every_item(self, saying):
        found = saying(lambda item: MASS.get(question_of(item.question).name, ""))
        table = next(r.confusion for r in found.questions if r.question.name == "C2")
        assert sum(map(sum, table.counts)) == 5
        assert table.counts[1][2] == 3, "normal brains taken for masses"
        assert table.counts[2][2] == 2

    def test_intervals_resample_patients_or_say_what_else(self, tiny_vqa: TinyVqa, saying):
        assert saying(truth).resampled == "patients"
        alone = replace(
            tiny_vqa.corpus,
            test=tuple(replace(item, patient=None) for item in tiny_vqa.corpus.test),
        )
        found = saying(truth, alone)
        assert found.resampled == "triples (patients are unknown)"
        assert any("too narrow" in note for note in found.notes)

    def test_patients_in_two_splits_are_noted(self, tiny_vqa: TinyVqa, saying):
        test = tuple(replace(item, patient="train0") for item in tiny_vqa.corpus.test)
        found = saying(truth, replace(tiny_vqa.corpus, test=test))
        assert "1 patients occur in both train and test: results are too good." in found.notes

    def test_without_a_training_split_there_is_no_majority(self, tiny_vqa: TinyVqa, saying):
        found = saying(truth, replace(tiny_vqa.corpus, train=()))
        assert found.gain.value is None
        assert all(result.baseline == {} for result in found.questions)
        assert any("no training split" in note for note in found.notes)

    def test_every_metric_has_its_signature(self, saying):
        found = saying(truth)
        of_class = found_open_set(saying).unknown.classes["mean"]
        named = {*found.closed, *found.open, "gain", *(f"open_set_{name}" for name in of_class)}
        assert named <= found.signatures.keys()

    def test_splits_say_who_was_scored(self, saying):
        splits = saying(truth).splits
        assert splits["scored"] == "test: 21 questions about 6 triples of 3 patients"
        assert splits["trained"].startswith("train: 29 questions")


class TestOpenSet:
    """The paper's Table 2: kinds that were not trained on."""

    def test_none_where_those_kinds_were_trained_on(self, saying):
        assert saying(truth).open_set is None

    def test_test_cases_alone_where_training_has_none_by_itself(self, tiny_vqa: TinyVqa, saying):
        train = tuple(item for item in tiny_vqa.corpus.train if item.category != UNSEEN)
        found = saying(truth, replace(tiny_vqa.corpus, train=train))
        assert (found.open_set.unknown.unhealthy, found.open_set.unknown.healthy) == (1, 3)
        assert len(found.rows) == len(tiny_vqa.corpus.test)

    def test_none_without_such_cases(self, tiny_vqa: TinyVqa, saying):
        corpus = tiny_vqa.corpus.only(lambda item: item.category != UNSEEN)
        found = saying(truth, corpus, **{"data.exclude_unseen": True})
        assert found.open_set is None
        assert any("the categories are mass_lesion, normal." in note for note in found.notes)

    def test_unseen_cases_of_every_split_against_healthy_test_cases(self, saying):
        found = saying(truth, **{"data.exclude_unseen": True})
        known, unknown = found.open_set.known, found.open_set.unknown
        assert (known.unhealthy, known.healthy) == (2, 3)
        assert (unknown.unhealthy, unknown.healthy) == (3, 3)
        for metrics in unknown.classes.values():
            assert set(values(metrics).values()) == {1.0}
        unseen = [row for row in found.rows if row.item.category == UNSEEN]
        assert {row.item.split for row in unseen} == {"train", "valid", "test"}
        assert found.closed["accuracy"].value == 1.0
        assert next(r.items for r in found.questions if r.question.name == "C1") == 5
        assert "; 3 cases of kinds that were not trained on" in found.splits["scored"]

    def test_counts_of_the_table(self, saying):
        """Says unhealthy to every lesion that was trained on and to one of three unseen ones."""

        def says(item: VqaItem) -> str:
            seen_as_ill = "mass" in item.category or item.id.startswith(f"{UNSEEN}_test")
            return item.answer if seen_as_ill or item.category == "normal" else "Yes."

        part = saying(says, **{"data.exclude_unseen": True}).open_set.unknown
        ill, healthy = part.classes["No."], part.classes["Yes."]
        assert (ill["precision"].value, ill["recall"].value) == (1.0, pytest.approx(1 / 3))
        assert (healthy["precision"].value, healthy["recall"].value) == (pytest.approx(3 / 5), 1.0)
        assert part.classes["mean"]["accuracy"].value == pytest.approx(4 / 6)
        assert part.classes["mean"]["precision"].value == pytest.approx(0.8)
        assert part.confusion.counts[0][:2] == (1, 2)

    def test_a_corpus_of_unseen_kinds_alone(self, tiny_vqa: TinyVqa, saying):
        test = tuple(item for item in tiny_vqa.corpus.test if item.category == UNSEEN)
        with pytest.raises(DataError, match="all test cases are of kinds that were not trained on"):
            saying(truth, replace(tiny_vqa.corpus, test=test), **{"data.exclude_unseen": True})


class TestPanels:
    """Which triples are shown."""

    def test_right_and_wrong_with_all_their_answers(self, saying):
        found = saying(lambda item: item.answer if item.category == "normal" else "No.")
        kinds = [panel.kind for panel in found.panels]
        assert kinds == sorted(kinds), "right before wrong"
        for panel in found.panels:
            assert (panel.kind == "wrong") == any(row.correct is False for row in panel.rows)
            assert len({row.item.pictures for row in panel.rows}) == 1
            assert {picture.shape for picture in panel.pictures} == {(32, 32, 3)}
        assert sum(len(panel.rows) for panel in found.panels) == 21

    @pytest.mark.parametrize(
        ("limit", "kinds"),
        [(2, ["normal", "mass_lesion"]), (4, ["normal", "mass_lesion", UNSEEN, "normal"])],
    )
    def test_kinds_take_turns(self, saying, monkeypatch, limit: int, kinds: list[str]):
        monkeypatch.setattr("scanomaly.vqa.evaluation.PANELS_OF_A_KIND", limit)
        shown = [panel.rows[0].item.category for panel in saying(truth).panels]
        assert shown == kinds
