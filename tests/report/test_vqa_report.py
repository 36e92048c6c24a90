"""The three files of an answerer's report: what they say, and that no answer can break them."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from report.test_write import Page
from scanomaly.config.vqa import VqaConfig, VqaRun
from scanomaly.data.mivqa import VqaItem
from scanomaly.metrics import Estimate
from scanomaly.metrics.answers import SIGNATURES, class_metrics, closed_metrics, open_metrics
from scanomaly.metrics.closed_answers import confusion
from scanomaly.questions import QUESTIONS, question_of
from scanomaly.report import MissingExtraError
from scanomaly.report import page as report_page
from scanomaly.report.vqa import vqa_html, write_vqa_report
from scanomaly.report.vqa_tables import answers_csv, decoding_words, probability, vqa_metrics_json
from scanomaly.vqa.results import (
    AnsweredItem,
    OpenSet,
    OpenSetPart,
    QuestionResult,
    VqaEvaluation,
    VqaPanel,
)

NASTY = ("a\tb", 'say "no"', "two\nlines", "cr\rhere", "comma, dot", "", "<b>&amp;</b>", "\u2028x")
TRUTHS = {"C1": ("Yes.", "No."), "O1": ("No.", "Yes, on the left.")}


def row(question: str, index: int, answer: str) -> AnsweredItem:
    truth = TRUTHS[question][index % 2]
    paths = [Path(f"image/normal_{index}_{end}.png") for end in ("orig", "anomaly", "rec")]
    text = QUESTIONS[question].text
    item = VqaItem(f"{question}-{index}", *paths, text, truth, f"p{index // 2}", "normal", "test")
    correct = answer == truth if question == "C1" else None
    return AnsweredItem(item, question_of(text), truth, answer, -0.1 * (index + 1), correct)


def make_evaluation(**changes: object) -> VqaEvaluation:
    rows = tuple(
        [row("C1", index, ("Yes.", "No.", "Yes.", "perhaps")[index % 4]) for index in range(8)]
        + [row("O1", index, answer) for index, answer in enumerate(NASTY)]
    )
    closed = [one for one in rows if one.question.closed]
    free = [one for one in rows if not one.question.closed]

    def texts(some: list[AnsweredItem]) -> tuple[list[str], list[str], list[str]]:
        return [r.answer for r in some], [r.truth for r in some], [r.item.group for r in some]

    closed_values = closed_metrics(["C1"] * 8, *texts(closed), repeats=50)
    open_values = open_metrics(*texts(free), repeats=50)
    table = confusion("C1", *texts(closed)[:2])
    part = OpenSetPart(4, 4, class_metrics("C1", *texts(closed), repeats=50), table)
    shade = np.full((40, 30, 3), 90, dtype=np.uint8)
    values: dict[str, object] = {
        "run": VqaRun(preset="kqf-offline", source="ours"),
        "dataset": "phantom & <sons>",
        "splits": {"trained": "train: 80 questions about 20 triples", "scored": "test: 16"},
        "closed": closed_values,
        "open": open_values,
        "closed_baseline": closed_values,
        "open_baseline": {**open_values, "cider": Estimate.undefined("no word is rare")},
        "gain": Estimate(0.125, 0.0, 0.25),
        "nli": {"roberta": {"entailment": Estimate(0.5, 0.25, 0.75)}},
        "questions": (
            QuestionResult(
                QUESTIONS["C1"], 8, closed_values, "Yes.", closed_values, Estimate(0.1), table
            ),
            QuestionResult(QUESTIONS["O1"], 8, open_values, None, {}, None, None),
        ),
        "open_set": OpenSet(part, part),
        "signatures": {**SIGNATURES, "roberta": "NLI|model:roberta"},
        "rows": rows,
        "panels": (
            VqaPanel("right", (shade, shade, shade), rows[:2]),
            VqaPanel("wrong", (shade, shade, shade), (rows[3], *rows[8:])),
        ),
        "resampled": "patients",
        "seconds_per_answer": 0.25,
        "weights": ("tf_efficientnet_lite0.in1k: Apache-2.0",),
        "notes": ("1 patients occur in both train and test: results are too good.",),
    }
    return VqaEvaluation(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def evaluation() -> VqaEvaluation:
    return make_evaluation()


@pytest.fixture(scope="module")
def page(evaluation: VqaEvaluation) -> Page:
    return Page(vqa_html(evaluation))


def test_writes_three_files_and_nothing_else(evaluation: VqaEvaluation, tmp_path: Path) -> None:
    path = write_vqa_report(evaluation, tmp_path / "a")
    assert path == tmp_path / "a" / "report.html"
    names = ["answers.csv", "metrics.json", "report.html"]
    assert sorted(file.name for file in path.parent.iterdir()) == names
    again = write_vqa_report(evaluation, tmp_path / "b")
    assert again.read_bytes() == path.read_bytes()


def test_no_answer_breaks_the_table(evaluation: VqaEvaluation, tmp_path: Path) -> None:
    write_vqa_report(evaluation, tmp_path)
    with (tmp_path / "answers.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [line["answer"] for line in found] == [one.answer for one in evaluation.rows]
    assert tuple(line["answer"] for line in found[8:]) == NASTY
    assert [line["correct"] for line in found[:4]] == ["1", "1", "1", "0"]
    assert {line["correct"] for line in found[8:]} == {""}
    assert found[0]["log_probability"] == "-0.1"
    assert (found[0]["patient"], found[2]["patient"]) == ("p0", "p1")
    assert None not in found[0], "no column too many"


def test_a_patient_that_is_unknown_is_empty(evaluation: VqaEvaluation) -> None:
    first = evaluation.rows[0]
    unknown = replace(first, item=replace(first.item, patient=None))
    (line,) = csv.DictReader(io.StringIO(answers_csv([unknown])))
    assert line["patient"] == ""


def test_what_the_detector_says_stands_beside_the_answers(evaluation: VqaEvaluation) -> None:
    yes, no, *_ = evaluation.rows
    says = {"score": 0.81234, "p_value": 0.05, "flagged": True}
    told = tuple(replace(one, item=replace(one.item, **says)) for one in (yes, no))
    first, second, third = csv.DictReader(io.StringIO(answers_csv([*told, evaluation.rows[8]])))
    columns = ("score", "p_value", "flagged", "contradicts")
    assert [first[name] for name in columns] == ["0.81234", "0.05", "1", "1"]
    assert second["contradicts"] == "0"
    assert [third[name] for name in columns] == [""] * 4
    (panel, _) = evaluation.panels
    text = Page(vqa_html(replace(evaluation, panels=(replace(panel, rows=told),)))).text
    assert "normal_0_orig; detector: score 0.8123, p = 0.05, flagged as abnormal" in text
    assert text.count("contradicts the detector") == 1
    assert "contradicts the detector" not in Page(vqa_html(evaluation)).text


def test_metrics_json_holds_every_number(evaluation: VqaEvaluation) -> None:
    content = json.loads(vqa_metrics_json(evaluation))
    assert (content["format"], content["kind"], content["preset"]) == (1, "vqa", "kqf-offline")
    assert content["number_of_questions"] == {**{"total": 16, "closed": 8, "open": 8, "free": 0}}
    assert content["closed"]["class_accuracy"]["value"] == 0.75
    assert content["majority"]["open"]["cider"] == {"value": None, "why": "no word is rare"}
    assert content["closed_gain_over_majority"]["value"] == 0.125
    assert content["nli"]["roberta"]["entailment"]["high"] == 0.75
    assert content["questions"]["C1"]["confusion"]["answers"] == ["No.", "Yes.", "(other)"]
    assert "confusion" not in content["questions"]["O1"]
    unknown = content["open_set"]["unknown"]
    ill = unknown["classes"]["No."]
    assert unknown["as_published"]["No."] == {
        "ACC": ill["precision"]["value"],
        "F1": ill["f1"]["value"],
    }
    assert content["signatures"]["roberta"] == "NLI|model:roberta"
    assert content["notes"] == list(evaluation.notes)


def test_without_an_open_set_there_is_none(page: Page) -> None:
    plain = make_evaluation(open_set=None, nli={}, panels=(), notes=())
    assert json.loads(vqa_metrics_json(plain))["open_set"] is None
    text = Page(vqa_html(plain)).text
    for words in ("Open set", "roberta", "Single cases", "Read before trusting"):
        assert words in page.text
        assert words not in text


def test_the_page_says_what_it_must(page: Page, evaluation: VqaEvaluation) -> None:
    for words in (
        "Research software, not a medical device.",
        "phantom & <sons>: kqf-offline",
        "KQ-Former, concat",
        "image, anomaly map, reconstruction",
        "bootstrap over patients",
        "Accuracy, same class 75.0",
        "Paper's ACC",
        "4 unhealthy, 4 healthy",
        "scanomaly vqa evaluate RUN --data MIVQA --nli roberta",
        "250 ms",
        "majority answer: Yes.",
        *evaluation.weights,
        *evaluation.splits.values(),
        *evaluation.notes,
    ):
        assert words in page.text, words
    for name, signature in SIGNATURES.items():
        assert signature in page.text, name
    for name in evaluation.closed:
        assert page.text.count(SIGNATURES[name]) >= 2, "in the summary and beside the question"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "beam search, 5 beams"),
        ({"greedy": True}, "greedy"),
        ({"beams": 1}, "greedy"),
        ({"reference_decoding": True}, "as the released code: greedily, without the question's fi"),
    ],
)
def test_the_decoding_in_words(options: dict[str, object], words: str) -> None:
    config = VqaConfig(**options)  # type: ignore[arg-type]
    assert decoding_words(config.decoding).startswith(words)


def test_panels_show_three_pictures_and_every_answer(page: Page) -> None:
    assert page.text.index("All closed answers right") < page.text.index(
        "Some closed answers wrong"
    )
    assert page.alternatives.count("Anomaly map of normal_3_orig") == 1
    for answer in ('say "no"', "<b>&amp;</b>", "(empty)", "perhaps"):
        assert answer in page.text
    assert "truth: Yes, on the left." in page.text
    assert all(address.startswith("data:image/") for address in page.addresses)


def test_panels_mark_uncertain_answers_as_asking_does(evaluation: VqaEvaluation) -> None:
    sure, unsure = evaluation.rows[0], replace(evaluation.rows[1], log_probability=-0.8)
    outside = evaluation.rows[3]
    assert [one.uncertain for one in (sure, unsure, outside)] == [False, True, True]
    for rows, count in (((sure,), 0), ((sure, unsure, outside), 2)):
        panel = replace(evaluation.panels[0], rows=rows)
        html = vqa_html(replace(evaluation, panels=(panel,)))
        assert html.count('<span class="uncertain">uncertain</span>') == count
    assert "Uncertain: below 0.5" in html


@pytest.mark.parametrize(
    ("share", "words"), [(1.0, "100 %"), (0.934, "93 %"), (0.01, "1 %"), (0.0004, "0.04 %")]
)
def test_probabilities_in_words(share: float, words: str) -> None:
    assert probability(float(np.log(share))) == words


def test_without_the_extra_the_numbers_are_safe(
    evaluation: VqaEvaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_page, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"metrics\.json and answers\.csv are written"):
        write_vqa_report(evaluation, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["answers.csv", "metrics.json"]
