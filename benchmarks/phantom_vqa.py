"""Answers about simulated patients: KQ-Former against MI-average, the majority, the image alone.

    OMP_NUM_THREADS=1 python benchmarks/phantom_vqa.py WORK [--seeds 0 1 2] [--patients 800]

For each seed: a QFAE is fitted on healthy heads, other patients are simulated and shown to it, and
each answerer learns from the triples of its training patients. Test patients are seen by `evaluate`
alone. Seeds are pooled: 95 % intervals resample all their patients; differences are paired. Run
folders and answers are kept in WORK: the same command goes on after an interruption. --tuning
scores validation patients instead: settings (--set) are chosen so, on seeds the tables do not use.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from result_tables import head, interval, line
from scanomaly.data.manifest import read_manifest
from scanomaly.data.mivqa import Corpus, read_corpus
from scanomaly.data.phantom import write_heads, write_question_heads
from scanomaly.files import write_text
from scanomaly.fitting import fit as fit_detector
from scanomaly.inference import FittedDetector
from scanomaly.metrics import Estimate
from scanomaly.metrics.answers import mean_estimates, open_metrics
from scanomaly.presets import preset, vqa_preset
from scanomaly.questions import QUESTIONS, classify, is_unseen
from scanomaly.triples import make_triples
from scanomaly.vqa.checkpoint import FittedAnswerer
from scanomaly.vqa.evaluation import evaluate
from scanomaly.vqa.fitting import fit

HEALTHY = 120
"""Patients of whom the detector's training, validation and test are made."""
ALL, BASELINE, IMAGE = "kqf-offline", "mi-average-offline", "kqf-offline-image-only"
TITLES = {
    ALL: "KQ-Former, concat",
    BASELINE: "multi-image baseline, average",
    IMAGE: "KQ-Former, image alone",
}
MAJORITY = "majority answer of training"
CLOSED = tuple(name for name, question in QUESTIONS.items() if question.closed)
ABOUT_MAPS = ("O1", "O3")
"""False positives, and whether the map is accurate."""


@dataclass(frozen=True, slots=True)
class Given:
    """One answer. group: what is resampled together."""

    question: str
    truth: str
    answer: str
    majority: str
    group: str


def triples_of(work: Path, seed: int, patients: int) -> Corpus:
    """The corpus of one seed, made unless it is there."""
    folder = work / f"seed-{seed}"
    healthy, asked, run_dir, made = (folder / n for n in ("heads", "asked", "detector", "triples"))
    if not (made / "triples.jsonl").exists():
        if not healthy.exists():
            write_heads(healthy, patients=HEALTHY, seed=seed)
        if not (run_dir / "calibration.json").exists():
            run = preset("qfae-offline-heads").with_overrides([f"fit.seed={seed}"])
            fit_detector(run, read_manifest(healthy), run_dir, resume=run_dir.exists())
        if not asked.exists():
            write_question_heads(asked, patients=patients, seed=seed)
        detector = FittedDetector.load(run_dir)
        make_triples(detector, read_manifest(asked), made, seed=seed)
    return read_corpus(made)


def answers_of(
    work: Path, seed: int, name: str, corpus: Corpus, options: Sequence[str]
) -> list[Given]:
    """What the answerer says of the scored patients, kept in a file."""
    run = vqa_preset(name).with_overrides([f"fit.seed={seed}", *options])
    folder = work / f"seed-{seed}" / "-".join([name, *options]).replace("/", "_")
    file = folder / f"answers-{corpus.name}.json"
    if not file.exists():
        done = (folder / "model.safetensors").exists()
        fitted = (
            FittedAnswerer.load(folder)
            if done
            else fit(run, corpus, folder, resume=folder.exists())
        )
        assert fitted is not None  # one process
        found = evaluate(fitted, corpus)
        majority = {each.question.name: each.majority or "" for each in found.questions}
        given = [
            Given(
                row.question.name,
                row.truth,
                row.answer,
                majority[row.question.name],
                f"{seed}/{row.item.group}",
            )
            for row in found.rows
            if row.question.name in majority and not is_unseen(row.item.category)
        ]
        write_text(file, json.dumps([asdict(each) for each in given]))
    return [Given(**values) for values in json.loads(file.read_text())]


def pooled(kept: Mapping[int, list[Given]], questions: Sequence[str]) -> list[Given]:
    """Of all seeds, those about some questions, in one order for every answerer."""
    return [each for seed in sorted(kept) for each in kept[seed] if each.question in questions]


def right(given: Given, answer: str) -> bool:
    found = classify(given.question, answer)
    return found is not None and found == classify(given.question, given.truth)


def accuracy(given: Sequence[Given]) -> Estimate:
    values = [right(each, each.answer) for each in given]
    return mean_estimates({"accuracy": values}, groups(given))["accuracy"]


def groups(given: Sequence[Given]) -> list[str]:
    return [each.group for each in given]


def cell(estimate: Estimate) -> str:
    return interval(estimate.value, estimate.low, estimate.high)


def closed_table(found: Mapping[str, Mapping[int, list[Given]]]) -> Iterator[str]:
    yield from head(["closed accuracy", *CLOSED, "all three"])
    wanted = [*((name,) for name in CLOSED), CLOSED]
    first = next(iter(found.values()))
    always = {s: [replace(each, answer=each.majority) for each in own] for s, own in first.items()}
    rivals = {MAJORITY: always, **named(found)}
    for title, kept in rivals.items():
        yield line([title, *(cell(accuracy(pooled(kept, names))) for names in wanted)])
    for title, kept in rivals.items():
        if title != TITLES[ALL]:
            gains = (gain(found[ALL], kept, names) for names in wanted)
            yield line([f"{TITLES[ALL]} - {title}", *map(cell, gains)])


def named(found: Mapping[str, Mapping[int, list[Given]]]) -> dict[str, Mapping[int, list[Given]]]:
    return {TITLES[name]: kept for name, kept in found.items()}


def gain(
    ours: Mapping[int, list[Given]], theirs: Mapping[int, list[Given]], questions: Sequence[str]
) -> Estimate:
    """Paired difference of closed accuracy."""
    own, other = pooled(ours, questions), pooled(theirs, questions)
    assert [(a.group, a.truth) for a in own] == [(a.group, a.truth) for a in other]
    differences = [
        int(right(a, a.answer)) - int(right(b, b.answer)) for a, b in zip(own, other, strict=True)
    ]
    return mean_estimates({"gain": differences}, groups(own))["gain"]


def open_table(found: Mapping[str, Mapping[int, list[Given]]]) -> Iterator[str]:
    asked = tuple(name for name in QUESTIONS if name not in CLOSED)
    titles = [f"{name}, {metric}" for name in ABOUT_MAPS for metric in ("first word", "BLEU-4")]
    yield from head(["open answers", "BLEU-4", "ROUGE-L", "CIDEr", *titles])
    for title, kept in named(found).items():
        whole = measured(pooled(kept, asked))
        parts = [measured(pooled(kept, (name,))) for name in ABOUT_MAPS]
        cells = [whole[name] for name in ("bleu_4", "rouge_l", "cider")]
        cells += [part[name] for part in parts for name in ("first_word", "bleu_4")]
        yield line([title, *map(cell, cells)])


def measured(given: Sequence[Given]) -> dict[str, Estimate]:
    answers, truths = [each.answer for each in given], [each.truth for each in given]
    return open_metrics(answers, truths, groups(given))


def scored_on_validation(corpus: Corpus) -> Corpus:
    return replace(corpus, name="valid", test=corpus.valid, valid=())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--patients", type=int, default=800, help="who are asked about, per seed")
    parser.add_argument("--models", nargs="+", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--set", dest="options", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--tuning", action="store_true", help="score validation patients")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found: dict[str, dict[int, list[Given]]] = {name: {} for name in options.models}
    for seed in options.seeds:
        corpus = triples_of(options.work, seed, options.patients)
        if options.tuning:
            corpus = scored_on_validation(corpus)
        for name in options.models:
            given = answers_of(options.work, seed, name, corpus, options.options)
            found[name][seed] = given
    for text in (*closed_table(found), "", *open_table(found)):
        print(text, flush=True)


if __name__ == "__main__":
    main()
