"""Shortcuts: how well a rule on size, file type, border or colour alone separates the labels.

n images
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scanomaly.data.rows import Row
from scanomaly.doctor.facts import Facts
from scanomaly.doctor.findings import SEVERITIES, Finding, Severity
from scanomaly.doctor.survey import Survey
from scanomaly.metrics import Estimate, image_metrics
from scanomaly.metrics.detection import auroc

Labelled = tuple[Row, Facts]
_COMPARED = ("test", "valid")
_FEWEST = 8
"""Images of each side below which any rule separates them by chance."""
_REPEATS = 200
_MOST = 4000
"""Images that an interval is computed on; more tell no more."""


@dataclass(frozen=True, slots=True)
class Property:
    """Something that no lesion should decide.

    of: its value; a text is a kind, such as a file type. limits: the bound of the interval (AUROC)
    from which on it is of that severity, most severe first.
    """

    name: str
    of: Callable[[Facts], float | str]
    limits: Mapping[Severity, float]


TECHNICAL: Mapping[Severity, float] = {"error": 0.9, "warning": 0.6, "note": 0.52}
"""How a file was written says nothing of the patient."""
PICTURED: Mapping[Severity, float] = {"error": 0.95, "warning": 0.75}
"""Borders and colours may say a little of the patient too."""
CONTENT: Mapping[Severity, float] = {"warning": 0.95, "note": 0.85}
"""Lesions may well be bright: a rule to compare a method with."""

PROPERTIES: tuple[Property, ...] = (
    Property("height", lambda f: f.height, TECHNICAL),
    Property("width", lambda f: f.width, TECHNICAL),
    Property("shape (width to height)", lambda f: f.width / f.height, TECHNICAL),
    Property("file type", lambda f: f.kind, TECHNICAL),
    Property("colour mode", lambda f: f.mode, TECHNICAL),
    Property("bit depth", lambda f: f.bits, TECHNICAL),
    Property("border brightness", lambda f: f.border, PICTURED),
    Property("black border", lambda f: f.dark_border, PICTURED),
    Property("brightest corner", lambda f: f.corner, PICTURED),
    Property("colour", lambda f: f.tint, PICTURED),
    Property("bytes per pixel", lambda f: f.size / (f.height * f.width), CONTENT),
    Property("mean brightness", lambda f: f.mean, CONTENT),
    Property("contrast", lambda f: f.spread, CONTENT),
)


def labels(survey: Survey) -> Iterator[Finding]:
    """Normal against abnormal images, in each split that has enough of both (else in all)."""
    images = [(row, f) for row, f in _measured(survey) if row.label is not None]
    parts = {name: [pair for pair in images if pair[0].split == name] for name in _COMPARED}
    enough = {name: part for name, part in parts.items() if min(map(len, _sides(part))) >= _FEWEST}
    worst: dict[str, tuple[str, _Separation]] = {}
    for name, part in (enough or {"all splits": images}).items():
        for found in _separations(*_sides(part)):
            known = worst.setdefault(found.property.name, (name, found))
            if SEVERITIES.index(found.severity) < SEVERITIES.index(known[1].severity):
                worst[found.property.name] = name, found
    for name, found in worst.values():
        yield Finding(
            found.severity,
            "shortcut",
            f"{found.property.name} alone separates normal from abnormal images of {name}: AUROC "
            f"{_words(found.estimate)}; {found.difference('normal', 'abnormal')}",
            "report this rule as a baseline: a method must be better."
            if found.property.limits is CONTENT
            else "export both classes in the same way, or report this rule beside any method.",
            survey.some(side[0][1].path for side in _sides(enough.get(name, images))),
        )


def _sides(images: Sequence[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
    """(normal, abnormal)."""
    normal = [pair for pair in images if not pair[0].label]
    return normal, [pair for pair in images if pair[0].label]


def splits(survey: Survey) -> Iterator[Finding]:
    """Normal images of train against normal images of test: another source looks abnormal."""
    normal = [(row, f) for row, f in _measured(survey) if row.label is False]
    train = [pair for pair in normal if pair[0].split == "train"]
    test = [pair for pair in normal if pair[0].split == "test"]
    for found in _separations(train, test):
        if found.severity == "note":
            continue
        yield Finding(
            "warning",
            "split shift",
            f"{found.property.name} alone tells normal test images from normal training images: "
            f"AUROC {_words(found.estimate)}; {found.difference('train', 'test')}",
            "methods that learn from train will find test abnormal for that; export both in the "
            "same way.",
            survey.some(facts.path for _, facts in (train[0], test[0])),
        )


def _measured(survey: Survey) -> list[Labelled]:
    return [(row, facts) for row, facts in survey.images() if not facts.not_finite]


@dataclass(frozen=True, slots=True)
class _Separation:
    """A property that tells two sides apart. value: the kind that does, of kinds."""

    property: Property
    severity: Severity
    estimate: Estimate
    first: tuple[float, ...]
    second: tuple[float, ...]
    value: str | None

    def difference(self, first: str, second: str) -> str:
        if self.value is not None:
            one, other = (float(np.mean(side)) for side in (self.first, self.second))
            return f"{self.value or 'none'}: {one:.0%} of {first}, {other:.0%} of {second}"
        one, other = (float(np.median(side)) for side in (self.first, self.second))
        return f"median {one:.4g} in {first}, {other:.4g} in {second}"


def _words(estimate: Estimate) -> str:
    if estimate.value is None or estimate.low is None:
        return f"{estimate.value:.3f}" if estimate.value is not None else "undefined"
    return f"{estimate.value:.3f} (95 % interval {estimate.low:.3f} to {estimate.high:.3f})"


def _separations(first: Sequence[Labelled], second: Sequence[Labelled]) -> Iterator[_Separation]:
    """The properties that separate two sides beyond their limits."""
    if min(len(first), len(second)) < _FEWEST:
        return
    first, second = _thinned(first), _thinned(second)
    groups = [row.patient or row.id for row, _ in (*first, *second)]
    truth = [False] * len(first) + [True] * len(second)
    for prop in PROPERTIES:
        values = [prop.of(facts) for _, facts in (*first, *second)]
        scores, kind = _as_scores(values, truth)
        least = min(prop.limits.values())
        if len(set(scores)) < 2 or _folded(scores, truth) < least:
            continue
        turned = scores if auroc(scores, truth) >= 0.5 else [-score for score in scores]
        estimate = image_metrics(turned, truth, groups, repeats=_REPEATS)["auroc"]
        bound = estimate.low if estimate.low is not None else 0.5
        severity = next((name for name, limit in prop.limits.items() if bound >= limit), None)
        if severity is not None:
            sides = tuple(scores[: len(first)]), tuple(scores[len(first) :])
            yield _Separation(prop, severity, estimate, *sides, kind)


def _thinned(side: Sequence[Labelled]) -> Sequence[Labelled]:
    return side[:: -(-2 * len(side) // _MOST)]


def _folded(scores: Sequence[float], truth: Sequence[bool]) -> float:
    """AUROC in the better direction."""
    area = auroc(scores, truth)
    return max(area, 1 - area)


def _as_scores(
    values: Sequence[float | str], truth: Sequence[bool]
) -> tuple[list[float], str | None]:
    """Numbers as they are; of kinds the one that separates best, as 0 and 1."""
    if not isinstance(values[0], str):
        return [float(value) for value in values], None
    kinds = sorted({str(value) for value in values})
    best = max(kinds, key=lambda kind: _folded([float(v == kind) for v in values], truth))
    return [float(value == best) for value in values], best
