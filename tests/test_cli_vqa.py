"""`scanomaly vqa`: fit and evaluate through the real command line, and what they refuse."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from scanomaly.config.vqa import VqaRun
from scanomaly.files import write_text
from scanomaly.report.vqa_tables import CLASS_WORDS
from vqa.tiny_vqa import TinyVqa, write_tiny_corpus

SIGNED = {
    "closed class_accuracy": r"ACC\|match:class\|\S+",
    "closed accuracy": r"ACC\|match:exact\|\S+",
    "open bleu_4": r"BLEU\|n:4\|\S+",
    "open cider": r"CIDEr-D\|\S+",
}
FILES = {"metrics.json", "answers.csv", "report.html"}


@pytest.fixture
def config(tiny_vqa: TinyVqa) -> Path:
    """The run.yaml of the tiny run, as --config takes it."""
    return tiny_vqa.folder / "run.yaml"


@pytest.fixture
def folder(tiny_vqa: TinyVqa, tmp_path: Path) -> Path:
    """A copy of the tiny run folder, to be written into."""
    return shutil.copytree(tiny_vqa.folder, tmp_path / "copy")


def test_fit_then_evaluate(command, tiny_vqa, config, tmp_path):
    out = tmp_path / "run"
    options = ["--seed", 5, "--device", "cpu", "--set", "fit.epochs=1"]
    done = command(
        "vqa", "fit", "--config", config, "--data", tiny_vqa.data, "--out", out, *options
    )
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == f"fitted: {out}"
    run = VqaRun.load(out)
    assert (run.fit.seed, run.fit.epochs, run.config) == (5, 1, tiny_vqa.run.config)
    done = command("vqa", "evaluate", out, "--data", tiny_vqa.data)
    assert done.code == 0, done.err
    for metric in ("closed class_accuracy", "closed accuracy", "open bleu_4", "open cider"):
        value = rf"^{metric}: [\d.]+ .*; majority answer [\d.]+; {SIGNED[metric]}$"
        assert re.search(value, done.out, re.M), metric
    assert re.search(
        r"above the majority answer: .*; ACC\|match:class\|.*\|paired$", done.out, re.M
    )
    own = out / "evaluations" / "corpus"
    assert done.out.endswith(f"report: {own}/report.html\n")
    assert {path.name for path in own.iterdir()} == FILES
    for name in FILES - {"report.html"}:
        assert (own / name).read_bytes() == (out / name).read_bytes(), "mirrored"
    with (own / "answers.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(tiny_vqa.corpus.test)


def test_evaluate_answers_as_published_where_run_yaml_says_so(command, tiny_vqa, folder):
    VqaRun.load(folder).with_overrides(["config.reference_decoding=true"]).save(folder)
    assert command("vqa", "evaluate", folder, "--data", tiny_vqa.data).code == 0
    notes = json.loads((folder / "metrics.json").read_text())["notes"]
    assert any(note.startswith("Decoded as the released code does") for note in notes)


def test_evaluate_decodes_as_set_and_says_so(command, tiny_vqa, folder):
    before = (folder / "run.yaml").read_bytes()
    words = ["--set", "config.reference_decoding=true", "--set", "config.beams=3"]
    done = command("vqa", "evaluate", folder, "--data", tiny_vqa.data, *words)
    assert done.code == 0, done.err
    assert "note: Decoded as the released code does" in done.out
    written = json.loads((folder / "metrics.json").read_text())
    assert written["decoding"] == {"beams": 3, "greedy": False, "reference_decoding": True}
    html = (folder / "report.html").read_text()
    assert "as the released code: greedily" in html
    assert f"vqa evaluate RUN --data MIVQA {' '.join(words)}" in html
    assert (folder / "run.yaml").read_bytes() == before, "of this evaluation alone"


def test_evaluate_prints_the_open_set(command, tiny_vqa, folder):
    VqaRun.load(folder).with_overrides(["data.exclude_unseen=true"]).save(folder)
    done = command("vqa", "evaluate", folder, "--data", tiny_vqa.data)
    assert done.code == 0, done.err
    written = json.loads((folder / "metrics.json").read_text())
    for kinds in ("known", "unknown"):
        part = written["open_set"][kinds]
        counts = f"{part['unhealthy']} unhealthy, {part['healthy']} healthy"
        assert f"open_set {kinds}: {counts}\n" in done.out
        for answer, words in {**CLASS_WORDS, "mean": "mean"}.items():
            for name, estimate in part["classes"][answer].items():
                value, signature = estimate["value"], written["signatures"][f"open_set_{name}"]
                told = "undefined: " if value is None else f"{value:.3f} "
                line = rf"^open_set {kinds} {re.escape(words)} {name}: {told}.*; "
                assert re.search(line + re.escape(signature) + "$", done.out, re.M), line


def test_presets_are_listed_with_the_others(command):
    lines = command("presets").out.splitlines()
    assert any(re.match(r"kqf-offline +vqa +ours: KQ-Former concat", line) for line in lines)


class TestRefused:
    """One clear line and exit code 2."""

    def test_the_run_of_a_detector(self, refused, tiny_vqa, run_copy):
        refused(
            "found one of `scanomaly fit`", "vqa", "evaluate", run_copy, "--data", tiny_vqa.data
        )

    def test_the_run_of_an_answerer(self, refused, tiny, tiny_vqa, tmp_path):
        words = ["--data", tiny.data]
        refused("found one of `scanomaly vqa fit`", "evaluate", tiny_vqa.folder, *words)
        out = ["--out", tmp_path / "predicted"]
        refused("found one of `scanomaly vqa fit`", "predict", tiny_vqa.folder, tiny.scan, *out)

    def test_presets_of_the_other_verb(self, refused, tiny_vqa, tmp_path):
        words = ["--data", tiny_vqa.data, "--out", tmp_path / "run"]
        refused("qfae-brain is a detector", "vqa", "fit", "qfae-brain", *words)
        refused("kqf-offline answers questions", "fit", "kqf-offline", *words)
        refused("expected a preset name or --config", "vqa", "fit", *words)
        assert not (tmp_path / "run").exists()

    def test_missing_language_weights(self, refused, tiny_vqa, tmp_path, monkeypatch):
        monkeypatch.setenv("SCANOMALY_WEIGHTS", str(tmp_path / "none"))
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
        words = ["--data", tiny_vqa.data, "--out", tmp_path / "run"]
        message = (
            r"2 weights are not .* `scanomaly weights fetch deit_base\S+ openai-community/gpt2"
        )
        refused(message, "--offline", "vqa", "fit", "mi-average-vit", *words)

    def test_a_judge_that_is_not_here(self, refused, tiny_vqa, folder, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
        words = ["--data", tiny_vqa.data, "--nli", "roberta"]
        refused("roberta-large-mnli are not on this machine", "vqa", "evaluate", folder, *words)
        assert not (folder / "metrics.json").exists()

    def test_another_field_than_the_decoding(self, refused, tiny_vqa, folder):
        words = ["vqa", "evaluate", folder, "--data", tiny_vqa.data, "--set"]
        only = r"only the decoding can change: config\.beams, config\.greedy, config\.reference_d"
        for path in ("config.fusion", "beams", "fit.epochs"):
            refused(rf"--set {path}: .*{only}", *words, f"{path}=1")
        refused("config.beams: Input should be greater than 0", *words, "config.beams=0")
        refused("expected --set path=value", *words, "config.beams")
        assert not (folder / "metrics.json").exists()

    def test_a_damaged_model(self, refused, tiny_vqa, folder):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-50])
        words = ["--data", tiny_vqa.data]
        refused(rf"{file} is damaged", "vqa", "evaluate", folder, *words)

    def test_corpora(self, refused, tiny_vqa, config, tmp_path):
        words = ["vqa", "fit", "--config", config, "--out", tmp_path / "run", "--data"]
        refused(r"expected triples\.jsonl, or annotations", *words, tmp_path)
        test_only = write_tiny_corpus(tmp_path / "a", {"test": 2})
        refused("a: expected questions to train on in split train, found none", *words, test_only)
        train_only = write_tiny_corpus(tmp_path / "b", {"train": 2})
        refused("b: fit.patience=5 chooses the checkpoint on split valid", *words, train_only)
        folder = tiny_vqa.folder
        refused("b: expected a test split", "vqa", "evaluate", folder, "--data", train_only)
        write_text(tmp_path / "c" / "triples.jsonl", '{"id": 3}\n')
        refused(r"triples\.jsonl, line 1: ", *words, tmp_path / "c")

    def test_a_question_that_is_too_long(self, refused, folder, tmp_path):
        data = write_tiny_corpus(tmp_path / "corpus", {"test": 2})
        file = data / "triples.jsonl"
        first, *others = file.read_text().splitlines()
        record = json.loads(others[2]) | {"id": "odd", "question": "Where? " * 60}
        write_text(file, "\n".join([first, *others, json.dumps(record)]))
        message = r"^odd: the question 'Where\? .* tokens; shorten it to at most 47"
        refused(message, "vqa", "evaluate", folder, "--data", data)
        assert not (folder / "metrics.json").exists()

    def test_fewer_items_than_a_batch(self, refused, config, tiny_vqa, tmp_path):
        words = ["--config", config, "--data", tiny_vqa.data, "--set", "fit.batch_size=48"]
        message = "29 training items are fewer than one batch of 48"
        refused(message, "vqa", "fit", *words, "--out", tmp_path / "run", "--resume")
