"""A manifest to shards: every row once, what evaluate would say, going on, and what is refused."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from scanomaly.data.manifest import Manifest
from scanomaly.errors import CheckpointError, DataError
from scanomaly.inference import FittedDetector
from scanomaly.scoring import ScoringError, ScoringOptions, Summary, score_manifest
from scanomaly.scoring.shards import COLUMNS

SHARD = ScoringOptions(shard_rows=4, device="cpu")
Row = tuple[object, ...]


def write_manifest(path: Path, tiny, extra: tuple[str, ...] = ()) -> Path:
    """The ten test images in two rows each, ids of the data set's with a number."""
    lines = ["id,path,label,patient", *extra]
    for round_ in (0, 1):
        for row in tiny.manifest.split("test"):
            lines.append(f"{row.id}#{round_},{row.path},{int(row.label)},{row.patient or ''}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def rows_in(out: Path) -> list[Row]:
    """In the order of the shards."""
    files = sorted((out / "shards").iterdir())
    columns = [pyarrow.parquet.read_table(file).to_pydict() for file in files]
    assert all(tuple(one) == COLUMNS for one in columns)
    return [row for one in columns for row in zip(*one.values(), strict=True)]


@pytest.fixture
def manifest(tiny, tmp_path) -> Path:
    return write_manifest(tmp_path / "data" / "manifest.csv", tiny)


@pytest.fixture
def score(tiny, manifest, tmp_path) -> Callable[..., Summary]:
    def run(options: ScoringOptions = SHARD, out: str = "out") -> Summary:
        return score_manifest(tiny.folder, manifest, tmp_path / out, options)

    return run


class TestRows:
    """What is in the shards."""

    def test_every_row_with_the_score_of_its_image(self, tiny, score, tmp_path):
        summary = score()
        assert (summary.rows, summary.failed, summary.images) == (20, 0, 20)
        rows = rows_in(tmp_path / "out")
        test = tiny.manifest.split("test").rows
        expected = [replace(row, id=f"{row.id}#{i}") for i in (0, 1) for row in test]
        assert [row[:3] for row in rows] == [(r.id, r.patient, r.label) for r in expected]
        plain = {one.row.id: one.score for one in tiny.fitted.score_rows(Manifest(test, "", ""))}
        for name, _, _, value, p_value, flagged, error in rows:
            assert value == pytest.approx(plain[name[:-2]], rel=1e-5)
            assert (p_value, flagged) == tiny.fitted.meaning(value)
            assert error is None

    def test_shards_are_of_one_size_but_the_last(self, score, tmp_path):
        score(replace(SHARD, shard_rows=6))
        files = sorted((tmp_path / "out" / "shards").iterdir())
        assert [file.name for file in files] == [f"shard-{i:06d}.parquet" for i in range(4)]
        counts = [pyarrow.parquet.read_metadata(file).num_rows for file in files]
        assert counts == [6, 6, 6, 2]

    def test_without_calibration(self, run_copy, manifest, tmp_path):
        (run_copy / "calibration.json").unlink()
        score_manifest(run_copy, manifest, tmp_path / "out", SHARD)
        assert {row[4:6] for row in rows_in(tmp_path / "out")} == {(None, None)}

    def test_images_that_fail_are_rows_with_their_error(self, tiny, tmp_path):
        folder = tmp_path / "data"
        bad = ("gone,gone.png,1,p", "text,text.png,,", "many,many.csv,0,")
        manifest = write_manifest(folder / "manifest.csv", tiny, bad)
        (folder / "text.png").write_text("no image")
        (folder / "many.csv").write_text("a,b\n")
        summary = score_manifest(tiny.folder, manifest, tmp_path / "out", SHARD)
        assert (summary.rows, summary.failed) == (23, 3)
        assert summary.examples[0] == (
            f"gone: {folder / 'gone.png'}: cannot be read (No such file or directory); check the "
            "path."
        )
        rows = {row[0]: row[1:] for row in rows_in(tmp_path / "out")}
        assert rows["gone"][:5] == ("p", True, None, None, None)
        assert "text.png: expected an image" in str(rows["text"][-1])
        assert "many.csv: expected an image" in str(rows["many"][-1])
        assert sum(row[-1] is None for row in rows.values()) == 20

    def test_not_one_image(self, tiny, tmp_path):
        (tmp_path / "m.csv").write_text("path\na.png\nb.png\n")
        with pytest.raises(DataError, match=r"not one of 2 images could be scored \(a\.png: .*ret"):
            score_manifest(tiny.folder, tmp_path / "m.csv", tmp_path / "out", SHARD)

    def test_maps_lie_beside_the_shards_row_by_row(self, tiny, tmp_path):
        manifest = write_manifest(tmp_path / "m.csv", tiny, ("gone,gone.png,,", "last,gone.png,,"))
        score_manifest(tiny.folder, manifest, tmp_path / "out", replace(SHARD, maps=True))
        side = tiny.fitted.detector.input_spec.side
        plain = [one.anomaly_map for one in tiny.fitted.score_rows(tiny.manifest.split("test"))]
        first = np.load(tmp_path / "out" / "maps" / "shard-000000.npy", mmap_mode="r")
        assert first.shape == (4, side, side)
        assert first.dtype == np.float32
        assert np.isnan(first[:2]).all(), "failed: no map"
        assert first[2:] == pytest.approx(np.stack(plain[:2]), rel=1e-4, abs=1e-6)
        last = np.load(tmp_path / "out" / "maps" / "shard-000005.npy")
        assert last.shape == (2, side, side)


class TestGoingOn:
    """After a stop: finished shards are skipped, the others done."""

    def test_only_what_is_missing_is_scored(self, score, tmp_path):
        score()
        rows = rows_in(tmp_path / "out")
        shards = tmp_path / "out" / "shards"
        kept = os.stat(shards / "shard-000000.parquet").st_mtime_ns
        (shards / "shard-000001.parquet").unlink()
        cut = shards / "shard-000003.parquet"
        cut.write_bytes(cut.read_bytes()[:-9])  # as a power failure may leave it
        (shards / ".shard-000001.parquet.77.part").write_text("half")
        assert score().images == 8
        assert rows_in(tmp_path / "out") == rows
        assert os.stat(shards / "shard-000000.parquet").st_mtime_ns == kept
        assert not list(shards.glob(".*")), "halves are removed"
        assert score().images == 0

    def test_it_stops_at_any_image(self, tiny, manifest, score, tmp_path, monkeypatch):
        plain, calls = FittedDetector._predicted, []

        def stops(self, pairs, with_parts=False):
            calls.append(pairs)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return plain(self, pairs, with_parts)

        monkeypatch.setattr(FittedDetector, "_predicted", stops)
        with pytest.raises(KeyboardInterrupt):
            score()
        assert len(rows_in(tmp_path / "out")) == 8
        assert score().images == 12
        score(out="whole")
        assert rows_in(tmp_path / "out") == rows_in(tmp_path / "whole")

    def test_the_size_of_shards_is_remembered(self, score, tmp_path):
        score()
        assert score(replace(SHARD, shard_rows=None)).images == 0

    def test_the_manifest_is_compared_with_itself_only_once(self, score, monkeypatch):
        score()
        monkeypatch.setattr("scanomaly.data.streaming.StreamedManifest.check", lambda _: 1 / 0)
        assert score().images == 0

    def test_images_that_failed_are_tried_again_when_asked(self, tiny, tmp_path):
        manifest = write_manifest(tmp_path / "m.csv", tiny, ("late,late.png,,",))
        out = tmp_path / "out"
        assert score_manifest(tiny.folder, manifest, out, SHARD).failed == 1
        shutil.copy(tiny.scan, tmp_path / "late.png")
        assert score_manifest(tiny.folder, manifest, out, SHARD).failed == 1
        again = score_manifest(tiny.folder, manifest, out, replace(SHARD, retry_failed=True))
        assert (again.failed, again.images) == (0, 4)


class TestRefused:
    """A folder belongs to one run, one manifest and one way of scoring."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"shard_rows": 5}, "another --shard-rows"),
            ({"precision": "bf16"}, "another --precision"),
            ({"maps": True, "shard_rows": 5}, "another --shard-rows and another choice of --maps"),
        ],
    )
    def test_other_options(self, score, change, message):
        score()
        with pytest.raises(ScoringError, match=rf"out was begun with {message}; go on with what"):
            score(replace(SHARD, **change))

    def test_another_manifest(self, score, manifest):
        score()
        manifest.write_text(manifest.read_text() + "one more,x.png,,\n")
        with pytest.raises(ScoringError, match="begun with another manifest or another state"):
            score()

    @pytest.mark.parametrize("file", ["model.safetensors", "calibration.json", "run.yaml"])
    def test_another_state_of_the_run(self, run_copy, manifest, tmp_path, file):
        score_manifest(run_copy, manifest, tmp_path / "out", SHARD)
        with (run_copy / file).open("ab") as opened:
            opened.write(b"\n")
        with pytest.raises(ScoringError, match="begun with another run or another state of it"):
            score_manifest(run_copy, manifest, tmp_path / "out", SHARD)

    def test_a_folder_of_other_files(self, score, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.doc").write_text("x")
        with pytest.raises(ScoringError, match="out holds other files; give a new or empty folder"):
            score()

    def test_a_folder_that_a_kill_left_at_once(self, score, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / ".job.json.77.part").write_text("{")
        assert score().rows == 20

    def test_a_damaged_job(self, score, tmp_path):
        score()
        (tmp_path / "out" / "job.json").write_text("{")
        with pytest.raises(CheckpointError, match=r"job\.json is damaged"):
            score()

    def test_ids_given_twice_score_nothing(self, tiny, tmp_path):
        (tmp_path / "m.csv").write_text("id,path\na,x.png\nb,y.png\na,z.png\n")
        with pytest.raises(DataError, match="'a' in rows 2 and 4"):
            score_manifest(tiny.folder, tmp_path / "m.csv", tmp_path / "out", SHARD)
        assert not (tmp_path / "out").exists()

    def test_no_run(self, manifest, tmp_path):
        with pytest.raises(CheckpointError, match=r"expected a run folder with run\.yaml"):
            score_manifest(tmp_path, manifest, tmp_path / "out", SHARD)

    @pytest.mark.parametrize(
        ("change", "message"),
        [({"workers": 0}, "one worker, got 0"), ({"shard_rows": 0}, "one row a shard, got 0")],
    )
    def test_numbers_below_one(self, score, change, message):
        with pytest.raises(ScoringError, match=f"expected at least {message}"):
            score(replace(SHARD, **change))
