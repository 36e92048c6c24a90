"""The phantom: reproducible patients, honest lesions, no shortcut, a complete folder."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

pytest.importorskip("nilearn")

from scanomaly.data.phantom import (
    PIXEL_MM,
    SIDE,
    AnatomyMissingError,
    PhantomError,
    PhantomSlice,
    anatomy,
    healthy_slices,
    simulate_patient,
    write_phantom,
)
from scanomaly.data.phantom.appearance import CONTRASTS
from scanomaly.data.phantom.artefacts import PATTERNS
from scanomaly.data.phantom.dataset import COLUMNS, MANIFEST, UNFINISHED, assign
from scanomaly.data.phantom.fields import Grid
from scanomaly.data.phantom.imaging import diameter_of, diseased_image, side_of
from scanomaly.data.phantom.lesions import CONTRAST_RANGE, DIAMETER_RANGE, KINDS, Model
from scanomaly.data.phantom.patient import HEIGHTS_MM, slice_field
from scanomaly.data.phantom.simulate import (
    DATA_SET,
    Subject,
    draw_lesion,
    make_subject,
)
from scanomaly.data.phantom.styles.brain import BRAIN, Head

SEED, PATIENTS, SLICES = 11, 24, 4
DISPLACING = ("mass", "enlarged ventricles")
Pair = tuple[PhantomSlice, PhantomSlice]


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    """(with lesion, the same slice without) of several patients."""
    found = []
    for index in range(PATIENTS):
        ill = simulate_patient(SEED, index, diseased=True, slices=SLICES)
        if any(slice_.lesion for slice_ in ill):
            well = simulate_patient(SEED, index, diseased=False, slices=SLICES)
            found += [(a, b) for a, b in zip(ill, well, strict=True) if a.lesion]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "set"
    assert write_phantom(out, patients=10, seed=3, slices=4) == out / MANIFEST
    return out


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / MANIFEST).open(newline="") as file:
        return list(csv.DictReader(file))


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def brain_of(image: np.ndarray) -> np.ndarray:
    return ndimage.binary_fill_holes(ndimage.binary_closing(image > 0, iterations=3))


class TestPatients:
    def test_same_seed_gives_the_same_bits_in_any_order(self) -> None:
        first = [simulate_patient(1, index, diseased=True, slices=3) for index in (0, 1)]
        again = [simulate_patient(1, index, diseased=True, slices=3) for index in (1, 0)]
        for a, b in zip(first[0] + first[1], again[1] + again[0], strict=True):
            assert np.array_equal(a.image, b.image)
            assert np.array_equal(a.mask, b.mask)
            assert a.lesion == b.lesion

    def test_patients_and_seeds_differ(self) -> None:
        images = [
            simulate_patient(seed, index, diseased=False, slices=1, contrasts=("T1",))[0].image
            for seed, index in ((0, 0), (0, 1), (1, 0))
        ]
        assert not np.array_equal(images[0], images[1])
        assert not np.array_equal(images[0], images[2])

    def test_records_have_the_documented_form(self) -> None:
        slices = simulate_patient(2, 7, diseased=False, slices=5, contrasts=("FLAIR",))
        assert [slice_.index for slice_ in slices] == list(range(5))
        heights = np.array([slice_.height_mm for slice_ in slices])
        assert np.allclose(np.diff(heights), np.diff(heights)[0], atol=0.02)
        assert HEIGHTS_MM[0] <= heights[0] < heights[-1] <= HEIGHTS_MM[1]
        for slice_ in slices:
            assert (slice_.patient, slice_.contrast) == ("phantom-0007", "FLAIR")
            assert (slice_.image.shape, slice_.image.dtype) == ((SIDE, SIDE), np.uint8)
            assert (slice_.mask.shape, slice_.mask.dtype) == ((SIDE, SIDE), np.bool_)
            assert slice_.lesion is None
            assert not slice_.mask.any()

    def test_every_brain_fits_and_the_background_is_black(self) -> None:
        images = healthy_slices(4, 64)
        edge = np.concatenate([images[:, [0, -1]].ravel(), images[:, :, [0, -1]].ravel()])
        assert not edge.any()
        assert (images > 0).mean(axis=(1, 2)).min() > 0.1
        assert (images == 255).mean() < 1e-3

    @pytest.mark.parametrize("contrast", CONTRASTS)
    def test_tissue_order_is_that_of_the_contrast(self, contrast: str) -> None:
        for index in range(6):
            patient = make_subject(DATA_SET, 0, index, 1, (contrast,)).patient
            slice_ = slice_field(patient, 15.0)
            white, grey, csf = (
                slice_.intensity[slice_.tissue[:, c] > 240].mean() for c in range(3)
            )
            order = {
                "T1": (white, grey, csf),
                "T2": (csf, grey, white),
                "FLAIR": (grey, white, csf),
            }
            assert list(order[contrast]) == sorted(order[contrast], reverse=True)


class TestLesions:
    def test_several_kinds_appear(self, pairs: list[Pair]) -> None:
        assert len({ill.lesion.kind for ill, _ in pairs if ill.lesion}) >= 5

    def test_masks_are_in_the_brain_and_measures_in_range(self, pairs: list[Pair]) -> None:
        for ill, _ in pairs:
            assert ill.lesion
            assert ill.lesion.kind in KINDS
            assert DIAMETER_RANGE[0] <= ill.lesion.diameter_mm <= DIAMETER_RANGE[1]
            assert ill.lesion.diameter_mm == pytest.approx(diameter_of(ill.mask), abs=0.01)
            assert ill.mask.sum() * PIXEL_MM**2 >= np.pi * 2**2
            assert not (ill.mask & ~brain_of(ill.image)).any()
            assert ill.lesion.side in ("left", "right", "both", "midline")
            assert ill.lesion.lobe in anatomy.LOBES
            assert ill.lesion.severity in ("mild", "moderate", "severe")

    def test_contrast_measured_in_the_images_is_the_recorded_one(self, pairs: list[Pair]) -> None:
        low, high = CONTRAST_RANGE
        for ill, well in pairs:
            assert ill.lesion
            if ill.lesion.kind in DISPLACING:
                continue
            with_, without = ill.image[ill.mask].astype(float), well.image[ill.mask].astype(float)
            measured = np.abs(with_ - without).mean() / without.mean()
            assert low <= ill.lesion.contrast <= high
            # Rician noise hides a little of the change, never of its order.
            assert measured == pytest.approx(ill.lesion.contrast, rel=0.15)

    @pytest.mark.parametrize("contrast", CONTRASTS)
    def test_lesions_have_the_sign_of_the_contrast(self, contrast: str) -> None:
        for index in range(12):
            subject = make_subject(DATA_SET, 5, index, 2, (contrast,))
            model = draw_lesion(subject)
            if model.kind not in ("infarct", "oedema", "white matter lesion"):
                continue
            for slice_ in BRAIN.matched(Head(subject), range(2), diseased=True):
                well = simulate_patient(5, index, diseased=False, slices=2, contrasts=(contrast,))
                change = slice_.image.astype(float) - well[slice_.index].image
                assert (change[slice_.mask].mean() < 0) == (contrast == "T1")

    def test_nothing_changes_away_from_the_lesion(self, pairs: list[Pair]) -> None:
        for ill, well in pairs:
            assert ill.lesion
            if ill.lesion.kind in (*DISPLACING, "artefact"):
                continue
            away = ~ndimage.binary_dilation(ill.mask, iterations=12)
            if ill.lesion.kind != "white matter lesion":  # tiny ones may stay out of the mask
                assert np.array_equal(ill.image[away], well.image[away])
            assert abs(ill.image[away].mean() - well.image[away].mean()) < 0.1

    def test_mass_displaces_tissue_but_not_the_skull(self) -> None:
        subject, model = next(mass for mass in map(_mass, range(60)) if mass)
        slice_ = slice_field(subject.patient, float(model.components[0].blobs[0].centre[2]))
        assert model.push
        depth = np.full(len(slice_.points), 20, dtype=np.float32)
        moved = np.linalg.norm(model.push.source(slice_.points, depth) - slice_.points, axis=1)
        assert 0.5 < moved.max() <= 7.01
        assert np.array_equal(model.push.source(slice_.points, 0 * depth), slice_.points)

    def test_scaling_a_mass_scales_its_cut(self) -> None:
        subject, model = next(mass for mass in map(_mass, range(60)) if mass)
        slices = [slice_field(subject.patient, height) for height in subject.patient.heights]

        def cut(factor: float) -> float:
            found = [diseased_image(subject.patient, s, model.scaled(factor)) for s in slices]
            return max((finding.lesion.diameter_mm for finding in found if finding), default=0.0)

        assert cut(0.01) == 0.0  # below the smallest diameter: no finding
        assert 0.0 < cut(1.0) < cut(1.1)

    @pytest.mark.parametrize("pattern", PATTERNS)
    def test_artefacts_change_the_image_finitely(self, pattern: str) -> None:
        image = healthy_slices(0, 1)[0].astype(np.float32) / 255
        change = PATTERNS[pattern](image, np.array([0.3, 0.6, 0.9], dtype=np.float32))
        assert change.shape == image.shape
        assert np.isfinite(change).all()
        assert np.abs(change).max() > 0


def _mass(index: int) -> tuple[Subject, Model] | None:
    subject = make_subject(DATA_SET, 21, index, 2, ("T1",))
    model = draw_lesion(subject)
    return (subject, model) if model.kind == "mass" else None


class TestNoShortcut:
    def test_matched_healthy_slices_have_the_heights_of_the_diseased(self) -> None:
        for index in range(4):
            subject = make_subject(DATA_SET, 9, index, 4, tuple(CONTRASTS))
            ill = list(BRAIN.matched(Head(subject), range(4), diseased=True))
            well = list(BRAIN.matched(Head(subject), range(4), diseased=False))
            assert [s.cells["height_mm"] for s in ill] == [s.cells["height_mm"] for s in well]
            assert ill
            assert all(not s.finding and not s.mask.any() for s in well)

    def test_finer_cuts_give_as_many_slices_where_the_lesion_shows(self, tmp_path: Path) -> None:
        numbers = {"patients": 12, "seed": 3, "slices": 3, "contrasts": ("T1",)}
        folders = {finer: tmp_path / str(finer) for finer in (1, 3)}
        for finer, folder in folders.items():
            write_phantom(folder, finer=finer, **numbers)
        coarse_rows, rows = map(rows_of, folders.values())
        coarse, fine = (Counter(row["patient"] for row in each) for each in (coarse_rows, rows))
        assert set(coarse.values()) <= {1, 2, 3}
        assert sum(fine.values()) > sum(coarse.values())
        assert max(fine.values()) == 3
        for patient in fine:
            heights = [float(row["height_mm"]) for row in rows if row["patient"] == patient]
            assert heights == sorted(set(heights))
        assert {row["label"] for row in rows if row["split"] == "train"} == {"0"}

    def test_noise_and_background_do_not_know_the_label(self, pairs: list[Pair]) -> None:
        for ill, well in pairs:
            assert np.array_equal(ill.image == 0, well.image == 0) or (
                np.mean((ill.image == 0) != (well.image == 0)) < 2e-3
            )


class TestAnatomy:
    def test_lobes_of_known_places(self) -> None:
        places = {
            (30, 45, 20): "frontal",
            (-55, -10, -8): "temporal",
            (35, -50, 50): "parietal",
            (-12, -90, 5): "occipital",
            (12, -18, 8): "deep",
            (25, 2, 0): "deep",
            (-40, -5, 55): "frontal",
            (0, -28, -12): "brainstem",
        }
        points = np.array(list(places), dtype=np.float32)
        assert [anatomy.LOBES[i] for i in anatomy.lobe_of(points)] == list(places.values())

    def test_sides(self) -> None:
        left, right = np.array([[-20.0, 0, 0]]), np.array([[20.0, 0, 0]])
        assert side_of(left) == "left"
        assert side_of(right) == "right"
        assert side_of(np.concatenate([left, right])) == "both"
        assert side_of(np.concatenate([left, right]) / 10) == "midline"

    def test_radiological_orientation(self) -> None:
        slice_ = slice_field(make_subject(DATA_SET, 0, 0, 1, ("T1",)).patient, 20.0)
        rows, columns = np.divmod(slice_.pixels, SIDE)
        assert np.corrcoef(columns, slice_.points[:, 0])[0, 1] < -0.9
        assert np.corrcoef(rows, slice_.points[:, 1])[0, 1] < -0.9

    def test_growth_widens_the_ventricles(self) -> None:
        points = np.stack(np.meshgrid(*[np.arange(-40, 40, 2.0)] * 2, [18.0]), -1).reshape(-1, 3)
        tissue = anatomy.load_template().tissue
        fluid = [
            tissue.sample(anatomy.ventricle_warp(points.astype(np.float32), growth))[:, 2].sum()
            for growth in (-1.0, 0.0, 3.0, 6.0)
        ]
        assert fluid == sorted(fluid)

    def test_sampling_equals_scipy(self) -> None:
        rng = np.random.default_rng(0)
        values = rng.random((6, 7, 8, 2), dtype=np.float32)
        points = rng.uniform(0, 10, (50, 3)).astype(np.float32)
        grid = Grid(values, np.zeros(3, dtype=np.float32), 2.0)
        for channel in range(2):
            plain = ndimage.map_coordinates(values[..., channel], points.T / 2, order=1)
            assert np.allclose(grid.sample(points)[:, channel], plain, atol=1e-3)

    def test_without_nilearn_the_error_names_the_extra(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(anatomy, "find_spec", lambda name: None)
        with pytest.raises(AnatomyMissingError, match=r"scanomaly\[demo\]") as caught:
            anatomy.load_template.__wrapped__()
        assert isinstance(caught.value, ImportError)


class TestHealthySlices:
    def test_series_can_be_made_in_parts(self) -> None:
        whole = healthy_slices(7, 12)
        parts = [healthy_slices(7, 5), healthy_slices(7, 7, start=5)]
        assert whole.dtype == np.uint8
        assert np.array_equal(whole, np.concatenate(parts))

    def test_its_patients_are_not_those_of_the_data_set(self) -> None:
        own = healthy_slices(0, 1, contrasts=("T1",))[0]
        other = simulate_patient(0, 0, diseased=False, slices=8, contrasts=("T1",))
        assert not any(np.array_equal(own, slice_.image) for slice_ in other)


class TestFolder:
    def test_csv_and_files_agree(self, folder: Path) -> None:
        rows = rows_of(folder)
        assert tuple(rows[0]) == (*COLUMNS, *BRAIN.columns)
        listed = {row["path"] for row in rows} | {row["mask"] for row in rows} - {""}
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
        assert listed == found
        assert {path.name for path in folder.iterdir()} == {"train", "valid", "test", MANIFEST}
        assert len({row["id"] for row in rows}) == len(rows)

    def test_layout_and_masks(self, folder: Path) -> None:
        for row in rows_of(folder):
            group = "Ungood" if row["label"] == "1" else "good"
            assert row["path"] == f"{row['split']}/{group}/img/{row['id']}.png"
            assert read(folder / row["path"]).shape == (SIDE, SIDE)
            if row["label"] == "0":
                assert {row[column] for column in ("mask", *BRAIN.columns[2:])} == {""}
                continue
            mask = read(folder / row["mask"])
            assert Path(row["mask"]).name == Path(row["path"]).name
            assert set(np.unique(mask)) == {0, 255}
            assert diameter_of(mask > 0) == pytest.approx(float(row["diameter_mm"]), abs=0.01)

    def test_splits_are_disjoint_and_filled(self, folder: Path) -> None:
        rows = rows_of(folder)
        patients = {
            split: {row["patient"] for row in rows if row["split"] == split}
            for split in ("train", "valid", "test")
        }
        assert sum(map(len, patients.values())) == len(set().union(*patients.values())) == 10
        labels = {(row["split"], row["label"]) for row in rows}
        assert labels == {
            *(("train", "0"), ("valid", "0"), ("valid", "1"), ("test", "0"), ("test", "1"))
        }

    @pytest.mark.parametrize("patients", [6, 20, 101])
    def test_shares_of_the_splits(self, patients: int) -> None:
        members = assign(patients)
        assert len(members) == patients
        for split in ("valid", "test"):
            ill = [member.diseased for member in members if member.split == split]
            assert abs(sum(ill) - len(ill) / 2) <= 0.5
            assert any(ill)
        assert not any(member.diseased for member in members if member.split == "train")
        if patients > 10:
            train = sum(member.split == "train" for member in members)
            assert train / patients == pytest.approx(0.6, abs=0.03)

    def test_same_seed_same_folder_also_after_an_interruption(self, tmp_path: Path) -> None:
        def stop(done: int, total: int) -> None:
            if done == 2:
                raise KeyboardInterrupt

        broken, clean = tmp_path / "broken", tmp_path / "clean"
        with pytest.raises(KeyboardInterrupt):
            write_phantom(broken, patients=8, seed=0, slices=1, progress=stop)
        assert not (broken / MANIFEST).exists()
        assert (broken / UNFINISHED).exists()
        for out in (broken, clean):
            write_phantom(out, patients=6, seed=1, slices=1)
        contents = [
            {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
            for out in (broken, clean)
        ]
        assert contents[0] == contents[1]

    def test_progress_counts_patients(self, tmp_path: Path) -> None:
        seen: list[tuple[int, int]] = []
        write_phantom(
            tmp_path, patients=6, seed=0, slices=1, progress=lambda *count: seen.append(count)
        )
        assert seen == [(k, 6) for k in range(1, 7)]


class TestErrors:
    def test_too_few_patients(self, tmp_path: Path) -> None:
        with pytest.raises(PhantomError, match=r"at least 6 patients.*got 5"):
            write_phantom(tmp_path / "new", patients=5, seed=0)
        assert not (tmp_path / "new").exists()

    def test_a_folder_with_other_data_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("keep")
        with pytest.raises(PhantomError, match=r"already holds mine\.txt"):
            write_phantom(tmp_path, patients=6, seed=0)
        assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

    def test_a_file_instead_of_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(PhantomError, match="is a file"):
            write_phantom(tmp_path / "file", patients=6, seed=0)

    def test_unknown_contrast_lists_the_known(self) -> None:
        with pytest.raises(ValueError, match=r"T1, T2, FLAIR; got \['PD'\]"):
            simulate_patient(0, 0, diseased=False, slices=1, contrasts=("PD",))

    @pytest.mark.parametrize(("seed", "patient", "slices"), [(-1, 0, 1), (0, -1, 1), (0, 0, 0)])
    def test_impossible_numbers(self, seed: int, patient: int, slices: int) -> None:
        with pytest.raises(ValueError, match=f"got seed {seed}, patient {patient}"):
            simulate_patient(seed, patient, diseased=False, slices=slices)

    def test_negative_count(self) -> None:
        with pytest.raises(ValueError, match="got count -1"):
            healthy_slices(0, -1)
