"""What a style of simulated images is, and the random streams of one simulated patient.

S image side.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar
from zlib import crc32

import numpy as np

from scanomaly.data.phantom.fields import BoolArray, ImageArray
from scanomaly.data.phantom.simulate import ANATOMY, DATA_SET, LESION, NOISE, check_numbers

SLICES = 8  # of each patient

Cell = str | int | float
SubjectT = TypeVar("SubjectT")
Made = TypeVar("Made", covariant=True)


@dataclass(frozen=True, slots=True)
class StyledSlice:
    """One simulated image. image: uint8 (S, S) or (S, S, 3); mask: bool (S, S), what is abnormal.

    facts: true of the healthy image as well: modality, contrast, plane, level, anatomy.
    cells: further columns of the manifest. finding: columns about the anomaly; empty when healthy.
    """

    patient: str
    index: int
    image: ImageArray
    mask: BoolArray
    facts: Mapping[str, str]
    cells: Mapping[str, Cell] = field(default_factory=dict)
    finding: Mapping[str, Cell] = field(default_factory=dict)


class MakeSubject(Protocol[Made]):
    """Draws one simulated patient; family separates data sets from pre-training."""

    def __call__(
        self, seed: int, index: int, *, slices: int = SLICES, family: int = DATA_SET
    ) -> Made: ...


@dataclass(frozen=True, slots=True)
class Style(Generic[SubjectT]):
    """One kind of images, healthy and diseased.

    name: folder of the data set, which read as words says what the images show. has_masks: whether
    masks are written. columns: of the manifest, after the common ones. healthy and diseased give
    the same patient, scanner and noise; diseased gives None where a lesion does not show.
    """

    name: str
    title: str
    has_masks: bool
    columns: tuple[str, ...]
    subject: MakeSubject[SubjectT]
    healthy: Callable[[SubjectT, int], StyledSlice]
    diseased: Callable[[SubjectT, int], StyledSlice | None]

    def matched(
        self, subject: SubjectT, places: Iterable[int], *, diseased: bool
    ) -> Iterator[StyledSlice]:
        """Of the slices at these places those that show the lesion; of a healthy one, that would.

        So healthy and diseased test slices have like heights and like numbers for each patient.
        """
        for index in places:
            shown = self.diseased(subject, index)
            if shown:
                yield shown if diseased else self.healthy(subject, index)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a procedural patient is: its name and the seed of each of its random streams."""

    name: str
    slices: int
    key: tuple[int, ...]

    def anatomy(self, part: int = 0) -> np.random.Generator:
        """What does not change between the slices of a patient; parts are independent."""
        return np.random.default_rng([*self.key, ANATOMY, part])

    def noise(self, index: int) -> np.random.Generator:
        """What differs between slices, alike in health and disease."""
        return np.random.default_rng([*self.key, NOISE, index])

    def lesion(self, *index: int) -> np.random.Generator:
        """The anomaly: of the patient without an index, of one slice with it."""
        return np.random.default_rng([*self.key, LESION, *index])

    def position(self, index: int) -> float:
        """Place of a slice between the first (0) and the last (1) of the patient."""
        if not 0 <= index < self.slices:
            raise IndexError(f"{self.name} has slices 0 to {self.slices - 1}; got {index}.")
        return (index + 0.5) / self.slices


def identify(style: str, seed: int, index: int, slices: int, family: int) -> Identity:
    """PhantomError (a ValueError) for numbers that cannot be."""
    check_numbers(seed, index, slices)
    key = (crc32(style.encode()), family, seed, index)
    return Identity(f"phantom-{style}-{index:04d}", slices, key)
