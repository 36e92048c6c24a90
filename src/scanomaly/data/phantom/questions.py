"""Question-answer pairs about one case, written from what its pictures show. Loads no torch.

Closed answers come from the kind and severity that are known; open ones from the anomaly map, the
true mask and the reconstruction, in words that a reader of the three pictures could justify. Some
of their wordings tell the size that is known.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from scanomaly.data.phantom.evidence import (
    ALTERED,
    BLURRED,
    FULLY,
    PARTLY,
    REMOVED,
    WEAKENED,
    Evidence,
    Region,
    alteration,
    coverage,
    false_positives,
    foci,
    region_of,
    regions,
    remaining,
    sharpness,
    typical,
)
from scanomaly.data.phantom.places import in_head, in_picture, in_words, zone
from scanomaly.data.phantom.wordings import (
    ANOMALY,
    CALLED,
    PLURAL,
    SIZE_LIMITS_MM,
    SIZES,
    WORDINGS,
)
from scanomaly.questions import ANSWERS, NORMAL, QUESTIONS, UNSEEN_TYPES

Pair = tuple[str, str]  # question and answer

NORMAL_KIND = "normal"
KINDS = (
    *("posttreatment change", NORMAL_KIND, "mass lesion", "lesions", "enlarged ventricles"),
    *("edema", "artefacts", "craniotomy", "resection"),
)
"""Kinds that have an answer word, in the order of ANSWERS["C2"]."""

RELEVANT, POTENTIALLY, NOT_APPLICABLE, IRRELEVANT = range(4)
RELEVANCE: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "posttreatment change": (POTENTIALLY, POTENTIALLY, RELEVANT),
        "mass lesion": (POTENTIALLY, RELEVANT, RELEVANT),
        "lesions": (POTENTIALLY, RELEVANT, RELEVANT),
        "enlarged ventricles": (IRRELEVANT, POTENTIALLY, RELEVANT),
        "edema": (POTENTIALLY, POTENTIALLY, RELEVANT),
        "artefacts": (IRRELEVANT, IRRELEVANT, IRRELEVANT),
        "craniotomy": (IRRELEVANT, IRRELEVANT, POTENTIALLY),
        "resection": (POTENTIALLY, POTENTIALLY, RELEVANT),
    }
)
"""Kind -> class of C3 when its severity is mild, moderate, severe.

What acts on the brain or may grow counts more; what was done on purpose counts less; an artefact is
no pathology. Normal cases are not applicable. The severity follows from size times contrast.
"""
SEVERITIES = ("mild", "moderate", "severe")
PLACES_SAID = 2  # of the largest regions; smaller ones are left out
MOST_OF_IT = 0.6  # of an anomaly in one part: its other parts are not placed
FLUID_SIGN: Mapping[str, int] = MappingProxyType({"T1": -1, "FLAIR": -1, "T2": 1})
"""MR contrast -> whether fluid is brighter (1) or darker (-1) than the brain."""
FLUID_LEVEL = 0.25  # relative to the head's median: so far off is fluid


@dataclass(frozen=True, slots=True)
class SliceFacts:
    """What is known of a case besides its pictures; empty and None where unknown.

    kind: one of KINDS or UNSEEN_TYPES; "" for data that is no phantom of whole heads. side, lobe:
    in MNI space, for the facts beside a triple; answers take places from the mask, so that a lesion
    and a mark in one place are said to be in one. contrast: T1, T2 or FLAIR. height_mm: MNI z of
    the slice.
    """

    abnormal: bool
    kind: str = ""
    severity: str = ""
    side: str = ""
    lobe: str = ""
    diameter_mm: float | None = None
    contrast: str = ""
    height_mm: float | None = None

    @classmethod
    def of_row(cls, cells: Mapping[str, str]) -> "SliceFacts":
        """From a line of a manifest; a phantom's has a kind, empty where nothing is wrong.

        Raises KeyError without a label column.
        """
        abnormal = cells["label"] == "1"
        healthy = NORMAL_KIND if "kind" in cells and not abnormal else ""
        return cls(
            abnormal=abnormal,
            kind=cells.get("kind") or healthy,
            severity=cells.get("severity", ""),
            side=cells.get("side", ""),
            lobe=cells.get("lobe", ""),
            diameter_mm=float(cells["diameter_mm"]) if cells.get("diameter_mm") else None,
            contrast=cells.get("contrast", ""),
            height_mm=float(cells["height_mm"]) if cells.get("height_mm") else None,
        )


@dataclass(frozen=True, slots=True)
class _Case:
    """A case with the means to speak of it."""

    facts: SliceFacts
    evidence: Evidence
    rng: np.random.Generator

    @property
    def is_head(self) -> bool:
        return self.facts.kind in (*KINDS, *UNSEEN_TYPES)

    def zone(self, region: Region) -> str:
        """The layer of the head that a region lies in."""
        return zone(region, self.facts.height_mm)

    def where(self, found: Sequence[Region]) -> str:
        """The places of the largest regions in words; empty without any."""
        place = in_head if self.is_head else in_picture
        return in_words((place(region, self.facts.height_mm) for region in found), PLACES_SAID)

    @property
    def lesion_place(self) -> str:
        """Where the abnormality lies."""
        mask = self.evidence.mask
        assert mask is not None
        found = regions(self.evidence, mask) or [region_of(self.evidence, mask)]
        most = found[0].pixels.sum() > MOST_OF_IT * mask.sum()
        return self.where(found[:1] if most else found)

    @property
    def size(self) -> str:
        """How large the anomaly is; empty where unknown, and for what has more sizes than one."""
        diameter = self.facts.diameter_mm
        if diameter is None or self.facts.kind in PLURAL:
            return ""
        return SIZES[bisect_right(SIZE_LIMITS_MM, diameter)]

    def say(self, situation: str, words: Mapping[str, object] | None = None) -> str:
        """One of the sentences for a situation."""
        sentence = WORDINGS[situation][int(self.rng.integers(len(WORDINGS[situation])))]
        anomaly = CALLED.get(self.facts.kind, self.facts.kind) if self.is_head else ANOMALY
        verb = "are" if self.facts.kind in PLURAL else "is"
        return sentence.format_map(
            {"anomaly": anomaly, "size": self.size, "is": verb, **(words or {})}
        )


def question_answer_pairs(
    facts: SliceFacts, evidence: Evidence, rng: np.random.Generator
) -> list[Pair]:
    """(question, answer) of every question that can be answered truly, C1 first.

    All seven where the kind has an answer word; C1 alone for the unseen kinds; where the kind is
    unknown C1, and O1 and O3 if the mask is known. The rng chooses among wordings only.
    """
    case = _Case(facts, evidence, rng)
    return [(QUESTIONS[name].text, ANSWER[name](case)) for name in _askable(case)]


def _askable(case: _Case) -> Sequence[str]:
    kind, mask = case.facts.kind, case.evidence.mask
    if kind in UNSEEN_TYPES or mask is None or (case.facts.abnormal and not mask.any()):
        return ("C1",)
    return tuple(QUESTIONS) if kind in KINDS else ("C1", "O1", "O3")


def _normal(case: _Case) -> str:
    normal = ANSWERS["C1"][NORMAL["C1"]]
    return ANSWERS["C1"][1 - NORMAL["C1"]] if case.facts.abnormal else normal


def _condition(case: _Case) -> str:
    return ANSWERS["C2"][KINDS.index(case.facts.kind)]


def _severity(case: _Case) -> str:
    """By RELEVANCE."""
    if not case.facts.abnormal:
        return ANSWERS["C3"][NOT_APPLICABLE]
    grade = SEVERITIES.index(case.facts.severity)
    return ANSWERS["C3"][RELEVANCE[case.facts.kind][grade]]


def _false_positives(case: _Case) -> str:
    """Whether healthy places are marked, and which."""
    places = case.where(false_positives(case.evidence))
    return case.say("false positives" if places else "no false positives", {"places": places})


def _restoration(case: _Case) -> str:
    """Whether the reconstruction is free of the anomaly and otherwise like the picture."""
    blurred = ", blurred" if sharpness(case.evidence) < BLURRED else ""
    if not case.facts.abnormal:
        altered = alteration(case.evidence) > ALTERED
        return case.say("altered" if altered else f"faithful{blurred}")
    left = remaining(case.evidence)
    if left < REMOVED:
        return case.say(f"removed{blurred}")
    return case.say("weakened" if left < WEAKENED else "kept", {"place": case.lesion_place})


def _accuracy(case: _Case) -> str:
    """Whether the map marks the disease: all of it, a part, or not."""
    if not case.facts.abnormal:
        return case.say("nothing to mark")
    share, (marked, count) = coverage(case.evidence), foci(case.evidence)
    words = {"place": case.lesion_place, "marked": marked, "count": count}
    if share < PARTLY and not marked:
        return case.say("not marked", words)
    if case.facts.kind == "lesions" and marked < count:
        return case.say("some marked", words)
    return case.say("marked" if share >= FULLY else "partly marked", words)


def _explanation(case: _Case) -> str:
    """Why the largest healthy mark is there, from what lies under it."""
    found = false_positives(case.evidence)
    if not found:
        return case.say("nothing to explain")
    region, reason = found[0], case.zone(found[0])
    if reason == "centre":
        reason = _ventricles(case, region)
    return case.say(reason, {"place": case.where([region])})


def _ventricles(case: _Case, region: Region) -> str:
    """`wide ventricles` or `narrow ventricles` where a mark lies on fluid, else `tissue`."""
    sign = FLUID_SIGN.get(case.facts.contrast, 0)
    above = sign * (typical(case.evidence, region.pixels) - 1)
    restored = sign * (typical(case.evidence, region.pixels, of_reconstruction=True) - 1)
    if max(above, restored) < FLUID_LEVEL:
        return "tissue"
    return "wide ventricles" if above > restored else "narrow ventricles"


ANSWER: Mapping[str, Callable[[_Case], str]] = MappingProxyType(
    {
        "C1": _normal,
        "C2": _condition,
        "C3": _severity,
        "O1": _false_positives,
        "O2": _restoration,
        "O3": _accuracy,
        "O4": _explanation,
    }
)
"""Question -> how its answer is found."""
