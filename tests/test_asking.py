"""From a scan through detector and answerer to answers, and what speaks against them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import scanomaly
from scanomaly.asking import STANDARD, Asked, ask, load_answerer, load_both
from scanomaly.data.images import read_image
from scanomaly.data.manifest import read_manifest
from scanomaly.data.mivqa import read_corpus
from scanomaly.errors import CheckpointError, ConfigError, DataError
from scanomaly.methods.qfae import QFAE
from scanomaly.questions import ANSWERS, QUESTIONS, Answer, Question
from scanomaly.records import Triple
from scanomaly.triples import make_triples
from scanomaly.vqa.items import by_triple
from scanomaly.vqa.kq_former import KqFormerVqa

C1, C2, C3, O1 = (QUESTIONS[name] for name in ("C1", "C2", "C3", "O1"))
FREE = Question("free", "Is the case normal? Where?", closed=False)


@pytest.fixture(scope="module")
def asked(tiny, tiny_vqa) -> Asked:
    return ask(tiny.fitted, tiny_vqa.fitted, tiny.scan)


def test_the_seven_standard_questions_are_answered(asked, tiny, tiny_vqa):
    assert [answer.question for answer in asked.answers] == list(QUESTIONS.values())
    assert asked.name == str(tiny.scan)
    assert asked.finding.score == tiny.fitted.score(tiny.scan).score
    assert asked.threshold == tiny.fitted.calibration.threshold
    assert (asked.detector, asked.answerer) == (tiny.run, tiny_vqa.run)
    assert asked.splits["detector, trained"] == tiny.fitted.splits["trained"]
    assert asked.splits["answerer, trained"] == tiny_vqa.fitted.splits["trained"]


def test_closed_answers_know_the_probability_of_every_class(asked):
    for answer in asked.answers[:3]:
        candidates = dict(answer.candidates)
        assert set(candidates) == set(ANSWERS[answer.question.name])
        scores = [score for _, score in answer.candidates]
        assert scores == sorted(scores, reverse=True)
        if answer.text in candidates:
            assert candidates[answer.text] == pytest.approx(answer.log_probability, abs=1e-4)
    assert all(len(answer.candidates) <= 3 for answer in asked.answers[3:])


def test_answers_are_those_about_the_triple_as_written(asked, tiny, tiny_vqa, tmp_path):
    row = next(row for row in tiny.manifest if row.path == tiny.scan)
    make_triples(tiny.fitted, replace(tiny.manifest, rows=(row,)), tmp_path)
    triples = list(by_triple(read_corpus(tmp_path).test).values())
    written = tiny_vqa.fitted.answers(triples)
    by_text = {answer.question.text: answer for answer in asked.answers}
    assert len(written) == 3
    for item, given in zip(triples[0], written, strict=True):
        assert by_text[item.question].text == given.text
        assert by_text[item.question].log_probability == pytest.approx(
            given.log_probability, abs=1e-4
        )


def test_an_array_is_asked_about_as_its_file(asked, tiny, tiny_vqa):
    questions = [C1.text, O1.text]
    other = ask(tiny.fitted, tiny_vqa.fitted, read_image(tiny.scan), questions)
    assert other.name == "array"
    assert [a.text for a in other.answers] == [asked.answers[0].text, asked.answers[3].text]
    assert all(map(np.array_equal, other.pictures, asked.pictures))


def test_other_questions_are_free(tiny, tiny_vqa):
    (answer,) = ask(tiny.fitted, tiny_vqa.fitted, tiny.scan, [f" {FREE.text} "]).answers
    assert answer.question == FREE
    assert answer.contradiction == ""


def test_the_public_way_in_python(asked, tiny, tiny_vqa):
    detector = scanomaly.load(tiny.folder, device="cpu")
    answerer = scanomaly.load_answerer(tiny_vqa.folder, device="cpu")
    for batch in detector.batches(scanomaly.read_manifest(tiny.data).split("test")):
        triple = scanomaly.Triple.of(batch, detector.predict(batch))
        answers = answerer.answer(triple, ["Is the case normal?"])
        assert len(answers) == len(batch)
        assert all(math.isfinite(one.log_probability) for (one,) in answers)
    assert load_answerer is scanomaly.load_answerer


def test_two_arguments_make_a_triple_on_the_calibrated_scale(tiny):
    batch = next(tiny.fitted.batches(read_manifest(tiny.data).split("test")))
    bare = tiny.fitted.detector.predict(batch)
    low, high = tiny.fitted.calibration.map_range
    shown = Triple.of(batch, tiny.fitted.predict(batch)).anomaly_map
    expected = ((bare.anomaly_map - low) / (high - low)).clamp(0, 1)
    assert torch.allclose(shown, expected.expand_as(shown))
    assert not torch.allclose(shown, Triple.of(batch, bare).anomaly_map)
    without = replace(tiny.fitted, calibration=None).predict(batch)
    assert without.map_range is None
    assert torch.equal(
        Triple.of(batch, without).anomaly_map,
        bare.anomaly_map.clamp(0, 1).expand_as(shown),
    )


def judged(tiny, tiny_vqa, monkeypatch, answers: list[Answer], *, flagged: bool, below=0.5):
    """What is made of these answers where the detector flags or not."""
    calibration = tiny.fitted.calibration
    score = tiny.fitted.score(tiny.scan).score
    healthy = tuple(sorted(score + (-1 if flagged else 1) * k for k in range(1, 21)))
    detector = replace(tiny.fitted, calibration=replace(calibration, scores=healthy))
    monkeypatch.setattr(KqFormerVqa, "answer", lambda self, *_, **__: [answers])
    questions = [answer.question.text for answer in answers]
    return ask(detector, tiny_vqa.fitted, tiny.scan, questions, uncertain_below=below)


SURE, UNSURE = math.log(0.9), math.log(0.4)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(C1, "Yes.", SURE), "normal"),
        (Answer(C1, "No.", SURE), "abnormal"),
        (Answer(C2, "It's a normal brain", SURE), "normal"),
        (Answer(C2, "It's edema.", SURE), "abnormal"),
        (Answer(C3, "Not applicable.", SURE), "normal"),
        (Answer(C3, "Clinically irrelevant.", UNSURE), "abnormal"),
        (Answer(C1, "Maybe.", SURE), "nothing"),
        (Answer(O1, "Yes.", SURE), "nothing"),
        (Answer(FREE, "Yes.", SURE), "nothing"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.text,
)
def test_contradictions_are_told(answer, says, tiny, tiny_vqa, monkeypatch):
    for flagged, contrary in ((True, "normal"), (False, "abnormal")):
        made = judged(tiny, tiny_vqa, monkeypatch, [answer], flagged=flagged)
        (told,) = made.answers
        assert made.finding.flagged is flagged
        assert bool(told.contradiction) == (says == contrary), (flagged, told.contradiction)
        assert made.contradictions == ((told.contradiction,) if told.contradiction else ())
        if told.contradiction:
            verb, side = ("flags", "above") if flagged else ("does not flag", "not above")
            what = "nothing" if flagged else "something"
            assert told.contradiction == (
                f'"{answer.text}" to "{answer.question.text}" says {what} abnormal, but the '
                f"detector {verb} the image: score {made.finding.score:.4g}, {side} its threshold "
                f"{made.threshold:.4g}."
            )


def test_nothing_contradicts_a_detector_that_can_flag_nothing(tiny, tiny_vqa, monkeypatch):
    scores = tiny.fitted.calibration.scores[:1]
    few = replace(tiny.fitted, calibration=replace(tiny.fitted.calibration, scores=scores))
    monkeypatch.setattr(KqFormerVqa, "answer", lambda self, *_, **__: [[Answer(C1, "No.", SURE)]])
    made = ask(few, tiny_vqa.fitted, tiny.scan, [C1.text])
    assert (made.threshold, made.finding.flagged, made.contradictions) == (None, False, ())


def test_answers_below_the_threshold_are_uncertain(tiny, tiny_vqa, monkeypatch):
    answers = [
        Answer(C1, "No.", SURE),
        Answer(C1, "No.", UNSURE),
        Answer(C1, "Perhaps.", SURE),
        Answer(O1, "No.", 2 * SURE),
        Answer(O1, "No.", 2 * UNSURE, candidates=(("No.", -1.8), ("Yes.", -2.0))),
    ]
    made = judged(tiny, tiny_vqa, monkeypatch, answers, flagged=True)
    assert [answer.uncertain for answer in made.answers] == [False, True, True, False, True]
    assert len(made.answers[1].candidates) == 2, "both classes of C1"
    assert made.answers[4].candidates == answers[4].candidates, "as found"
    made = judged(tiny, tiny_vqa, monkeypatch, answers, flagged=True, below=0.3)
    assert [answer.uncertain for answer in made.answers] == [False, False, True, False, False]
    assert made.uncertain_below == 0.3


class TestRefused:
    @pytest.mark.parametrize(
        ("questions", "message"),
        [
            ([], "expected at least one question"),
            (["  "], "expected a question, got an empty text"),
            ([*STANDARD, "Where? " * 60], r"has \d+ tokens; shorten it to at most 47"),
        ],
    )
    def test_questions_before_anything_is_computed(
        self, questions, message, tiny, tiny_vqa, monkeypatch
    ):
        monkeypatch.setattr(QFAE, "predict", None)
        with pytest.raises(DataError, match=message):
            ask(tiny.fitted, tiny_vqa.fitted, tiny.scan, questions)

    def test_an_impossible_threshold(self, tiny, tiny_vqa):
        with pytest.raises(ConfigError, match=r"expected uncertain_below from 0 to 1, got 1\.5"):
            ask(tiny.fitted, tiny_vqa.fitted, tiny.scan, uncertain_below=1.5)

    def test_a_detector_without_calibration(self, tiny, tiny_vqa, monkeypatch):
        monkeypatch.setattr(QFAE, "predict", None)
        bare = replace(tiny.fitted, calibration=None)
        with pytest.raises(ConfigError, match="expected a calibrated detector, got one without"):
            ask(bare, tiny_vqa.fitted, tiny.scan)

    def test_run_folders(self, tiny, tiny_vqa, tmp_path):
        swapped = rf"{tiny_vqa.folder} answers .* ask {tiny.folder} {tiny_vqa.folder} IMAGE\."
        with pytest.raises(CheckpointError, match=swapped):
            load_both(tiny_vqa.folder, tiny.folder)
        for folders in ((tiny_vqa.folder, tiny_vqa.folder), (tiny.folder, tiny.folder)):
            with pytest.raises(CheckpointError, match="expected the run of"):
                load_both(*folders)
        with pytest.raises(CheckpointError, match="expected a run folder"):
            load_both(tmp_path, tiny_vqa.folder)
