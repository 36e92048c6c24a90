"""Answers about simulated patients: KQ-Former against MI-average, the majority, the image alone.

    OMP_NUM_THREADS=1 python benchmarks/phantom_vqa.py WORK [--seeds 0 1 2] [--patients 800]

For each seed: a QFAE is fitted on healthy heads, other patients are simulated and shown to it, and
each answerer learns from the triples of its training patients. Test patients are seen by `evaluate`
alone. Seeds are pooled: 95 % intervals resample all their patients; differences are paired. Run
folders and answers are kept in WORK, each under a digest of its settings: the same command goes on
after an interruption, another preset or option begins anew. The code is not part of it: after a
change that may move numbers, begin with an empty WORK. --tuning scores validation patients instead:
settings (--set) are chosen so, on seeds the tables do not use.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from result_tables import head, interval, line
from scanomaly import __version__
from scanomaly.data.manifest import read_manifest
from scanomaly.data.mivqa import TRIPLES, Corpus, read_corpus
from scanomaly.data.phantom import write_heads, write_question_heads
from scanomaly.files import write_text
from scanomaly.fitting import fit as fit_detector
from scanomaly.inference import FittedDetector
from scanomaly.metrics import Estimate
from scanomaly.metrics.answers import mean_estimates, open_differences, open_metrics
from scanomaly.presets import preset, vqa_preset
from scanomaly.questions import QUESTIONS, classify, is_unseen
from scanomaly.triples import make_triples
from scanomaly.vqa.checkpoint import FittedAnswerer
from scanomaly.vqa.evaluation import evaluate
from scanomaly.vqa.fitting import fit

HEALTHY = 120
"""Patients of whom the detector's training, validation and test are made."""
DIGITS = 10
"""Of a digest in the name of a folder."""
ALL, BASELINE, IMAGE = "kqf-offline", "mi-average-offline", "kqf-offline-image-only"
TITLES = {
    ALL: "KQ-Former, concat",
    BASELINE: "multi-image baseline, average",
    IMAGE: "KQ-Former, image alone",
}
MAJORITY = "majority answer of training"
CLOSED = tuple(name for name, question in QUESTIONS.items() if question.closed)
OPEN = tuple(name for name in QUESTIONS if name not in CLOSED)
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


def folder_of(parent: Path, name: str, experiment: Mapping[str, object]) -> Path:
    """The folder of one experiment, with all that decides its numbers in experiment.json."""
    text = json.dumps({"scanomaly": __version__, **experiment}, indent=1, sort_keys=True)
    folder = parent / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:DIGITS]}"
    write_text(folder / "experiment.json", text)
    return folder


def triples_of(work: Path, seed: int, patients: int) -> Corpus:
    """The corpus of one seed, made unless it is there."""
    run = preset("qfae-offline-heads").with_overrides([f"fit.seed={seed}"])
    decides = {"detector": run.model_dump(mode="json"), "healthy": HEALTHY, "patients": patients}
    folder = folder_of(work, f"seed-{seed}", decides)
    healthy, asked, run_dir, made = (folder / n for n in ("heads", "asked", "detector", "triples"))
    if not (made / TRIPLES).exists():
        if not healthy.exists():
            write_heads(healthy, patients=HEALTHY, seed=seed)
        if not (run_dir / "calibration.json").exists():
            fit_detector(run, read_manifest(healthy), run_dir, resume=run_dir.exists())
        if not asked.exists():
            write_question_heads(asked, patients=patients, seed=seed)
        detector = FittedDetector.load(run_dir)
        make_triples(detector, read_manifest(asked), made, seed=seed)
    return read_corpus(made)


def answers_of(corpus: Corpus, seed: int, name: str, options: Sequence[str]) -> list[Given]:
    """What the answerer says of the scored patients, kept in a file."""
    run = vqa_preset(name).with_overrides([f"fit.seed={seed}", *options])
    content = hashlib.sha256((corpus.root / TRIPLES).read_bytes()).hexdigest()
    decides = {"answerer": run.model_dump(mode="json"), "corpus": content}
    folder = folder_of(corpus.root.parent, name, decides)
    run_dir, file = folder / "run", folder / f"answers-{corpus.name}.json"
    if not file.exists():
        done = (run_dir / "model.safetensors").exists()
        fitted = (
            FittedAnswerer.load(run_dir)
            if done
            else fit(run, corpus, run_dir, resume=run_dir.exists())
        )
        assert fitted is not None  # one process
        found = evaluate(fitted, corpus)
        majority = {each.question.key: each.majority or "" for each in found.questions}
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
    for title, kept in answerers(found).items():
        yield line([title, *(cell(accuracy(pooled(kept, names))) for names in wanted)])
    for title, kept in rivals(found).items():
        yield line([title, *(cell(gain(found[ALL], kept, names)) for names in wanted)])


def answerers(
    found: Mapping[str, Mapping[int, list[Given]]],
) -> dict[str, Mapping[int, list[Given]]]:
    """Titles of all that answer, the majority first."""
    first = next(iter(found.values()))
    always = {s: [replace(each, answer=each.majority) for each in own] for s, own in first.items()}
    return {MAJORITY: always, **{TITLES[name]: kept for name, kept in found.items()}}


def rivals(found: Mapping[str, Mapping[int, list[Given]]]) -> dict[str, Mapping[int, list[Given]]]:
    """Titles of KQ-Former's differences from the others, where it was asked."""
    others = answerers(found) if ALL in found else {}
    return {f"{TITLES[ALL]} - {t}": kept for t, kept in others.items() if t != TITLES[ALL]}


def gain(
    ours: Mapping[int, list[Given]], theirs: Mapping[int, list[Given]], questions: Sequence[str]
) -> Estimate:
    """Paired difference of closed accuracy."""
    own, other = paired(ours, theirs, questions)
    differences = [
        int(right(a, a.answer)) - int(right(b, b.answer)) for a, b in zip(own, other, strict=True)
    ]
    return mean_estimates({"gain": differences}, groups(own))["gain"]


def paired(
    ours: Mapping[int, list[Given]], theirs: Mapping[int, list[Given]], questions: Sequence[str]
) -> tuple[list[Given], list[Given]]:
    own, other = pooled(ours, questions), pooled(theirs, questions)
    assert [(a.group, a.truth) for a in own] == [(a.group, a.truth) for a in other]
    return own, other


def open_table(found: Mapping[str, Mapping[int, list[Given]]]) -> Iterator[str]:
    titles = [f"{name}, {metric}" for name in ABOUT_MAPS for metric in ("first word", "BLEU-4")]
    yield from head(["open answers", "BLEU-4", "ROUGE-L", "CIDEr", *titles])
    for title, kept in answerers(found).items():
        yield line([title, *open_cells(partial(measured, kept))])
    for title, kept in rivals(found).items():
        yield line([title, *open_cells(partial(open_gain, found[ALL], kept))])


def open_cells(measure: Callable[[Sequence[str]], dict[str, Estimate]]) -> list[str]:
    """measure: names of questions to metrics."""
    whole, parts = measure(OPEN), [measure((name,)) for name in ABOUT_MAPS]
    cells = [whole[name] for name in ("bleu_4", "rouge_l", "cider")]
    cells += [part[name] for part in parts for name in ("first_word", "bleu_4")]
    return [cell(each) for each in cells]


def measured(kept: Mapping[int, list[Given]], questions: Sequence[str]) -> dict[str, Estimate]:
    given = pooled(kept, questions)
    answers, truths = [each.answer for each in given], [each.truth for each in given]
    return open_metrics(answers, truths, groups(given))


def open_gain(
    ours: Mapping[int, list[Given]], theirs: Mapping[int, list[Given]], questions: Sequence[str]
) -> dict[str, Estimate]:
    """Paired differences of open metrics."""
    own, other = paired(ours, theirs, questions)
    said, others_said = ([each.answer for each in given] for given in (own, other))
    return open_differences(said, others_said, [each.truth for each in own], groups(own))


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
            found[name][seed] = answers_of(corpus, seed, name, options.options)
    for text in (*closed_table(found), "", *open_table(found)):
        print(text, flush=True)


if __name__ == "__main__":
    main()
