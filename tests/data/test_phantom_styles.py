"""The styles of the phantom: reproducible, honest masks, no shortcut, folders readers know."""

import csv
import pickle
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from scanomaly.data.manifest import Manifest, read_manifests
from scanomaly.data.phantom import (
    SIDE,
    STYLES,
    PhantomError,
    StyledSlice,
    write_style,
    write_styles,
)
from scanomaly.data.phantom.captions import FACTS
from scanomaly.data.phantom.dataset import MANIFEST, OPTIONS, UNFINISHED
from scanomaly.data.phantom.simulate import DATA_SET, PRE_TRAINING
from scanomaly.data.phantom.styles import canvas, chest, ct, oct, tissue
from scanomaly.data.splits import few_shot, leave_one_out

PROCEDURAL = tuple(name for name in STYLES if name != "brain")  # the brain has a file of its own
ROOMS = {"oct": oct, "ct": ct, "tissue": tissue, "chest": chest}
PATIENTS, SLICES = 8, 2
SHORTCUT = 0.75
Pair = tuple[StyledSlice, StyledSlice]


@cache
def pairs_of(name: str, patients: int = 8, seed: int = 4) -> list[Pair]:
    """(healthy, diseased) of the same slice."""
    style = STYLES[name]
    subjects = [style.subject(seed, index) for index in range(patients)]
    found = [(s, k, style.diseased(s, k)) for s in subjects for k in (1, 6)]
    return [(style.healthy(s, k), ill) for s, k, ill in found if ill]


def change_of(pair: Pair) -> np.ndarray:
    """Absolute change of grey values (S, S)."""
    well, ill = (slice_.image.astype(float) for slice_ in pair)
    difference = np.abs(ill - well)
    return difference.mean(axis=-1) if difference.ndim == 3 else difference


def auroc(normal: list[float], abnormal: list[float]) -> float:
    """Whichever direction is better."""
    low, high = np.array(normal)[:, None], np.array(abnormal)[None]
    value = float((high > low).mean() + (high == low).mean() / 2)
    return max(value, 1 - value)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("styles") / "sets"
    written = write_styles(out, PROCEDURAL, patients=PATIENTS, seed=2, slices=SLICES)
    assert written == [out / STYLES[name].name / MANIFEST for name in PROCEDURAL]
    return out


@pytest.mark.parametrize("name", PROCEDURAL)
class TestSlices:
    def test_same_seed_gives_the_same_bits_in_any_order(self, name: str) -> None:
        style = STYLES[name]

        def draw(order: tuple[int, ...]) -> dict[int, StyledSlice | None]:
            return {k: style.diseased(style.subject(1, k), 3) for k in order}

        first, again = draw((0, 1, 2)), draw((2, 1, 0))
        for index, made in first.items():
            other = again[index]
            assert made
            assert other
            assert np.array_equal(made.image, other.image)
            assert np.array_equal(made.mask, other.mask)
            assert (made.facts, made.finding) == (other.facts, other.finding)

    def test_everybody_differs(self, name: str) -> None:
        style = STYLES[name]
        drawn = [(0, 0, DATA_SET), (0, 1, DATA_SET), (1, 0, DATA_SET), (0, 0, PRE_TRAINING)]
        subjects = [style.subject(seed, index, family=family) for seed, index, family in drawn]
        images = [style.healthy(subject, 0).image for subject in subjects]
        images.append(style.healthy(subjects[0], 1).image)
        assert len({image.tobytes() for image in images}) == len(images)

    def test_records_have_the_documented_form(self, name: str) -> None:
        for well, ill in pairs_of(name):
            for slice_ in (well, ill):
                assert slice_.image.dtype == np.uint8
                assert slice_.image.shape == ((SIDE, SIDE, 3) if name == "tissue" else (SIDE, SIDE))
                assert (slice_.mask.shape, slice_.mask.dtype) == ((SIDE, SIDE), np.bool_)
                columns = [*slice_.cells, *slice_.finding]
                assert columns == list(STYLES[name].columns)[: len(columns)]
            assert not well.mask.any()
            assert not well.finding
            assert ill.finding["kind"] in ROOMS[name].KINDS
            assert 20 <= ill.mask.sum() <= 0.3 * ill.mask.size

    def test_facts_do_not_know_the_disease(self, name: str) -> None:
        for well, ill in pairs_of(name):
            assert well.facts == ill.facts
            assert well.cells == ill.cells
            assert tuple(well.facts) == FACTS
            assert all(well.facts.values())

    def test_masks_are_where_the_image_changes(self, name: str) -> None:
        for pair in pairs_of(name):
            change, mask = change_of(pair), pair[1].mask
            assert change[mask].mean() > 5
            assert change[mask].mean() > 2 * change[~mask].mean()

    def test_every_kind_occurs(self, name: str) -> None:
        style = STYLES[name]
        found = [style.diseased(style.subject(0, index), 0) for index in range(16)]
        assert {ill.finding["kind"] for ill in found if ill} == set(ROOMS[name].KINDS)

    def test_no_threshold_on_the_whole_image_solves_it(self, name: str) -> None:
        style = STYLES[name]
        subjects = [style.subject(8, index) for index in range(50)]
        ill = [slice_.image for s in subjects[::2] if (slice_ := style.diseased(s, 4))]
        well = [style.healthy(s, 4).image for s in subjects[1::2]]
        measures: tuple[Callable[[np.ndarray], float], ...] = (np.mean, np.max, np.std)
        for measure in measures:
            assert auroc([measure(i) for i in well], [measure(i) for i in ill]) < SHORTCUT

    def test_slices_outside_the_patient_are_refused(self, name: str) -> None:
        style = STYLES[name]
        subject = style.subject(0, 0, slices=2)
        for draw in (style.healthy, style.diseased):
            with pytest.raises(IndexError, match=r"slices 0 to 1; got 2"):
                draw(subject, 2)

    def test_impossible_numbers(self, name: str) -> None:
        with pytest.raises(PhantomError, match="got seed -1, patient 0, slices 8"):
            STYLES[name].subject(-1, 0)


class TestMasks:
    @pytest.mark.parametrize(("name", "reach"), [("ct", 5), ("tissue", 14)])
    def test_nothing_changes_away_from_the_mask(self, name: str, reach: int) -> None:
        for pair in pairs_of(name):
            away = ~ndimage.binary_dilation(pair[1].mask, np.ones((3, 3)), iterations=reach)
            assert away.any()
            assert change_of(pair)[away].max() == 0

    def test_opacities_scatter_but_stay_where_they_are(self) -> None:
        for pair in pairs_of("chest"):
            away = ~ndimage.binary_dilation(pair[1].mask, iterations=28)
            assert change_of(pair)[away].mean() < 1

    def test_fluid_is_dark_and_moves_only_the_columns_above_it(self) -> None:
        for index in range(8):
            eye = oct.make_eye(6, index)
            ill, well = oct.diseased_slice(eye, 2), oct.healthy_slice(eye, 2)
            assert ill
            swollen = sum(oct._draw(eye, 2).extra.values())
            still = ~ndimage.binary_dilation(swollen > 0, iterations=4)
            still &= ~ndimage.binary_dilation(ill.mask.any(axis=0), iterations=4)
            assert np.array_equal(ill.image[:, still], well.image[:, still])
            beside = ndimage.binary_dilation(ill.mask, iterations=4) & ~ill.mask
            assert ill.image[ill.mask].mean() < 0.75 * ill.image[beside].mean()

    def test_tumours_stay_in_the_liver_and_change_it_by_their_kind(self) -> None:
        for index in range(8):
            one = ct.make_abdomen(6, index)
            ill, well = ct.diseased_slice(one, 2), ct.healthy_slice(one, 2)
            assert ill
            _, liver = ct._cut(one, 2)
            assert (liver[ill.mask] > 0.5).all()
            change = (ill.image.astype(float) - well.image)[ill.mask].mean()
            expected = {"hypodense": -1, "hyperdense": 1}.get(str(ill.finding["kind"]), 0)
            assert expected == 0 or np.sign(change) == expected

    def test_clusters_are_darker_than_the_tissue_was(self) -> None:
        for well, ill in pairs_of("tissue"):
            assert ill.image[ill.mask][:, 0].mean() < well.image[well.mask | ill.mask][:, 0].mean()


class TestStyles:
    def test_names_read_as_words_and_are_no_published_sets(self) -> None:
        from scanomaly.data.bmad import canonical_name

        names = [style.name for style in STYLES.values()]
        assert len(set(names)) == len(names) == 5
        assert [canonical_name(name) for name in names] == [None] * 5

    def test_styles_can_be_sent_to_other_processes(self) -> None:
        for name, style in STYLES.items():
            assert pickle.loads(pickle.dumps(style)).name == STYLES[name].name

    def test_brain_is_the_phantom_of_old(self) -> None:
        pytest.importorskip("nilearn")
        from scanomaly.data.phantom import simulate_patient

        subject = STYLES["brain"].subject(3, 1, slices=3)
        made = [STYLES["brain"].diseased(subject, k) for k in range(3)]
        known = simulate_patient(3, 1, diseased=True, slices=3)
        assert [slice_ is not None for slice_ in made] == [k.lesion is not None for k in known]
        for slice_, old in zip(made, known, strict=True):
            if slice_ and old.lesion:
                assert np.array_equal(slice_.image, old.image)
                assert slice_.finding["kind"] == old.lesion.kind
                assert slice_.finding["lesion_contrast"] == old.lesion.contrast
                assert tuple(slice_.facts) == FACTS

    def test_smooth_fields_go_on_from_slice_to_slice(self) -> None:
        offset = np.array([0.1, 0.5, 0.9], dtype=np.float32)
        near, far = (canvas.smooth_field(offset, 20.0, depth) for depth in (1.0, 80.0))
        here = canvas.smooth_field(offset, 20.0)
        assert here.std() == pytest.approx(1, abs=0.35)
        assert np.corrcoef(here.ravel(), near.ravel())[0, 1] > 0.95
        assert abs(np.corrcoef(here.ravel(), far.ravel())[0, 1]) < 0.5

    def test_streams_of_a_patient_are_independent(self) -> None:
        one = ct.make_abdomen(0, 0).identity
        draws = [one.anatomy(), one.anatomy(1), one.lesion(), one.lesion(0), one.lesion(0, 1)]
        draws += [one.noise(0), one.noise(1)]
        assert len({float(rng.random()) for rng in draws}) == len(draws)


def contents_of(root: Path) -> dict[Path, bytes]:
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def manifests_of(root: Path) -> dict[str, Manifest]:
    return {manifest.dataset: manifest for manifest in read_manifests(root)}


class TestFolders:
    def test_readers_find_every_set(self, sets: Path) -> None:
        found = manifests_of(sets)
        assert found.keys() == {STYLES[name].name for name in PROCEDURAL}
        for name in PROCEDURAL:
            manifest = found[STYLES[name].name]
            assert manifest.has_masks == STYLES[name].has_masks == (name != "chest")
            assert manifest.patients_known
            assert not manifest.patient_overlap()
            assert len({row.patient for row in manifest}) == PATIENTS
            counts = manifest.counts()
            assert counts["train"][1] == 0
            assert all(min(counts[split]) > 0 for split in ("valid", "test"))

    def test_patients_of_different_styles_are_distinct(self, sets: Path) -> None:
        patients = [{row.patient for row in m} for m in manifests_of(sets).values()]
        assert len(set().union(*patients)) == sum(map(len, patients))

    def test_layout_alone_tells_the_same(self, sets: Path, tmp_path: Path) -> None:
        copy = shutil.copytree(sets, tmp_path / "sets")
        for manifest in copy.glob(f"*/{MANIFEST}"):
            manifest.unlink()
        plain, full = manifests_of(copy), manifests_of(sets)
        for name, manifest in plain.items():
            assert "BMAD layout" in manifest.source
            assert manifest.counts() == full[name].counts()
            assert manifest.has_masks == full[name].has_masks

    def test_masks_are_files_of_their_images(self, sets: Path) -> None:
        for row in (row for manifest in read_manifests(sets) for row in manifest if row.mask):
            assert row.mask
            with Image.open(row.mask) as mask, Image.open(row.path) as image:
                assert mask.size == image.size
                assert set(np.unique(np.asarray(mask))) == {0, 255}

    def test_manifest_tells_the_kind_of_the_diseased_only(self, sets: Path) -> None:
        for name in PROCEDURAL:
            with (sets / STYLES[name].name / MANIFEST).open(newline="") as file:
                for row in csv.DictReader(file):
                    assert (row["kind"] in ROOMS[name].KINDS) == (row["label"] == "1")

    def test_they_serve_few_shot_and_leave_one_out(self, sets: Path) -> None:
        found = read_manifests(sets)
        for manifest in found:
            support = few_shot(manifest, 1, "seed:0")
            assert len({row.patient for row in support}) == 2
        others = leave_one_out(found, "Retinal_OCT")
        assert {row.dataset for row in others} == {
            STYLES[name].name for name in PROCEDURAL if name != "oct"
        }
        assert others.label_only == {"Chest_Radiograph"}

    def test_same_seed_same_folder(self, sets: Path, tmp_path: Path) -> None:
        own = sets / "Retinal_OCT"
        write_style(tmp_path / "again", STYLES["oct"], patients=PATIENTS, seed=2, slices=SLICES)
        assert contents_of(own) == contents_of(tmp_path / "again")

    def test_progress_counts_patients_of_all_styles(self, tmp_path: Path) -> None:
        seen: list[tuple[int, int]] = []

        def note(done: int, total: int) -> None:
            seen.append((done, total))

        write_styles(tmp_path, ("ct", "oct"), patients=6, seed=0, slices=1, progress=note)
        assert seen == [(k, 12) for k in range(1, 13)]

    def test_the_same_call_goes_on_after_an_interruption(self, tmp_path: Path) -> None:
        """Finished styles stay, the unfinished one is done again, the others follow."""

        def stop(done: int, total: int) -> None:
            if done == 8:
                raise KeyboardInterrupt

        broken, clean = tmp_path / "broken", tmp_path / "clean"
        names, numbers = ("oct", "ct", "chest"), {"patients": 6, "seed": 0, "slices": 1}
        with pytest.raises(KeyboardInterrupt):
            write_styles(broken, names, progress=stop, **numbers)
        assert (broken / "Abdominal_CT" / UNFINISHED).exists()
        assert not (broken / "Chest_Radiograph").exists()
        finished = broken / "Retinal_OCT" / MANIFEST
        written_at = finished.stat().st_mtime_ns
        seen: list[tuple[int, int]] = []
        found = write_styles(broken, names, progress=lambda *count: seen.append(count), **numbers)
        assert finished.stat().st_mtime_ns == written_at
        assert seen == [(k, 18) for k in range(6, 19)]
        assert found == [broken / STYLES[name].name / MANIFEST for name in names]
        write_styles(clean, names, **numbers)
        assert contents_of(broken) == contents_of(clean)

    def test_a_style_whose_last_file_was_being_written_is_done_again(self, tmp_path: Path) -> None:
        numbers = {"patients": 6, "seed": 0, "slices": 1}
        (manifest,) = write_styles(tmp_path, ("ct",), **numbers)
        manifest.with_name(UNFINISHED).touch()
        manifest.write_text("half of it")
        write_styles(tmp_path, ("ct",), **numbers)
        assert not manifest.with_name(UNFINISHED).exists()
        assert len({row.patient for row in read_manifests(tmp_path)[0]}) == 6

    def test_more_styles_may_follow(self, tmp_path: Path) -> None:
        for names in (("oct",), ("ct",), ("ct", "oct")):
            write_styles(tmp_path, names, patients=6, seed=0, slices=1)
        assert len(read_manifests(tmp_path)) == 2


class TestRefusals:
    @pytest.mark.parametrize("names", [("oct", "mri"), ()])
    def test_unknown_styles_list_the_known(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        with pytest.raises(PhantomError, match=r"brain, oct, ct, tissue, chest, or all; got \["):
            write_styles(tmp_path / "new", names, patients=6, seed=0)
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize("held", ["mine.txt", "phantom.csv"])
    def test_other_data_is_left_alone(self, tmp_path: Path, held: str) -> None:
        (tmp_path / held).write_text("keep")
        with pytest.raises(PhantomError, match=rf"already holds {held}; give another"):
            write_styles(tmp_path, ("oct",), patients=6, seed=0)
        assert [path.name for path in tmp_path.iterdir()] == [held]

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"patients": 7}, r"\(patients 8, not 7\)"),
            ({"seed": 3}, r"\(seed 2, not 3\)"),
            (
                {"slices": 1, "contrasts": ("T1",)},
                r"\(slices 2, not 1; contrasts .*, not \['T1'\]\)",
            ),
        ],
    )
    def test_styles_with_other_options_are_left_alone(
        self, sets: Path, changed: dict[str, object], said: str
    ) -> None:
        before = contents_of(sets)
        options = {"patients": PATIENTS, "seed": 2, "slices": SLICES, **changed}
        with pytest.raises(PhantomError, match=rf"other options {said}; repeat those to go on, or"):
            write_styles(sets, ("brain", "ct"), **options)
        assert contents_of(sets) == before

    def test_a_style_whose_options_nobody_knows_is_left_alone(self, tmp_path: Path) -> None:
        write_style(tmp_path / "Abdominal_CT", STYLES["ct"], patients=6, seed=0, slices=1)
        with pytest.raises(PhantomError, match="already holds Abdominal_CT"):
            write_styles(tmp_path, ("ct",), patients=6, seed=0, slices=1)

    def test_damaged_options_are_named(self, tmp_path: Path) -> None:
        (tmp_path / OPTIONS).write_text("{")
        with pytest.raises(
            PhantomError, match=rf"{OPTIONS} is damaged \(.*\); give another folder"
        ):
            write_styles(tmp_path, ("ct",), patients=6, seed=0)

    def test_too_few_patients_claim_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(PhantomError, match=r"at least 6 patients.*got 5"):
            write_styles(tmp_path / "new", ("ct",), patients=5, seed=0)
        assert not (tmp_path / "new").exists()

    def test_a_file_instead_of_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(PhantomError, match="is a file"):
            write_styles(tmp_path / "file", ("ct",), patients=6, seed=0)


class TestCommand:
    def test_styles_on_the_command_line(self, command, refused, tmp_path: Path) -> None:
        words = ["phantom", tmp_path / "out", "--patients", 6]
        done = command(*words, "--styles", "ct", "--styles", "oct")
        assert (done.code, done.err) == (0, "")
        places = [tmp_path / "out" / name / MANIFEST for name in ("Retinal_OCT", "Abdominal_CT")]
        assert done.out == "".join(f"phantom: {place}\n" for place in places)
        assert len(read_manifests(tmp_path / "out")) == 2
        refused(r"styles must be some of .* got \['mri'\]", *words, "--styles", "mri")

    def test_all_styles(self, command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        asked: list[tuple[object, ...]] = []

        def write(out: Path, styles: list[str], **others: object) -> list[Path]:
            numbers = (others[name] for name in ("patients", "slices", "finer"))
            asked.append((*styles, *numbers, *others["contrasts"]))
            return [out / "first", out / "second"]

        monkeypatch.setattr("scanomaly.data.phantom.write_styles", write)
        words = ["--patients", 7, "--slices", 3, "--finer", 2, "--styles", "all"]
        words += ["--contrast", "T1"]
        done = command("phantom", tmp_path, *words)
        assert done.out == f"phantom: {tmp_path}/first\nphantom: {tmp_path}/second\n"
        assert asked == [("all", 7, 3, 2, "T1")]

    def test_all_means_every_style(self, tmp_path: Path) -> None:
        pytest.importorskip("nilearn")
        write_styles(tmp_path, ("all",), patients=6, seed=0, slices=1)
        names = {style.name for style in STYLES.values()}
        assert {manifest.dataset for manifest in read_manifests(tmp_path)} == names
