"""Sets of BMAD against what was published of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from scanomaly.data.bmad import BMAD_SETS
from scanomaly.data.phantom.dataset import MANIFEST as PHANTOM
from scanomaly.data.rows import SPLITS
from scanomaly.data.splits import support_list
from scanomaly.doctor.findings import Finding
from scanomaly.doctor.published import PUBLISHED, Count, PublishedSet
from scanomaly.doctor.survey import Survey

_LONGEST_LIST = 16
"""Shots of the published few-shot lists that need the most images."""


def _known(survey: Survey) -> PublishedSet | None:
    """What is published of this set; None for other sets, and for phantoms of the same name."""
    source, manifest = survey.source, survey.manifest
    divided = any(row.split is not None for row in manifest)
    simulated = manifest.source.endswith(PHANTOM)
    if source.refusal or simulated or not divided:
        return None
    return PUBLISHED.get(manifest.dataset)


def counts(survey: Survey) -> Iterator[Finding]:
    """Images of each split against the published number."""
    known = _known(survey)
    if known is None:
        return
    found = survey.manifest.counts()
    for split in SPLITS:
        normal, abnormal = found.get(split, (0, 0))
        published = known.counts[split]
        if _agrees(published, normal, abnormal):
            continue
        absent = split == "train" and normal + abnormal == 0
        expected = f"{published.total:,}" + (
            f" ({published.normal:,} normal, {published.abnormal:,} abnormal)"
            if published.normal is not None
            else ""
        )
        yield Finding(
            "note" if absent else "warning",
            "published counts",
            f"{split} of {survey.manifest.dataset}: {expected} published, found "
            f"{normal + abnormal:,} ({normal:,} normal, {abnormal:,} abnormal)",
            "MVFA's archives come without train; BMAD's have it."
            if absent
            else "unpack the archive again, or say in your report that the set is another one.",
        )


def _agrees(published: Count, normal: int, abnormal: int) -> bool:
    total = normal + abnormal
    if total in published.also:
        return True
    if published.normal is None:
        return total == published.total
    return (normal, abnormal) == (published.normal, published.abnormal)


def size(survey: Survey) -> Iterator[Finding]:
    """The usual size of the images against the published one."""
    known = _known(survey)
    sizes = Counter((f.height, f.width) for _, f in survey.images())
    if known is None or known.size is None or not sizes:
        return
    (usual, count), published = sizes.most_common(1)[0], known.size
    if usual != published:
        yield Finding(
            "warning",
            "published size",
            f"{count} images of {survey.manifest.dataset} are {usual[0]}x{usual[1]}; "
            f"{published[0]}x{published[1]} was published",
            "this copy was resized or cropped: results are not comparable with the papers'.",
        )


def few_shot_lists(survey: Survey) -> Iterator[Finding]:
    """Images of the published few-shot lists that valid lacks."""
    rows = survey.manifest.split("valid").rows
    if _known(survey) is None or not rows:
        return
    listed = support_list(survey.manifest.dataset, _LONGEST_LIST)
    stems = {row.path.stem.lower() for row in rows}
    names = (*listed.normal, *listed.abnormal)
    missing = [name for name in names if name.rpartition(".")[0].lower() not in stems]
    if missing:
        yield Finding(
            "warning",
            "few-shot lists",
            f"valid lacks {len(missing)} of the {len(names)} images of the {listed.name}",
            "complete valid, or draw supports with --set data.support=seed:0.",
            tuple(missing[:3]),
        )


def peculiarities(survey: Survey) -> Iterator[Finding]:
    """What is known to be odd about a published set."""
    known = _known(survey)
    if known is not None:
        yield Finding(
            "note",
            "known of this set",
            f"{BMAD_SETS[survey.manifest.dataset].title}: {'; '.join(known.peculiarities)}",
            "keep it in mind.",
        )
