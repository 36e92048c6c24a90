"""Whole heads: each kind is where and what it should be, no shortcut, complete folders."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

pytest.importorskip("nilearn")

from scanomaly.data.manifest import read_manifest
from scanomaly.data.phantom import (
    SIDE,
    PhantomError,
    healthy_slices,
    write_heads,
    write_question_heads,
)
from scanomaly.data.phantom.dataset import MANIFEST
from scanomaly.data.phantom.heads import HEAD_KINDS, SEEN, UNSEEN
from scanomaly.data.phantom.heads.dataset import HEALTHY, divide
from scanomaly.data.phantom.heads.imaging import HeadField
from scanomaly.data.phantom.heads.simulate import (
    DETECTOR,
    QUESTIONS,
    Twins,
    draw_ailment,
    healthy_slice,
    make_head,
    showing,
)
from scanomaly.data.phantom.heads.skull import outlines
from scanomaly.data.phantom.imaging import diameter_of
from scanomaly.data.phantom.lesions import DIAMETER_RANGE
from scanomaly.data.phantom.questions import KINDS, SliceFacts
from scanomaly.questions import UNSEEN_TYPES

SEED, POSITIONS = 5, 12
DISPLACING = (
    *("mass lesion", "edema", "posttreatment change", "encephalomalacia"),
    "enlarged ventricles",
)
OUTSIDE = ("craniotomy", "dural thickening", "sinus opacification")
ON_SKULL = (*OUTSIDE, "posttreatment change", "resection", "artefacts")


@dataclass(frozen=True)
class Case:
    """One kind in one head. change: ill minus healthy, in grey levels."""

    kind: str
    contrast: str
    twins: Twins
    field: HeadField

    @property
    def mask(self) -> np.ndarray:
        return self.twins.ill.mask

    @property
    def change(self) -> np.ndarray:
        return self.twins.ill.image.astype(float) - self.twins.healthy.image

    def at(self, values: np.ndarray) -> np.ndarray:
        """Values (S * S,) in the mask."""
        return values[self.mask.ravel()]

    @property
    def points(self) -> np.ndarray:
        return self.at(self.field.points)

    @property
    def outside_brain(self) -> float:
        """Share of the mask that is outside the brain's hull."""
        return float((outlines().sample(self.points)[:, 0] > 0).mean())

    @property
    def to_ventricles(self) -> np.ndarray:
        """Distance in mm of the mask's brain pixels from this patient's lateral ventricles."""
        inside = self.mask.ravel()[self.field.brain.pixels]
        growth = max(self.field.patient.ventricle_growth, 0)
        return self.field.brain.shape[inside, 0] - growth

    @property
    def parts(self) -> int:
        return int(ndimage.label(self.mask, np.ones((3, 3)))[1])


def make(kind: str, contrast: str, number: int = 0) -> Case:
    index = list(HEAD_KINDS).index(kind) + 100 * number
    head = make_head(QUESTIONS, SEED, index, POSITIONS, (contrast,))
    twins = showing(head, draw_ailment(head, [kind]), 1)[0]
    return Case(kind, contrast, twins, head.field(twins.ill.index))


@pytest.fixture(scope="module")
def cases() -> dict[str, list[Case]]:
    """Every kind in T1 and FLAIR."""
    return {kind: [make(kind, c) for c in ("T1", "FLAIR")] for kind in HEAD_KINDS}


class TestEveryKind:
    @pytest.mark.parametrize("kind", HEAD_KINDS)
    def test_mask_and_measures(self, kind: str, cases: dict[str, list[Case]]) -> None:
        for case in cases[kind]:
            ill, healthy = case.twins.ill, case.twins.healthy
            assert ill.image.shape == ill.mask.shape == (SIDE, SIDE)
            assert ill.lesion
            assert ill.lesion.kind == kind
            assert ill.lesion.diameter_mm == pytest.approx(
                diameter_of(ill.mask, case.field.patient.pixel_mm), abs=0.01
            )
            assert DIAMETER_RANGE[0] <= ill.lesion.diameter_mm <= DIAMETER_RANGE[1]
            assert healthy.lesion is None
            assert not healthy.mask.any()
            noise = 255 * case.field.patient.appearance.noise
            assert np.abs(case.change[ill.mask]).mean() > max(6, noise)  # it can be seen

    @pytest.mark.parametrize("kind", HEAD_KINDS)
    def test_lies_where_it_should(self, kind: str, cases: dict[str, list[Case]]) -> None:
        for case in cases[kind]:
            assert WHERE.get(kind, in_brain)(case), case.contrast

    @pytest.mark.parametrize("kind", [kind for kind in HEAD_KINDS if kind not in DISPLACING])
    def test_nothing_changes_away_from_the_mask(
        self, kind: str, cases: dict[str, list[Case]]
    ) -> None:
        for case in cases[kind]:
            away = ~ndimage.binary_dilation(case.mask, iterations=14)
            changed = (case.change != 0) & away
            # spots of white matter lesions too small for the mask, and an artefact's edge
            assert changed.mean() < (0.02 if kind in ("white matter lesion", "artefacts") else 1e-4)

    @pytest.mark.parametrize("kind", [kind for kind in HEAD_KINDS if kind not in ON_SKULL])
    def test_lesions_of_the_brain_leave_the_skull_alone(
        self, kind: str, cases: dict[str, list[Case]]
    ) -> None:
        for case in cases[kind]:
            inner = outlines().sample(case.field.points)[:, 0].reshape(SIDE, SIDE)
            assert not case.change[inner > 4].any()

    def test_same_seed_same_bits(self) -> None:
        first, again = (make("lesions", "T2").twins for _ in range(2))
        assert np.array_equal(first.ill.image, again.ill.image)
        assert np.array_equal(first.ill.mask, again.ill.mask)

    def test_the_twin_is_the_healthy_slice(self) -> None:
        twins = make("resection", "T2").twins
        index = list(HEAD_KINDS).index("resection")
        head = make_head(QUESTIONS, SEED, index, POSITIONS, ("T2",))
        assert np.array_equal(twins.healthy.image, healthy_slice(head, twins.ill.index).image)


def in_brain(case: Case) -> bool:
    return case.outside_brain < 0.02


def near_surface(case: Case) -> bool:
    """Mostly in the brain, and with something in the bone above it."""
    return 0 < case.outside_brain < 0.5


def on_brain_and_beyond(case: Case) -> bool:
    """In one piece, with a good part of it on the brain: artefacts end at no border."""
    return case.parts == 1 and case.outside_brain < 0.7


WHERE = {
    "craniotomy": lambda case: case.outside_brain > 0.6,
    "dural thickening": lambda case: outlines().sample(case.points)[:, 0].min() > -10,
    "sinus opacification": lambda case: case.outside_brain == 1 and case.points[:, 1].min() > 40,
    "artefacts": on_brain_and_beyond,
    "resection": near_surface,
    "posttreatment change": near_surface,
    "absent septum pellucidum": lambda case: np.abs(case.points[:, 0]).max() < 9,
    "intraventricular substance": lambda case: case.to_ventricles.max() < 4,
    "white matter lesion": lambda case: np.median(case.to_ventricles) < 14,
    "enlarged ventricles": lambda case: np.median(case.to_ventricles) < 9,
    "lesions": lambda case: in_brain(case) and case.to_ventricles.min() > 3,
}
"""Kind -> whether a case lies where such a thing lies; elsewhere: in the brain."""


class TestKindsCanBeTold:
    def test_lesions_and_white_matter_lesions_do_not_look_the_same(
        self, cases: dict[str, list[Case]]
    ) -> None:
        for nodules, patches in zip(cases["lesions"], cases["white matter lesion"], strict=True):
            assert nodules.to_ventricles.mean() > patches.to_ventricles.mean() + 8
            assert nodules.parts >= 2
        nodules, patches = cases["lesions"][0], cases["white matter lesion"][0]  # T1
        rim = nodules.mask & ~ndimage.binary_erosion(nodules.mask)
        assert nodules.change[rim].mean() > 0 > patches.change[patches.mask].mean()

    def test_a_cavity_is_empty_and_edema_is_not(self, cases: dict[str, list[Case]]) -> None:
        for kind, near in (("resection", True), ("edema", False)):
            for case in cases[kind]:
                inside = ndimage.binary_erosion(case.mask, iterations=3)
                inside &= outlines().sample(case.field.points)[:, 0].reshape(SIDE, SIDE) < -4
                level = case.twins.ill.image[inside].mean() / 255
                fluid = case.field.patient.appearance.tissues.csf
                assert (abs(level - fluid) < 0.09) == near

    def test_lesions_are_many_and_a_mass_is_one(self, cases: dict[str, list[Case]]) -> None:
        for many, one in zip(cases["lesions"], cases["mass lesion"], strict=True):
            mm2 = many.field.patient.pixel_mm**2
            assert many.parts > one.parts
            assert one.mask.sum() * mm2 > 100

    def test_craniotomy_spares_the_brain_and_resection_does_not(
        self, cases: dict[str, list[Case]]
    ) -> None:
        for flap, cavity in zip(cases["craniotomy"], cases["resection"], strict=True):
            for case, is_hurt in ((flap, False), (cavity, True)):
                inner = outlines().sample(case.field.points)[:, 0].reshape(SIDE, SIDE)
                hurt = (np.abs(case.change) > 25) & (inner < -7)
                assert (hurt.sum() > 20) == is_hurt

    def test_enlarged_ventricles_gain_fluid_on_both_sides(
        self, cases: dict[str, list[Case]]
    ) -> None:
        for case in cases["enlarged ventricles"]:
            right = case.points[:, 0] > 0
            assert 0.2 < right.mean() < 0.8
            assert case.change[case.mask].mean() < -20  # dark in T1 and FLAIR

    def test_an_opaque_sinus_is_bright_where_air_was(self, cases: dict[str, list[Case]]) -> None:
        for case in cases["sinus opacification"]:
            inside = ndimage.binary_erosion(case.mask)
            assert case.twins.healthy.image[inside].mean() < 25
            assert case.twins.ill.image[inside].mean() > 60

    def test_blood_in_ventricles_is_bright(self, cases: dict[str, list[Case]]) -> None:
        for case in cases["intraventricular substance"]:
            assert case.change[case.mask].mean() > 60

    def test_without_the_septum_the_horns_are_dark(self, cases: dict[str, list[Case]]) -> None:
        for case in cases["absent septum pellucidum"]:
            assert case.change[case.mask].mean() < -15


class TestNoShortcut:
    @pytest.mark.parametrize("contrast", ["T1", "T2", "FLAIR"])
    def test_every_head_has_scalp_and_bone(self, contrast: str) -> None:
        for number in range(3):
            head = make_head(QUESTIONS, 1, number, POSITIONS, (contrast,))
            field, image = head.field(7), healthy_slice(head, 7).image
            layers = field.layers
            fat = (layers.skin_depth > 2.5) & (layers.bone_depth > layers.bone + 0.7)
            table = (layers.bone_depth > 0.3) & (layers.bone_depth < 1.2)
            level = [image.ravel()[field.rim[where]].mean() for where in (fat, table)]
            assert level[0] > 2 * level[1]
            edges = np.concatenate([image[[0, -1]].ravel(), image[:, [0, -1]].ravel()])
            assert edges.max() < 60  # air and its noise

    def test_healthy_patients_have_the_heights_of_the_diseased(self) -> None:
        places = [place for place in divide(200) if place.kind in SEEN]
        kinds = {ill: [place.kind for place in places if place.ill is ill] for ill in (True, False)}
        for kind in SEEN:
            assert abs(kinds[True].count(kind) - kinds[False].count(kind)) <= 1

    def test_families_of_patients_differ(self) -> None:
        images = [
            healthy_slice(make_head(family, 0, 0, 8, ("T1",)), 4).image
            for family in (DETECTOR, QUESTIONS)
        ]
        assert not np.array_equal(*images)

    def test_the_skull_stripped_phantom_is_what_it_was(self) -> None:
        """Shipped weights and measured numbers were made with it."""
        images = healthy_slices(5, 3).astype(float)
        assert images.mean(axis=(1, 2)) == pytest.approx(STRIPPED_MEANS, abs=0.02)


STRIPPED_MEANS = [55.3294, 52.5535, 48.9903]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("heads") / "questions"
    assert write_question_heads(out, patients=20, seed=3, slices=1) == out / MANIFEST
    return out


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / MANIFEST).open(newline="") as file:
        return list(csv.DictReader(file))


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


class TestFolder:
    def test_rows_files_and_facts_agree(self, folder: Path) -> None:
        rows = rows_of(folder)
        listed = {row[name] for row in rows for name in ("path", "mask", HEALTHY)} - {""}
        assert listed == {p.relative_to(folder).as_posix() for p in folder.rglob("*.png")}
        assert len({row["id"] for row in rows}) == len(rows) == 20
        for row in rows:
            facts = SliceFacts.of_row(row)
            assert facts.abnormal == bool(row["mask"]) == bool(row[HEALTHY])
            assert facts.kind in (*KINDS, *UNSEEN_TYPES)
            assert (facts.kind == "normal") != facts.abnormal
            if facts.abnormal:
                ill, healthy, mask = (read(folder / row[n]) for n in ("path", HEALTHY, "mask"))
                assert np.abs(ill.astype(int) - healthy)[mask > 0].mean() > 5

    def test_it_is_a_data_set_like_any_other(self, folder: Path) -> None:
        manifest = read_manifest(folder)
        counts = manifest.counts()
        assert all(good and ungood for good, ungood in counts.values())
        assert manifest.patients_known
        assert not manifest.patient_overlap()

    @pytest.mark.parametrize("patients", [20, 100, 401])
    def test_splits(self, patients: int) -> None:
        places = divide(patients)
        assert [place.index for place in places] == list(range(patients))
        known = [place for place in places if place.kind not in UNSEEN]
        for ill in (True, False):
            splits = [place.split for place in known if place.ill is ill]
            assert splits.count("train") / len(splits) == pytest.approx(0.7, abs=0.07)
            assert splits.count("test") / len(splits) == pytest.approx(0.2, abs=0.07)
            assert splits.count("valid") >= 1
        assert {place.split for place in places if place.kind in UNSEEN} == {"test"}
        if patients >= 100:
            assert {place.kind for place in places if place.ill} == set(HEAD_KINDS)
            test = {place.kind for place in known if place.split == "test" and place.ill}
            assert test == set(SEEN)

    def test_too_few_patients(self, tmp_path: Path) -> None:
        with pytest.raises(PhantomError, match=r"at least 20 patients.*got 19"):
            write_question_heads(tmp_path / "new", patients=19, seed=0)
        assert not (tmp_path / "new").exists()

    def test_a_folder_with_other_data_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("keep")
        with pytest.raises(PhantomError, match=r"already holds mine\.txt"):
            write_question_heads(tmp_path, patients=20, seed=0)

    def test_heads_for_a_detector_have_the_usual_layout(self, tmp_path: Path) -> None:
        write_heads(tmp_path / "set", patients=6, seed=3, slices=2, contrasts=("T1",))
        manifest = read_manifest(tmp_path / "set")
        assert manifest.counts()["train"][1] == 0
        assert manifest.training()
        assert manifest.split("test").abnormals()
        assert {row.patient.rsplit("-", 1)[0] for row in manifest if row.patient} == {
            "phantom-head"
        }


def test_kinds_are_those_of_the_questions() -> None:
    assert {*SEEN, "normal"} == set(KINDS)
    assert tuple(UNSEEN) == UNSEEN_TYPES
