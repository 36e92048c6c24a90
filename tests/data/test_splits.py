import logging
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from scanomaly.config.data import DataConfig
from scanomaly.data.bmad import BMAD_SETS
from scanomaly.data.manifest import Manifest, Row, read_manifest, read_manifests
from scanomaly.data.splits import (
    few_shot,
    images_to_score,
    leave_one_out,
    missing_masks,
    siblings_of,
    support_list,
    validation_part,
)
from scanomaly.errors import DataError

SHOTS = (2, 4, 8, 16)
SHARED = Path(__file__).parents[3] / "shared/data/fewshot"

BRAIN_2 = support_list("Brain", 2)


def row(name: str, label: bool, split="valid", **known) -> Row:
    return Row(id=name, path=Path(f"{name}.png"), split=split, label=label, **known)


def cohort(dataset: str = "Mine", patients: int = 6, slices: int = 3, masks: bool = False):
    """Patients n0, n1, ... without and a0, a1, ... with a finding, in the valid split."""
    rows = [
        row(
            f"{kind}{p}_{s}",
            label := kind == "a",
            patient=f"{kind}{p}",
            dataset=dataset,
            mask=Path("m.png") if masks and label else None,
        )
        for kind in "na"
        for p in range(patients)
        for s in range(slices)
    ]
    return Manifest(tuple(sorted(rows, key=lambda r: r.id)), dataset, "by hand")


def counts(manifest: Manifest) -> tuple[int, int]:
    return len(manifest.normals()), len(manifest.abnormals())


# The published lists


@pytest.mark.parametrize("shots", SHOTS)
@pytest.mark.parametrize("dataset", BMAD_SETS)
def test_the_published_lists_come_with_the_package(dataset, shots):
    listed = support_list(dataset, shots)
    assert len({*listed.normal, *listed.abnormal}) == 2 * shots
    assert len(listed.normal) == len(listed.abnormal) == shots
    if SHARED.is_dir():
        text = (SHARED / dataset / f"{shots}-shot.txt").read_text()
        lines = dict(line.split(": ") for line in text.splitlines())
        assert " ".join(listed.normal) == lines["n-0"].strip()
        assert " ".join(listed.abnormal) == lines["a-0"].strip()


def test_a_list_that_was_not_published():
    with pytest.raises(DataError, match=r"shots to be one of 2, 4, 8, 16, .* got 3; .*seed:0"):
        support_list("Brain", 3)
    with pytest.raises(DataError, match=r"Mine: there is no published .*Brain, .*support=seed:0"):
        support_list("Mine", 4)


LAYOUTS = {
    "A: QFAE": ("Brain", "val/good/img", "val/Ungood/img", "val/Ungood/label"),
    "B: MVFA": ("Brain_AD", "valid/good/img", "valid/Ungood/img", "valid/Ungood/anomaly_mask"),
    "C: flat": ("bras2021", "valid/good", "valid/Ungood", None),
    "D: swapped": ("Brain", "valid/img/good", "valid/img/Ungood", "valid/label/Ungood"),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_published_images_are_found_in_every_layout(layout, build):
    root, good, ungood, label = layout
    files = [f"{good}/{name}" for name in (*BRAIN_2.normal, "00001_60.png")]
    files += [f"{ungood}/{name}" for name in (*BRAIN_2.abnormal, "00002_60.png")]
    files += [f"{label}/{name}" for name in (*BRAIN_2.abnormal, "00002_60.png") if label]
    # The same names elsewhere are other images.
    files += [f"test/good/{name}" for name in BRAIN_2.normal]
    support = few_shot(read_manifest(build(root, files)), 2)
    assert {r.path.name for r in support.normals()} == set(BRAIN_2.normal)
    assert {r.path.name for r in support.abnormals()} == set(BRAIN_2.abnormal)
    assert {r.split for r in support} == {"valid"}
    assert counts(support) == (2, 2)
    assert support.label_only == (frozenset() if label else {"Brain"})
    assert [r.id for r in support] == sorted(r.id for r in support)
    assert "2-shot support (published)" in support.source


def test_published_images_in_another_format(build):
    names = support_list("Retina_OCT2017", 2)
    files = [f"valid/good/{name}".replace("jpeg", "PNG") for name in names.normal]
    files += [f"valid/Ungood/{name}".replace("jpeg", "png") for name in names.abnormal]
    assert counts(few_shot(read_manifest(build("OCT2017", files)), 2)) == (2, 2)


def test_a_listed_image_that_is_not_there(build):
    files = [f"valid/good/{name}" for name in ("1_1.png", *BRAIN_2.normal[1:])]
    files += [f"valid/Ungood/{name}" for name in BRAIN_2.abnormal]
    root = build("Brain", files)
    message = (
        r"published 2-shot list of Brain: 1 of its 2 images are not among the 2 in "
        rf"{root}/valid/good: {BRAIN_2.normal[0]}; .*data\.support=seed:0"
    )
    with pytest.raises(DataError, match=message):
        few_shot(read_manifest(root), 2)


def test_a_listed_name_that_stands_for_two_images():
    pool = [row(f"{place}/{Path(n).stem}", False) for n in BRAIN_2.normal for place in "xy"]
    pool += [row(f"z/{Path(n).stem}", True) for n in BRAIN_2.abnormal]
    with pytest.raises(DataError, match=r"several images in x, y could be .*; keep one"):
        few_shot(Manifest(tuple(pool), "Brain", "by hand"), 2)


# Draws


def test_a_draw_depends_on_the_seed_and_on_nothing_else():
    whole = cohort()
    support = few_shot(whole, 4, "seed:7")
    assert counts(support) == (4, 4)
    assert few_shot(whole, 4, "seed:7") == support
    shuffled = Manifest(whole.rows[::-1], "Mine", "by hand")
    assert few_shot(shuffled, 4, "seed:7").rows == support.rows
    assert len({few_shot(whole, 4, f"seed:{s}").rows for s in range(10)}) > 5


@pytest.mark.parametrize("seed", range(5))
def test_a_draw_shows_distinct_patients(seed, caplog):
    support = few_shot(cohort(patients=4, slices=5), 4, f"seed:{seed}")
    assert len({r.patient for r in support}) == 8
    assert not [r for r in caplog.records if "patients" in r.getMessage()]


@pytest.mark.parametrize("seed", range(5))
def test_patients_with_both_kinds_are_drawn_once(seed):
    rows = [
        row(f"p{p}_{kind}", kind == "a", patient=f"p{p}", dataset="Mine")
        for p in range(8)
        for kind in "na"
    ]
    support = few_shot(Manifest(tuple(rows), "Mine", "by hand"), 4, f"seed:{seed}")
    assert len({r.patient for r in support}) == 8


def test_with_fewer_patients_each_is_drawn_about_as_often(caplog):
    support = few_shot(cohort(patients=3, slices=4), 8, "seed:1")
    assert sorted(Counter(r.patient for r in support).values()) == [2, 2, 3, 3, 3, 3]
    assert len({r.id for r in support}) == 16
    assert "the 16 images of the support show 6 patients; there are no more" in caplog.text


def test_images_of_unknown_patients_are_drawn_too():
    rows = [row(f"{i}", i % 2 == 0, dataset="Mine") for i in range(8)]
    assert counts(few_shot(Manifest(tuple(rows), "Mine", "by hand"), 4, "seed:1")) == (4, 4)


@pytest.mark.parametrize("support", ["seed", "seed7", "seed:-1", "random:3", ""])
def test_an_unknown_kind_of_support(support):
    with pytest.raises(DataError, match=rf"published, seed:NUMBER or test:NUMBER, got '{support}'"):
        few_shot(cohort(), 2, support)


@pytest.mark.parametrize("support", ["seed:0", "published"])
def test_more_shots_than_images(support):
    whole = cohort("Brain", patients=1, slices=3)
    with pytest.raises(
        DataError, match=r"Brain: expected at least 4 normal images in valid .* found 3 .*shots=3"
    ):
        few_shot(whole, 4, support)
    with pytest.raises(DataError, match=r"4 abnormal images in valid .* found 0 .*; add some to"):
        few_shot(Manifest(cohort("Brain").normals().rows, "Brain", "by hand"), 4, support)


def test_without_a_valid_split_train_and_test_are_offered(caplog):
    rows = [row(f"n{i}", False, "train", dataset="bottle") for i in range(6)]
    rows += [row(f"a{i}", True, "test", dataset="bottle") for i in range(6)]
    rows += [row("good", False, "test", dataset="bottle")]
    whole = Manifest(tuple(rows), "bottle", "by hand")
    with pytest.raises(DataError, match=r"in valid .*found 0 .*data\.support=test:0"):
        few_shot(whole, 4, "seed:0")
    support = few_shot(whole, 4, "test:0")
    assert {(r.split, r.label) for r in support} == {("train", False), ("test", True)}
    assert "4 abnormal test images teach and are not scored" in caplog.text
    data = DataConfig(supervision="few_shot", shots=4, support="test:0")
    scored = images_to_score(whole, data)
    assert counts(scored) == (1, 2)
    assert {r.id for r in scored}.isdisjoint({r.id for r in support})
    assert images_to_score(whole, DataConfig()) == whole.split("test")


# Masks


def test_an_abnormal_image_without_its_mask():
    whole = cohort(masks=True)
    rows = [r for r in whole if r.id != "a0_0"]
    rows.append(row("a0_0", True, patient="a0", dataset="Mine"))
    broken = Manifest(tuple(rows), "Mine", "by hand")
    with pytest.raises(DataError, match=r"Mine: expected a mask .* none for 1: a0_0\.png; add"):
        few_shot(broken, 18, "seed:0")
    with pytest.raises(DataError, match=r"a0_0\.png"):
        leave_one_out([broken, cohort("Other")], "Other")


def test_a_set_that_was_published_with_masks_and_has_none():
    liver = few_shot(cohort("Liver"), 2, "seed:0")
    assert liver.label_only == {"Liver"}
    (line,) = missing_masks(liver)
    assert line.startswith("Liver: this set was published with masks and none was found")
    chest = few_shot(cohort("Chest"), 2, "seed:0")
    assert chest.label_only == {"Chest"}
    assert missing_masks(chest) == []
    others = leave_one_out([cohort("Liver"), cohort("Chest"), cohort("Brain")], "Brain")
    assert missing_masks(others) == [line]


# Leave one out


def test_everything_but_the_target():
    sets = [cohort("Brain", masks=True), cohort("Chest"), cohort("Liver", masks=True)]
    found = leave_one_out(sets, "liver_AD")
    assert found.counts() == {"valid": (36, 36)}
    assert {r.dataset for r in found} == {"Brain", "Chest"}
    assert found.label_only == {"Chest"}
    assert (found.dataset, found.source) == ("all but Liver", "valid of Brain, Chest")
    ids = [r.id for r in found]
    assert ids == sorted(set(ids))
    assert ids[0] == "Brain/a0_0"
    assert len({r.patient for r in found}) == 24
    assert {r.patient for r in found} >= {"Brain/a0", "Chest/a0"}


def test_the_split_is_chosen():
    rows = [
        *cohort("Brain").rows,
        row("t0", False, "test"),
        row("t1", True, "test"),
        row("u", True),
    ]
    rows += [Row("unlabelled", Path("u.png"), split="test")]
    sets = [Manifest(tuple(rows), "Brain", "by hand"), cohort("Liver")]
    found = leave_one_out(sets, "Liver", folder="test")
    assert [(r.id, r.dataset) for r in found] == [("Brain/t0", "Brain"), ("Brain/t1", "Brain")]


def test_an_unknown_target():
    with pytest.raises(DataError, match=r"one of the data sets \(Brain, Mine\), got 'Liver'"):
        leave_one_out([cohort("Brain"), cohort("Mine")], "Liver")
    assert {r.dataset for r in leave_one_out([cohort("Brain"), cohort("Mine_AD")], "mine")} == {
        "Brain"
    }


def test_a_set_of_bmad_is_taught_by_bmad_alone(caplog):
    bottle = Manifest(cohort("bottle").normals().rows, "bottle", "MVTec layout")
    sets = [cohort("Brain"), cohort("Chest"), cohort("Liver"), bottle]
    found = leave_one_out(sets, "liver_AD")
    assert {r.dataset for r in found} == {"Brain", "Chest"}
    assert "bottle are not among them and left out" in caplog.text
    with pytest.raises(DataError, match=r"than Liver \(BMAD's from BMAD's\), and there are none"):
        leave_one_out(sets[2:], "Liver")
    with pytest.raises(DataError, match="bottle: expected normal and abnormal images in valid"):
        leave_one_out([*sets, cohort("Mine")], "Mine")


def test_a_set_with_one_class():
    sets = [cohort("Spine"), Manifest(cohort("Mine").normals().rows, "Mine", "by hand")]
    with pytest.raises(
        DataError, match=r"Mine: expected normal and abnormal .*valid, found 18 and 0"
    ):
        leave_one_out(sets, "Spine")
    with pytest.raises(DataError, match=r"in test, found 0 and 0 .*data\.training_folder"):
        leave_one_out(sets, "Mine", folder="test")


def test_siblings(caplog):
    sets = [cohort(name) for name in ("Brain", "Retina_OCT2017", "Retina_RESC")]
    assert {r.dataset for r in leave_one_out(sets, "RESC")} == {"Brain", "Retina_OCT2017"}
    assert "Retina_OCT2017 has the same modality and is trained on" in caplog.text
    caplog.clear()
    strict = leave_one_out(sets, "RESC", exclude_siblings=True)
    assert {r.dataset for r in strict} == {"Brain"}
    assert len(leave_one_out(sets, "Brain", exclude_siblings=True)) == 72
    assert "same modality" not in caplog.text
    assert siblings_of("oct2017_AD") == {"Retina_RESC"}
    assert siblings_of("Brain") == siblings_of("mine") == frozenset()
    with pytest.raises(
        DataError, match=r"than Retina_RESC \(BMAD.s from BMAD.s\), and there are none"
    ):
        leave_one_out(sets[1:], "RESC", exclude_siblings=True)


def test_from_a_folder_of_sets(build):
    build("BMAD/Brain_AD", ["valid/good/img/1_1.png", "valid/Ungood/img/2_1.png"])
    build("BMAD/Chest_AD", ["valid/good/img/1_1.png", "valid/Ungood/img/2_1.png"])
    root = build("BMAD/Liver_AD", ["valid/good/img/1_1.png"]).parent
    found = leave_one_out(read_manifests(root), "Liver")
    assert {r.dataset for r in found} == {"Brain", "Chest"}
    assert "Brain/valid/good/img/1_1" in {r.id for r in found}


# A part to choose a checkpoint on


def test_the_validation_part_is_by_patient_and_has_every_set_and_class():
    whole = leave_one_out([cohort("Brain", 10), cohort("Chest", 10), cohort("Liver")], "Liver")
    kept, held = validation_part(whole, 0.2, seed=3)
    assert sorted(r.id for r in (*kept, *held)) == [r.id for r in whole]
    assert {r.patient for r in kept}.isdisjoint({r.patient for r in held})
    assert Counter((r.dataset, r.label) for r in held) == {
        (dataset, label): 6 for dataset in ("Brain", "Chest") for label in (False, True)
    }
    assert held.label_only == kept.label_only == {"Brain", "Chest"}
    assert validation_part(whole, 0.2, seed=3) == (kept, held)
    assert validation_part(whole, 0.2, seed=4)[1] != held


def test_patients_with_both_classes_stay_whole():
    rows = [
        row(f"p{p}_{s}", s == 0, patient=f"p{p}", dataset="Mine")
        for p in range(6)
        for s in range(4)
    ]
    kept, held = validation_part(Manifest(tuple(rows), "Mine", "by hand"), 0.2, seed=0)
    assert (len(kept), len(held)) == (20, 4)
    assert counts(held) == (3, 1)


def test_validation_bounds():
    whole = cohort(patients=1)
    kept, held = validation_part(whole, 0.0, seed=0)
    assert (kept.rows, held.rows) == (whole.rows, ())
    with pytest.raises(
        DataError, match=r"Mine: expected two patients of a class .*found none in 6"
    ):
        validation_part(whole, 0.2, seed=0)


def test_splitting_loads_no_torch():
    code = "import sys, scanomaly.data.splits; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_said_about_a_plain_draw(caplog):
    caplog.set_level(logging.INFO)
    few_shot(cohort(), 2, "seed:0")
    assert caplog.text == ""
