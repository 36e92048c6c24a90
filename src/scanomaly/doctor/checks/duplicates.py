"""The same picture twice: to the last pixel, or the same to the eye, across splits and labels.

N images, S side of a thumbnail, F low frequencies
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from scanomaly.data.rows import Row
from scanomaly.doctor.facts import Facts
from scanomaly.doctor.findings import Finding
from scanomaly.doctor.survey import Survey

ALIKE = 0.995
"""Correlation of two thumbnails of one picture: JPEG, noise, half the size, other contrast or gamma
leave 0.995 to 1; slices of different patients of the phantoms reach 0.98, neighbouring slices of
one patient 0.994."""
FREQUENCIES = 8
"""The lowest 8 x 8 frequencies say of most pairs that they are not alike."""
_AT_ONCE = 2048
"""Images compared with as many others at a time: 16 MiB a table."""

Floats = NDArray[np.float32]
_EXACT, _NEAR = "duplicate", "near duplicate"


def exact(survey: Survey) -> Iterator[Finding]:
    """Images with the same pixels, whatever their file format."""
    same: dict[bytes, list[Row]] = defaultdict(list)
    for row, facts in survey.images():
        if not facts.is_constant:
            same[facts.digest].append(row)
    groups = [rows for rows in same.values() if len(rows) > 1]
    contradicting, crossing, others = [], [], []
    for rows in groups:
        if two_labels := len({row.label for row in rows} - {None}) > 1:
            contradicting.append(rows)
        if two_splits := len({row.split for row in rows} - {None}) > 1:
            crossing.append(rows)
        if not (two_labels or two_splits):
            others.append(rows)
    if contradicting:
        yield Finding(
            "error",
            _EXACT,
            f"{len(contradicting)} pictures are labelled normal and abnormal at once",
            "keep one copy of each, with the right label.",
            _first_pair(survey, contradicting),
        )
    if crossing:
        yield Finding(
            "error",
            _EXACT,
            f"{len(crossing)} pictures are in several splits ({_splits(crossing)})",
            "keep one copy of each; results are too good otherwise.",
            _first_pair(survey, crossing),
        )
    if others:
        yield Finding(
            "warning",
            _EXACT,
            f"{len(others)} pictures are there more than once within a split, "
            f"{sum(map(len, others))} files in all",
            "keep one copy of each; repeated ones weigh more.",
            _first_pair(survey, others),
        )


def near(survey: Survey) -> Iterator[Finding]:
    """Pictures that differ by encoding, size, noise or contrast alone, across splits and labels.

    Neighbouring slices of one patient in one split are expected and left out.
    """
    pairs = _alike(survey.images())
    crossing = list({a.id: (a, b) for a, b in pairs if a.split != b.split}.values())
    if crossing:
        yield Finding(
            "warning",
            _NEAR,
            f"{len(crossing)} images look the same as one in another split ({_splits(crossing)})",
            "look at the pairs: copies, or slices of one patient, make results too good.",
            survey.some(row.path for row in crossing[0]),
        )
    contradicting = list({a.id: (a, b) for a, b in pairs if a.split == b.split}.values())
    if contradicting:
        yield Finding(
            "warning",
            _NEAR,
            f"{len(contradicting)} images look the same as one of the other label",
            "look at the pairs: one of the labels may be wrong, or the lesion very small.",
            survey.some(row.path for row in contradicting[0]),
        )


def _first_pair(survey: Survey, groups: Sequence[Sequence[Row]]) -> tuple[str, ...]:
    return survey.some(row.path for row in groups[0])


def _splits(groups: Sequence[Sequence[Row]]) -> str:
    """Which splits share, most often, in words."""
    shared: dict[str, int] = defaultdict(int)
    for rows in groups:
        shared[" and ".join(sorted({row.split or "no split" for row in rows}))] += 1
    return ", ".join(f"{count} {words}" for words, count in sorted(shared.items()))


@dataclass(frozen=True, slots=True)
class _Group:
    """Images of one split and label. vectors: (N, S * S) of mean 0 and length 1, low frequencies
    first, so that `vectors[:, :F]` is what they have in common with a blurred copy.
    patients: (N,) codes, below 0 and all different where unknown.
    """

    rows: Sequence[Row]
    digests: Sequence[bytes]
    vectors: Floats
    patients: NDArray[np.int64]


def _alike(images: Sequence[tuple[Row, Facts]]) -> list[tuple[Row, Row]]:
    """For each image the closest one of another split or label, where it looks the same."""
    shown = [(row, facts) for row, facts in images if facts.thumbnail is not None]
    groups = _groups(shown)
    pairs = []
    for first, second in combinations(groups, 2):
        apart = first.rows[0].split == second.rows[0].split
        for i, j in _closest(first, second, other_patients=apart):
            if first.digests[i] != second.digests[j]:  # `exact` has told of the others
                pairs.append((first.rows[i], second.rows[j]))
    return pairs


def _groups(images: Sequence[tuple[Row, Facts]]) -> list[_Group]:
    parts: dict[tuple[str | None, bool | None], list[tuple[Row, Facts]]] = defaultdict(list)
    for row, facts in images:
        parts[row.split, row.label].append((row, facts))
    codes: dict[str, int] = {}
    groups = []
    for members in parts.values():
        rows = [row for row, _ in members]
        patients = [
            -1 - place if row.patient is None else codes.setdefault(row.patient, len(codes))
            for place, row in enumerate(rows)
        ]
        facts_of = [facts for _, facts in members]
        digests = [facts.digest for facts in facts_of]
        groups.append(_Group(rows, digests, _vectors(facts_of), np.array(patients)))
    return groups


def _vectors(facts: Sequence[Facts]) -> Floats:
    """(N, S * S): cosine transform of the thumbnails, length 1, mean left out, low ones first."""
    from scipy.fft import dctn

    parts = []
    for at in range(0, len(facts), _AT_ONCE):
        some = facts[at : at + _AT_ONCE]
        pictures = np.stack([f.thumbnail for f in some if f.thumbnail is not None])
        waves = dctn(pictures.astype(np.float32), axes=(1, 2), norm="ortho")
        waves[:, 0, 0] = 0
        flat = waves.reshape(len(waves), -1)[:, _order(waves.shape[1])]
        parts.append(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9))
    return np.concatenate(parts)


def _order(side: int) -> NDArray[np.int64]:
    """Places of the flattened frequencies: the low F x F first."""
    low = np.zeros((side, side), dtype=bool)
    low[:FREQUENCIES, :FREQUENCIES] = True
    return np.argsort(~low.reshape(-1), kind="stable")


def _closest(first: _Group, second: _Group, *, other_patients: bool) -> Iterator[tuple[int, int]]:
    """(index in first, index in second) of pictures that look the same, one for each of `first`.

    Two pictures of correlation r are 2 - 2 r apart, squared, and no closer in some frequencies than
    in all: what is further apart in the low ones cannot be alike.
    """
    kept = FREQUENCIES**2
    for start in range(0, len(first.rows), _AT_ONCE):
        mine = slice(start, start + _AT_ONCE)
        for other in range(0, len(second.rows), _AT_ONCE):
            theirs = slice(other, other + _AT_ONCE)
            a, b = first.vectors[mine], second.vectors[theirs]
            apart = _apart(a[:, :kept], b[:, :kept])
            if other_patients:
                same = first.patients[mine, None] == second.patients[None, theirs]
                apart[same & (first.patients[mine, None] >= 0)] = np.inf
            best = apart.argmin(axis=1)
            rows = np.flatnonzero(apart[np.arange(len(a)), best] <= 2 - 2 * ALIKE)
            alike = np.einsum("nd,nd->n", a[rows], b[best[rows]]) >= ALIKE
            yield from ((start + int(i), other + int(best[i])) for i in rows[alike])


def _apart(a: Floats, b: Floats) -> Floats:
    """Squared distances (n, m) of vectors (n, F * F) and (m, F * F)."""
    apart = -2 * (a @ b.T)
    apart += np.einsum("nd,nd->n", a, a)[:, None]
    apart += np.einsum("md,md->m", b, b)[None, :]
    return apart
