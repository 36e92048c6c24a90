"""Which labelled images teach: few-shot supports and leave-one-out training sets. Loads no torch.

Source: MVFA and IQE-CLIP, spec mvfa section 9; the lists are MVFA-AD's `dataset/fewshot_seed`.
"""

from __future__ import annotations

import logging
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

from scanomaly.config.data import SUPPORTS, DataConfig
from scanomaly.data.bmad import BMAD_SETS, canonical_name
from scanomaly.data.manifest import Manifest
from scanomaly.data.rows import Row, Split
from scanomaly.errors import DataError

logger = logging.getLogger(__name__)

SIBLINGS: tuple[frozenset[str], ...] = (frozenset({"Retina_RESC", "Retina_OCT2017"}),)
"""Sets of one modality: trained on one, the other is no unseen modality."""

_LISTS = "fewshot"
_CLASSES = {"n-0": "normal", "a-0": "abnormal"}
"""Line of a published list -> its class; 0 is the repetition, of which there is one."""


@dataclass(frozen=True, slots=True)
class SupportList:
    """A published few-shot list: K file names of each class."""

    name: str
    normal: tuple[str, ...]
    abnormal: tuple[str, ...]


def support_list(dataset: str, shots: int) -> SupportList:
    """The published list of a BMAD set. Raises DataError, naming the lists that there are."""
    canonical = canonical_name(dataset)
    draw = "or draw a support with data.support=seed:0"
    if canonical is None:
        raise DataError(
            f"{dataset}: there is no published few-shot list of this data set (there are for "
            f"{', '.join(BMAD_SETS)}); name the set with --dataset, {draw}."
        )
    folder = files("scanomaly.data") / _LISTS / canonical
    file = folder / f"{shots}-shot.txt"
    if not file.is_file():
        known = sorted(int(f.name.split("-")[0]) for f in folder.iterdir())
        raise DataError(
            f"{canonical}: expected data.shots to be one of {', '.join(map(str, known))}, which "
            f"were published, got {shots}; change it, {draw}."
        )
    lines = (line.partition(":") for line in file.read_text(encoding="utf-8").splitlines())
    names = {_CLASSES[key]: tuple(listed.split()) for key, _, listed in lines}
    return SupportList(f"published {shots}-shot list of {canonical}", **names)


def few_shot(manifest: Manifest, shots: int, support: str = "published") -> Manifest:
    """`shots` normal and as many abnormal images.

    support: `published`, found by file name in the valid split; `seed:7`, drawn from the valid
    split, no patient twice while there are others; `test:7`, normal images drawn from train and
    abnormal ones from test. Raises DataError when there are too few images, a listed one is
    missing, or an abnormal one of a set with masks has none, and for another kind of support.
    """
    if not re.fullmatch(SUPPORTS, support):
        raise DataError(f"expected published, seed:NUMBER or test:NUMBER, got '{support}'.")
    kind, _, seed = support.partition(":")
    rows = _SUPPORTS[kind](manifest, shots, int(seed or 0))
    return replace(
        manifest,
        rows=tuple(sorted(rows, key=lambda row: row.id)),
        source=f"{manifest.source}; {shots}-shot support ({support})",
        label_only=_label_only(manifest, rows),
    )


def images_to_score(manifest: Manifest, data: DataConfig) -> Manifest:
    """The test split without the images that `few_shot` took from it (support `test:7`)."""
    test = manifest.split("test")
    if data.shots is None or not data.support.startswith("test:"):
        return test
    taken = {row.id for row in few_shot(manifest, data.shots, data.support)}
    return replace(test, rows=tuple(row for row in test if row.id not in taken))


def _published(manifest: Manifest, shots: int, seed: int) -> list[Row]:
    listed = support_list(manifest.dataset, shots)
    normal, abnormal = _pools(manifest, "valid", "valid", shots)
    return [*_find(normal, listed.normal, listed), *_find(abnormal, listed.abnormal, listed)]


def _drawn_from_valid(manifest: Manifest, shots: int, seed: int) -> list[Row]:
    return _drawn(*_pools(manifest, "valid", "valid", shots), shots, seed)


def _drawn_from_test(manifest: Manifest, shots: int, seed: int) -> list[Row]:
    logger.warning("%s: %d abnormal test images teach and are not scored.", manifest.dataset, shots)
    return _drawn(*_pools(manifest, "train", "test", shots), shots, seed)


_SUPPORTS: Mapping[str, Callable[[Manifest, int, int], list[Row]]] = {
    "published": _published,
    "seed": _drawn_from_valid,
    "test": _drawn_from_test,
}


def _pools(
    manifest: Manifest, normal: Split, abnormal: Split, shots: int
) -> tuple[Manifest, Manifest]:
    """The normal and the abnormal images to choose from. Raises DataError for too few."""
    pools = manifest.split(normal).normals(), manifest.split(abnormal).abnormals()
    for words, split, pool in zip(("normal", "abnormal"), (normal, abnormal), pools, strict=True):
        if len(pool) >= shots:
            continue
        remedy = f"use data.shots={len(pool)} or smaller" if len(pool) else f"add some to {split}"
        if split == "valid" and not manifest.split("valid").rows:
            remedy += ", or draw from train and test with data.support=test:0"
        raise DataError(
            f"{manifest.dataset}: expected at least {shots} {words} images in {split} for "
            f"{shots}-shot training, found {len(pool)} ({manifest.source}); {remedy}."
        )
    return pools


def _find(pool: Manifest, names: Iterable[str], listed: SupportList) -> list[Row]:
    """The images of these file names; another format of the same stem is the same image."""
    by_name: dict[str, list[Row]] = defaultdict(list)
    by_stem: dict[str, list[Row]] = defaultdict(list)
    for row in pool:
        by_name[row.path.name].append(row)
        by_stem[row.path.stem.lower()].append(row)
    found = {name: by_name.get(name) or by_stem.get(_stem(name), []) for name in names}
    folders = ", ".join(sorted({str(row.path.parent) for row in pool})[:3])
    missing = [name for name, rows in found.items() if not rows]
    if missing:
        raise DataError(
            f"{listed.name}: {len(missing)} of its {len(found)} images are not among the "
            f"{len(pool)} in {folders}: {_some(missing)}; complete the folder, or draw a support "
            "with data.support=seed:0."
        )
    unclear = [name for name, rows in found.items() if len(rows) > 1]
    if unclear:
        raise DataError(
            f"{listed.name}: several images in {folders} could be {_some(unclear)}; keep one."
        )
    return [rows[0] for rows in found.values()]


def _stem(name: str) -> str:
    return name.rpartition(".")[0].lower()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if names[5:] else "")


def _drawn(normal: Manifest, abnormal: Manifest, shots: int, seed: int) -> list[Row]:
    """`shots` of each, in random order but patients not drawn yet first."""
    rng = random.Random(seed)
    drawn: list[Row] = []
    images: Counter[str] = Counter()
    for pool in (normal, abnormal):
        order = sorted(zip(pool.rows, pool.groups(), strict=True), key=lambda pair: pair[0].id)
        rng.shuffle(order)
        turns, seen = [], images.copy()
        for row, group in order:
            turns.append((seen[group], row, group))
            seen[group] += 1
        chosen = sorted(turns, key=lambda turn: turn[0])[:shots]
        images.update(group for _, _, group in chosen)
        drawn += [row for _, row, _ in chosen]
    if max(images.values()) > 1:
        logger.warning(
            "%s: the %d images of the support show %d patients; there are no more.",
            normal.dataset,
            len(drawn),
            len(images),
        )
    return drawn


def _label_only(manifest: Manifest, rows: Iterable[Row]) -> frozenset[str]:
    """The set's name when it has no masks at all. Raises DataError when only some are missing."""
    if not manifest.has_masks:
        return frozenset({manifest.dataset})
    missing = [row for row in rows if row.label and row.mask is None]
    if missing:
        raise DataError(
            f"{manifest.dataset}: expected a mask for each abnormal image that teaches, found none "
            f"for {len(missing)}: {_some([str(row.path) for row in missing])}; add them, or remove "
            "these images."
        )
    return frozenset()


def missing_masks(training: Manifest) -> list[str]:
    """A line for each label-only set of a training set that was published with masks."""
    known = [name for name in sorted(training.label_only) if name in BMAD_SETS]
    return [
        f"{name}: this set was published with masks and none was found: it taught labels only. "
        "Complete its label folders and fit again to learn where anomalies are."
        for name in known
        if BMAD_SETS[name].has_masks
    ]


def siblings_of(dataset: str) -> frozenset[str]:
    """The other sets of the same modality."""
    name = canonical_name(dataset)
    return frozenset().union(*(group - {name} for group in SIBLINGS if name in group))


def may_teach(dataset: str, target: str) -> bool:
    """Whether a set serves zero-shot training: BMAD's are taught by BMAD alone, as published."""
    return canonical_name(target) is None or canonical_name(dataset) is not None


def leave_one_out(
    manifests: Sequence[Manifest],
    target: str,
    *,
    folder: Split = "valid",
    exclude_siblings: bool = False,
) -> Manifest:
    """The labelled images in `folder` of every set that may teach `target`, not of itself.

    Each row keeps its data set.

    Ids and patients get their data set's name in front: the same number elsewhere is someone else.
    Raises DataError for an unknown target, no other set, a set with one class only in `folder`, and
    an abnormal image without its mask.
    """
    left_out = _pick(manifests, target)
    related = siblings_of(left_out.dataset)
    others = [m for m in manifests if m is not left_out]
    strangers = [m.dataset for m in others if not may_teach(m.dataset, left_out.dataset)]
    if strangers:
        logger.warning(
            "%s: sets of BMAD teach it, as published; %s are not among them and left out.",
            left_out.dataset,
            _some(strangers),
        )
    others = [m for m in others if may_teach(m.dataset, left_out.dataset)]
    if related and not exclude_siblings and any(m.dataset in related for m in others):
        logger.warning(
            "%s: %s has the same modality and is trained on, as published; leave it out with "
            "--exclude-siblings.",
            left_out.dataset,
            ", ".join(sorted(related)),
        )
    if exclude_siblings:
        others = [m for m in others if m.dataset not in related]
    if not others:
        raise DataError(
            f"zero-shot training learns from other data sets than {left_out.dataset} (BMAD's from "
            "BMAD's), and there are none; give a folder of several sets."
        )
    parts = [_labelled(manifest, folder) for manifest in others]
    names = ", ".join(part.dataset for part in parts)
    return Manifest(
        rows=tuple(sorted((row for part in parts for row in part), key=lambda row: row.id)),
        dataset=f"all but {left_out.dataset}",
        source=f"{folder} of {names}",
        label_only=frozenset().union(*(part.label_only for part in parts)),
    )


def _pick(manifests: Sequence[Manifest], target: str) -> Manifest:
    spellings = {target.lower(), target.lower().removesuffix("_ad"), canonical_name(target)}
    for manifest in manifests:
        name = manifest.dataset
        if spellings & {name.lower(), name.lower().removesuffix("_ad"), canonical_name(name) or ""}:
            return manifest
    found = ", ".join(manifest.dataset for manifest in manifests) or "none"
    raise DataError(f"data.target: expected one of the data sets ({found}), got '{target}'.")


def _labelled(manifest: Manifest, folder: Split) -> Manifest:
    """The labelled images of one split, ids and patients made unique across data sets."""
    part = manifest.split(folder)
    rows = [row for row in part if row.label is not None]
    normal, abnormal = len(part.normals()), len(part.abnormals())
    if not (normal and abnormal):
        raise DataError(
            f"{manifest.dataset}: expected normal and abnormal images in {folder}, found {normal} "
            f"and {abnormal} ({manifest.source}); complete it, train on another split with "
            "data.training_folder, or move the set elsewhere."
        )
    own = manifest.dataset
    return replace(
        manifest,
        rows=tuple(
            replace(
                row,
                id=f"{own}/{row.id}",
                patient=None if row.patient is None else f"{own}/{row.patient}",
                dataset=own,
            )
            for row in rows
        ),
        label_only=_label_only(manifest, rows),
    )


def validation_part(manifest: Manifest, share: float, seed: int) -> tuple[Manifest, Manifest]:
    """(trained on, held out): `share` of the patients of every data set, to choose a checkpoint.

    Patients with and without abnormal images are held out alike, so that the part has both classes.
    Raises DataError when nothing can be held out.
    """
    abnormal = {
        (row.dataset, group)
        for row, group in zip(manifest, manifest.groups(), strict=True)
        if row.label
    }
    strata: dict[tuple[str, bool], list[Row]] = defaultdict(list)
    for row, group in zip(manifest, manifest.groups(), strict=True):
        strata[row.dataset, (row.dataset, group) in abnormal].append(row)
    held: set[str] = set()
    for rows in strata.values():
        stratum = replace(manifest, rows=tuple(rows))
        if share > 0 and len(set(stratum.groups())) > 1:
            held.update(row.id for row in stratum.hold_out(share, seed)[1])
    if share > 0 and not held:
        raise DataError(
            f"{manifest.dataset}: expected two patients of a class to hold one out, found none in "
            f"{len(manifest)} images ({manifest.source}); add images, or keep the last epoch."
        )
    parts = (
        tuple(row for row in manifest if row.id not in held),
        tuple(row for row in manifest if row.id in held),
    )
    return replace(manifest, rows=parts[0]), replace(manifest, rows=parts[1])
