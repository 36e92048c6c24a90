"""Folders of whole heads: one to fit a detector on, one to ask questions about."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from scanomaly.data.phantom.dataset import (
    COLUMNS,
    MANIFEST,
    UNFINISHED,
    Progress,
    Row,
    claim,
    csv_text,
    write_png,
    write_slice,
    write_style,
)
from scanomaly.data.phantom.errors import PhantomError
from scanomaly.data.phantom.heads.kinds import HEAD_KINDS, SEEN, UNSEEN
from scanomaly.data.phantom.heads.simulate import (
    DETECTOR,
    QUESTIONS,
    Ailment,
    Head,
    draw_ailment,
    healthy_slice,
    make_head,
    showing,
    twin_slices,
)
from scanomaly.data.phantom.simulate import ALL_CONTRASTS
from scanomaly.data.phantom.styles.brain import BRAIN_COLUMNS, styled
from scanomaly.data.phantom.styles.style import SLICES, Style, StyledSlice
from scanomaly.files import write_bytes

POSITIONS = 12  # slices of a patient among which those to show are chosen
SLICES_SHOWN = 2  # of each patient
NORMAL_SHARE, UNSEEN_SHARE = 0.45, 0.10  # of the patients; the others have a kind seen in training
VALID_SHARE, TEST_SHARE = 0.1, 0.2  # of the patients without an unseen kind
FEWEST_PATIENTS = 20
HEALTHY = "healthy"  # column and folder of the same slice without its anomaly
WHICH_KIND = 4  # random stream of a subject


@dataclass(frozen=True)
class StyledHead:
    """A patient of the detector's set, whose ailment is drawn when first asked for."""

    head: Head

    @cached_property
    def ailment(self) -> Ailment:
        order = self.head.subject.rng(WHICH_KIND).permutation(list(HEAD_KINDS))
        return draw_ailment(self.head, [str(kind) for kind in order])


def _styled_head(
    seed: int,
    index: int,
    *,
    slices: int = SLICES,
    family: int = DETECTOR,
    contrasts: Sequence[str] = ALL_CONTRASTS,
) -> StyledHead:
    return StyledHead(make_head(family, seed, index, slices, contrasts))


def _healthy(head: StyledHead, index: int) -> StyledSlice:
    return styled(healthy_slice(head.head, index))


def _diseased(head: StyledHead, index: int) -> StyledSlice | None:
    twins = twin_slices(head.head, index, head.ailment.anomaly)
    return styled(twins.ill) if twins else None


def head_style(contrasts: Sequence[str] = ALL_CONTRASTS) -> Style[StyledHead]:
    """Brain MRI with skull and scalp, of any of HEAD_KINDS, as a style."""
    return Style(
        name="Head_MRI",
        title="Brain MRI with skull and scalp (simulated)",
        has_masks=True,
        columns=BRAIN_COLUMNS,
        subject=partial(_styled_head, contrasts=tuple(contrasts)),
        healthy=_healthy,
        diseased=_diseased,
    )


def write_heads(
    out: Path,
    *,
    patients: int,
    seed: int,
    contrasts: Sequence[str] = ALL_CONTRASTS,
    slices: int = SLICES,
    progress: Progress | None = None,
) -> Path:
    """Writes whole heads to fit a detector on, in the layout of write_style.

    Its patients are others than those of write_question_heads at any seed.
    """
    style = head_style(contrasts)
    return write_style(out, style, patients=patients, seed=seed, slices=slices, progress=progress)


@dataclass(frozen=True, slots=True)
class Place:
    """One patient's place in the set: the kind it has, or, when healthy, whose heights it takes."""

    index: int
    split: str
    kind: str
    ill: bool


def write_question_heads(
    out: Path,
    *,
    patients: int,
    seed: int,
    contrasts: Sequence[str] = ALL_CONTRASTS,
    slices: int = SLICES_SHOWN,
    progress: Progress | None = None,
) -> Path:
    """Writes whole heads to ask questions about and returns the path of the manifest.

    About 45 % of the patients are healthy, 45 % have one of the 8 kinds with an answer word, both
    divided 7:1:2 into train, valid and test; 10 % have one of the 6 unseen kinds, all in test.
    Healthy patients show the heights that a lesion drawn for them would show. Of an ill slice the
    column `healthy` names the same slice without the anomaly. Raises PhantomError (a ValueError)
    for too few patients or a folder that holds other data.
    """
    places = divide(patients)
    heads = [make_head(QUESTIONS, seed, place.index, POSITIONS, contrasts) for place in places]
    claim(out)
    rows: list[Row] = []
    for done, (place, head) in enumerate(zip(places, heads, strict=True), start=1):
        rows.extend(_write_patient(out, place, head, slices))
        if progress:
            progress(done, patients)
    columns = (*COLUMNS, *BRAIN_COLUMNS, HEALTHY)
    write_bytes(out / MANIFEST, csv_text(rows, columns).encode())
    (out / UNFINISHED).unlink()
    return out / MANIFEST


def _write_patient(out: Path, place: Place, head: Head, slices: int) -> Iterator[Row]:
    for twins in showing(head, draw_ailment(head, [place.kind]), slices):
        row = write_slice(out, place.split, styled(twins.ill if place.ill else twins.healthy))
        if place.ill:
            row[HEALTHY] = f"{place.split}/Ungood/{HEALTHY}/{row['id']}.png"
            write_png(out / str(row[HEALTHY]), twins.healthy.image)
        yield row


def divide(patients: int) -> list[Place]:
    """Split and kind of each patient; patients are alike, so their order serves as the draw."""
    if patients < FEWEST_PATIENTS:
        raise PhantomError(
            f"A set for questions needs at least {FEWEST_PATIENTS} patients, so that every split "
            f"has healthy and diseased ones; got {patients}; ask for more patients."
        )
    unseen = round(UNSEEN_SHARE * patients)
    normal = round(NORMAL_SHARE * patients)
    groups = (
        (normal, tuple(SEEN), False),
        (patients - normal - unseen, tuple(SEEN), True),
    )
    drawn = [
        (split, kinds[number % len(kinds)], ill)
        for count, kinds, ill in groups
        for number, split in enumerate(_splits(count))
    ]
    drawn += [("test", tuple(UNSEEN)[k % len(UNSEEN)], True) for k in range(unseen)]
    return [Place(index, *what) for index, what in enumerate(drawn)]


def _splits(count: int) -> list[str]:
    """The splits of a group of patients, in blocks."""
    valid, test = max(1, round(VALID_SHARE * count)), max(1, round(TEST_SHARE * count))
    return ["train"] * (count - valid - test) + ["valid"] * valid + ["test"] * test
