"""Fingerprints of data sets: content decides, and what was read once is not read again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scanomaly.bench import fingerprints
from scanomaly.bench.fingerprints import FINGERPRINTS_FILE, Fingerprints
from scanomaly.data.manifest import read_manifest
from scanomaly.data.mivqa import read_corpus
from scanomaly.errors import DataError
from tiny_runs import save_image, write_set
from vqa.tiny_vqa import write_tiny_corpus

IMAGES = {("train", "good"): 2, ("test", "good"): 1, ("test", "Ungood"): 1}


@pytest.fixture
def brain(tmp_path: Path) -> Path:
    return write_set(tmp_path / "data" / "Brain", IMAGES)


def of(out: Path, *sets: Path) -> str:
    return Fingerprints(out).of_manifests([read_manifest(folder) for folder in sets])


def test_the_same_content_elsewhere_has_the_same_fingerprint(tmp_path: Path, brain: Path):
    copy = shutil.copytree(brain, tmp_path / "elsewhere" / "Brain")
    assert of(tmp_path, copy) == of(tmp_path, brain)


@pytest.mark.parametrize("name", ["train/good/img/traingood0_0.png", "test/Ungood/label/*"])
def test_every_image_and_mask_counts(tmp_path: Path, brain: Path, name: str):
    before = of(tmp_path, brain)
    save_image(next(brain.glob(name)), np.zeros((40, 48), np.uint8))
    assert of(tmp_path, brain) != before


def test_a_moved_image_counts(tmp_path: Path, brain: Path):
    before = of(tmp_path, brain)
    image = next((brain / "train/good/img").iterdir())
    image.rename(brain / "test/good/img" / image.name)
    assert of(tmp_path, brain) != before


@pytest.mark.parametrize(
    "change", [{"patient": "p9"}, {"label": None}, {"split": "valid"}, {"kind": "cyst"}]
)
def test_what_is_known_of_an_image_counts(tmp_path: Path, brain: Path, change: dict[str, Any]):
    manifest = read_manifest(brain)
    *rows, last = manifest.rows
    changed = replace(manifest, rows=(*rows, replace(last, **change)))
    found = Fingerprints(tmp_path).of_manifests
    assert found([changed]) != found([manifest])


def test_content_is_read_once(tmp_path: Path, brain: Path, monkeypatch: pytest.MonkeyPatch):
    known = of(tmp_path, brain)
    with monkeypatch.context() as patch:
        patch.setattr(fingerprints, "_hash", lambda file: pytest.fail("read again"))
        assert of(tmp_path, brain) == known
    (tmp_path / FINGERPRINTS_FILE).write_text("{damaged")
    assert of(tmp_path, brain) == known


def test_questions_and_pictures_count(tmp_path: Path):
    corpus = read_corpus(write_tiny_corpus(tmp_path / "vqa", {"train": 1, "test": 1}))
    found = Fingerprints(tmp_path).of_corpus(corpus)
    assert Fingerprints(tmp_path).of_corpus(corpus) == found
    fewer = corpus.only(lambda item: item.id != corpus.items[0].id)
    assert Fingerprints(tmp_path).of_corpus(fewer) != found


def test_weights_count_in_their_order(tmp_path: Path):
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.write_bytes(file.name.encode())
    known = Fingerprints(tmp_path)
    assert known.of_weights([]) == ""
    assert len({known.of_weights(some) for some in (files, files[::-1], files[:1])}) == 3


def test_a_missing_file_is_named(tmp_path: Path, brain: Path):
    manifest = read_manifest(brain)
    manifest.rows[0].path.unlink()
    with pytest.raises(DataError, match=rf"{manifest.rows[0].path.name}: No such file"):
        Fingerprints(tmp_path).of_manifests([manifest])
