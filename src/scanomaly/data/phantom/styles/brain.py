"""Brain MRI: the simulated patients on MNI152 anatomy, as a style."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial

from scanomaly.data.phantom.imaging import Lesion
from scanomaly.data.phantom.lesions import Model
from scanomaly.data.phantom.simulate import (
    ALL_CONTRASTS,
    DATA_SET,
    PhantomSlice,
    Subject,
    draw_lesion,
    make_subject,
)
from scanomaly.data.phantom.simulate import diseased_slice as with_lesion
from scanomaly.data.phantom.simulate import healthy_slice as without_lesion
from scanomaly.data.phantom.styles.style import SLICES, Cell, Style, StyledSlice

LEVELS = (
    (8.0, "midbrain and temporal lobes"),
    (24.0, "basal ganglia"),
    (40.0, "bodies of the lateral ventricles"),
    (99.0, "centrum semiovale"),
)
"""Below which MNI z (mm) a slice shows what."""

BRAIN_COLUMNS = (
    *("contrast", "height_mm"),
    *("kind", "side", "lobe", "diameter_mm", "lesion_contrast", "severity"),
)


@dataclass(frozen=True)
class Head:
    """A patient whose lesion is drawn once, when first asked for."""

    subject: Subject

    @cached_property
    def lesion(self) -> Model:
        return draw_lesion(self.subject)


def styled(slice_: PhantomSlice) -> StyledSlice:
    """A slice with the words and columns that go with it."""
    level = next(words for height, words in LEVELS if slice_.height_mm < height)
    return StyledSlice(
        patient=slice_.patient,
        index=slice_.index,
        image=slice_.image,
        mask=slice_.mask,
        facts={
            "modality": "brain MRI",
            "contrast": slice_.contrast,
            "plane": "axial",
            "level": level,
            "anatomy": "brain",
        },
        cells={"contrast": slice_.contrast, "height_mm": slice_.height_mm},
        finding=_cells(slice_.lesion) if slice_.lesion else {},
    )


def _cells(lesion: Lesion) -> dict[str, Cell]:
    cells: dict[str, Cell] = asdict(lesion)
    cells["lesion_contrast"] = cells.pop("contrast")
    return cells


def healthy_slice(head: Head, index: int) -> StyledSlice:
    """One slice without a lesion."""
    return styled(without_lesion(head.subject, index))


def diseased_slice(head: Head, index: int) -> StyledSlice | None:
    """The same slice with the patient's lesion; None where it does not show."""
    found = with_lesion(head.subject, index, head.lesion)
    return styled(found) if found else None


def make_head(
    seed: int,
    index: int,
    *,
    slices: int = SLICES,
    family: int = DATA_SET,
    contrasts: Sequence[str] = ALL_CONTRASTS,
) -> Head:
    """Draws one patient; PhantomError (a ValueError) for unknown contrasts."""
    return Head(make_subject(family, seed, index, slices, contrasts))


def brain_style(contrasts: Sequence[str] = ALL_CONTRASTS) -> Style[Head]:
    """The style with these MR contrasts only."""
    return Style(
        name="Brain_MRI",
        title="Brain MRI with lesions (simulated)",
        has_masks=True,
        columns=BRAIN_COLUMNS,
        subject=partial(make_head, contrasts=tuple(contrasts)),
        healthy=healthy_slice,
        diseased=diseased_slice,
    )


BRAIN = brain_style()
