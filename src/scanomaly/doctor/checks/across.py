"""Several sets of one folder: the same set twice, shared pictures, one modality, sets missing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from scanomaly.data.bmad import BMAD_SETS
from scanomaly.data.splits import SIBLINGS
from scanomaly.doctor.findings import SHOWN_FILES, Examined, Finding

Digests = Mapping[str, Mapping[bytes, str]]
"""Set -> what its images hold -> one file that holds it."""

_MOST_OF_BMAD = 3
"""So many of the six sets make a folder of BMAD."""


def same_set_twice(sets: Sequence[Examined], digests: Digests) -> Iterator[Finding]:
    """Two folders of one data set."""
    places: dict[str, list[str]] = defaultdict(list)
    for examined in sets:
        places[examined.dataset].append(examined.root)
    for name, roots in places.items():
        if len(roots) > 1:
            yield Finding(
                "error",
                "set twice",
                f"{len(roots)} folders hold data set '{name}', which would count twice",
                "keep one of them in the folder.",
                tuple(roots[:SHOWN_FILES]),
            )


def shared_pictures(sets: Sequence[Examined], digests: Digests) -> Iterator[Finding]:
    """Pictures that are in two sets: zero-shot training would have seen its target."""
    for (first, mine), (second, theirs) in combinations(digests.items(), 2):
        shared = mine.keys() & theirs.keys()
        if shared:
            example = min(shared)
            yield Finding(
                "warning",
                "duplicate",
                f"{len(shared)} pictures are in {first} and in {second}",
                "a set that is left out must share nothing with the others: remove the copies.",
                (mine[example], theirs[example]),
            )


def siblings(sets: Sequence[Examined], digests: Digests) -> Iterator[Finding]:
    """Sets of one modality."""
    names = {examined.dataset for examined in sets}
    for group in SIBLINGS:
        if group <= names:
            yield Finding(
                "note",
                "one modality",
                f"{' and '.join(sorted(group))} show the same modality",
                "for an unseen modality in zero-shot, leave the other out: --exclude-siblings.",
            )


def missing_sets(sets: Sequence[Examined], digests: Digests) -> Iterator[Finding]:
    """BMAD without some of its six sets."""
    found = Counter(examined.dataset for examined in sets)
    missing = [name for name in BMAD_SETS if name not in found]
    if missing and len(BMAD_SETS) - len(missing) >= _MOST_OF_BMAD:
        yield Finding(
            "note",
            "missing set",
            f"of BMAD's sets {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not here",
            "zero-shot numbers that train on fewer sets are not comparable with the papers'.",
        )
