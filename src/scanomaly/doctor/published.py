"""What is published of the six BMAD sets: counts, sizes and peculiarities. Loads no torch.

Source: BMAD (arXiv 2306.11876), its first pre-processing scripts, and the papers of MVFA, IQE-CLIP
and QFAE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scanomaly.data.rows import Split


@dataclass(frozen=True, slots=True)
class Count:
    """Images of a split. normal, abnormal: None where only the total is published.

    also: other totals that papers print for the same files.
    """

    total: int
    normal: int | None = None
    abnormal: int | None = None
    also: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PublishedSet:
    """side: (height, width) in pixels, None where images differ. shared_patients: pairs of splits
    between which the benchmark itself does not keep patients apart.
    """

    counts: Mapping[Split, Count]
    size: tuple[int, int] | None
    peculiarities: tuple[str, ...]
    shared_patients: tuple[tuple[Split, Split], ...] = ()


def _both(normal: int, abnormal: int) -> Count:
    return Count(normal + abnormal, normal, abnormal)


PUBLISHED: Mapping[str, PublishedSet] = {
    "Brain": PublishedSet(
        {"train": _both(7500, 0), "valid": _both(39, 44), "test": _both(640, 3075)},
        (240, 240),
        (
            "images are RGB with the bluish tint of a 'bone' colour map, scaled slice by slice",
            "masks hold several grey levels that depend on the slice: everything above 0 is tumour",
            "the test set is 640 normal to 3,075 abnormal, not balanced as MVFA's text says",
        ),
    ),
    "Liver": PublishedSet(
        {
            "train": Count(1542, 1542, 0, also=(1452,)),
            "valid": _both(93, 73),
            "test": _both(833, 660),
        },
        (512, 512),
        (
            "training slices come from BTCV and the others from LiTS: two sources, told apart "
            "by more than lesions",
            "slices of one volume may be in valid and in test",
            "MVFA and IQE-CLIP print 1,452 training slices; there are 1,542",
        ),
        shared_patients=(("valid", "test"),),
    ),
    "Retina_RESC": PublishedSet(
        {"train": _both(4297, 0), "valid": _both(45, 70), "test": _both(1041, 764)},
        (512, 1024),
        ("images are twice as wide as high: a square input halves one axis",),
    ),
    "Retina_OCT2017": PublishedSet(
        {"train": _both(26315, 0), "valid": _both(8, 24), "test": _both(242, 726)},
        None,
        (
            "no masks",
            "files are JPEG in the original release: readers that look for PNG find none",
            "valid has 8 normal images: nothing chosen on it is reliable",
        ),
    ),
    "Chest": PublishedSet(
        {"train": Count(8000, 8000, 0), "valid": Count(1490), "test": Count(17194)},
        (1024, 1024),
        (
            "no masks",
            "at most 851 of 18,684 images in valid and test are normal: read average precision "
            "beside AUROC",
            "abnormal means lung opacity, or anything else that is not normal",
        ),
    ),
    "Histopathology": PublishedSet(
        {
            "train": Count(5088, 5088, 0),
            "valid": Count(236, also=(200, 222)),
            "test": Count(1997, also=(2000, 2034)),
        },
        (256, 256),
        (
            "no masks, and file names name no slide: leakage between splits cannot be seen",
            "papers print 1,997 or 2,000 test patches",
        ),
    ),
}
"""BMAD name -> what was published."""
