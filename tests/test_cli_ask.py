"""From a phantom to answers through the real command line, and what its verbs refuse."""

import json
import re
import shutil
from pathlib import Path

import pytest

from scanomaly.data.mivqa import read_corpus
from scanomaly.questions import QUESTIONS, question_of
from scanomaly.vqa.items import by_triple

DISCLAIMER = "Research software, not a medical device."


def test_from_a_phantom_to_answers(command, tiny, tiny_vqa, tmp_path):
    def done(*words: object) -> str:
        ended = command(*words)
        assert ended.code == 0, ended.err
        return ended.out

    heads, detector, mivqa, vqa = (tmp_path / name for name in ("heads", "run", "mivqa", "vqa"))
    done("phantom", heads, "--vqa", "--patients", 20, "--contrast", "T2")
    config = ["--config", tiny.folder / "run.yaml"]
    done("fit", *config, "--data", heads, "--out", detector, "--set", "fit.epochs=1")
    told = done("vqa", "make-triples", detector, "--data", heads, "--out", mivqa)
    assert re.fullmatch(rf"40 triples, \d+ questions\ntriples: {mivqa}/triples\.jsonl\n", told)
    corpus = read_corpus(mivqa)
    assert corpus.patients_known
    assert not corpus.patient_overlap()
    for items in by_triple(corpus.train).values():
        assert [question_of(item.question).name for item in items] == list(QUESTIONS)
    config = ["--config", tiny_vqa.folder / "run.yaml", "--set", "config.max_tokens=100"]
    config += ["--set", "config.decoder.positions=200", "--set", "fit.epochs=1"]
    done("vqa", "fit", *config, "--data", mivqa, "--out", vqa)
    told = done("vqa", "evaluate", vqa, "--data", mivqa)
    assert re.search(r"^closed class_accuracy: ", told, re.M)
    scan = next((heads / "test" / "Ungood" / "img").iterdir())
    told = done("ask", detector, vqa, scan, "--out", tmp_path / "asked")
    assert all(question.text[:60] in told for question in QUESTIONS.values()), "some lines wrap"
    answers = json.loads((tmp_path / "asked" / "answers.json").read_text())["answers"]
    assert [answer["name"] for answer in answers] == list(QUESTIONS)


def test_ask_prints_verdict_answers_and_disclaimer(command, tiny, tiny_vqa, tmp_path):
    words = ["--question", "Is the case normal?", "--question", "Where is [it]?"]
    words += ["--uncertain-below", "1", "--out", tmp_path]
    done = command("ask", tiny.folder, tiny_vqa.folder, tiny.scan, *words)
    assert done.code == 0, done.err
    verdict, _, normal, free, *others = done.out.splitlines()
    assert re.match(rf"{tiny.scan}: score \S+, threshold \S+, p = \S+, (not )?flagged", verdict)
    listed = r"uncertain: .* %; (Yes|No)\. .* %"  # the answer itself, whatever it is, among both
    assert re.match(rf"Is the case normal\? +{listed}", normal)
    assert re.match(r"Where is \[it\]\? \(free\) +uncertain: ", free)
    assert others[-2:] == [DISCLAIMER, f"report: {tmp_path}/answers.html"]
    content = json.loads((tmp_path / "answers.json").read_text(encoding="utf-8"))
    assert (content["image"], content["uncertain_below"]) == (str(tiny.scan), 1)
    contradictions = [line for line in others if line.startswith("contradiction: ")]
    assert contradictions == [f"contradiction: {text}" for text in content["contradictions"]]
    assert DISCLAIMER in (tmp_path / "answers.html").read_text(encoding="utf-8")


def test_make_triples_names_what_it_left_out(command, tiny, tmp_path):
    data = shutil.copytree(tiny.data / "test", tmp_path / "Brain" / "test").parent
    bad = next((data / "test" / "good" / "img").iterdir())
    bad.write_bytes(b"")
    done = command("vqa", "make-triples", tiny.folder, "--data", data, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert done.out.startswith("9 triples, 27 questions; 1 images left out, named above\n")
    assert f"left out: {bad}: expected an image, got an empty file" in done.err


class TestRefused:
    """One clear line and exit code 2."""

    @pytest.fixture
    def runs(self, tiny, tiny_vqa) -> list[Path]:
        return [tiny.folder, tiny_vqa.folder]

    def test_run_folders_swapped(self, refused, runs, tiny):
        refused("give the detector first: scanomaly ask", "ask", *reversed(runs), tiny.scan)

    def test_an_answerer_that_makes_no_triples(self, refused, tiny_vqa, tiny, tmp_path):
        words = ["--data", tiny.data, "--out", tmp_path / "out"]
        refused("found one of `scanomaly vqa fit`", "vqa", "make-triples", tiny_vqa.folder, *words)
        assert not (tmp_path / "out").exists()

    def test_a_missing_image(self, refused, runs, tmp_path):
        refused("expected an image or a folder, found nothing", "ask", *runs, tmp_path / "x.png")

    def test_a_folder_of_images(self, refused, runs, tiny):
        folder = tiny.data / "test" / "good"
        message = (
            rf"^{folder}: expected one image file, found a folder of 6; give one of them, such"
        )
        refused(message, "ask", *runs, folder)

    def test_questions(self, refused, runs, tiny, tmp_path):
        words = ["ask", *runs, tiny.scan, "--out", tmp_path / "out", "--question"]
        refused("expected a question, got an empty text", *words, "  ")
        refused(r"has \d+ tokens; shorten it to at most 47", *words, "Where? " * 60)
        assert not (tmp_path / "out").exists()

    def test_missing_weights_of_the_detector(self, refused, run_copy, tiny_vqa, tiny, tmp_path):
        file = run_copy / "run.yaml"
        elsewhere = str(tmp_path / "nowhere")
        file.write_text(file.read_text().replace(str(tiny.weights), elsewhere))
        refused(elsewhere, "--offline", "ask", run_copy, tiny_vqa.folder, tiny.scan)

    def test_a_folder_with_triples(self, refused, tiny, tiny_vqa):
        words = ["--data", tiny.data, "--out", tiny_vqa.data]
        refused("already holds finished triples", "vqa", "make-triples", tiny.folder, *words)
