"""Worker processes: the same rows as one process, and what happens when one dies or is stopped."""

import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scanomaly.errors import CheckpointError
from scanomaly.scoring import ScoringError, ScoringOptions, score_manifest
from scanomaly.scoring.local import devices_for
from scanomaly.scoring.progress import Progress
from scoring.test_archive import SHARD, rows_in, write_manifest

TWO = replace(SHARD, workers=2)


class TestDevices:
    """One worker per GPU, else one; or as many as asked for."""

    @pytest.mark.parametrize(
        ("cards", "asked", "workers", "expected"),
        [
            (0, "auto", None, ["auto"]),
            (0, "cpu", 3, ["cpu"] * 3),
            (2, "auto", None, ["cuda:0", "cuda:1"]),
            (2, "cuda", 3, ["cuda:0", "cuda:1", "cuda:0"]),
            (2, "cuda:1", None, ["cuda:1"]),
            (2, "cpu", None, ["cpu"]),
        ],
    )
    def test_of_each_worker(self, monkeypatch, cards, asked, workers, expected):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
        assert devices_for(asked, workers) == expected


@pytest.mark.slow
class TestProcesses:
    """Each test starts processes and pays for their imports."""

    def test_the_same_rows_and_a_worker_that_dies(self, tiny, tmp_path):
        manifest = write_manifest(tmp_path / "m.csv", tiny, ("gone,gone.png,,",))
        here, there = tmp_path / "here", tmp_path / "there"
        score_manifest(tiny.folder, manifest, here, SHARD)

        def murder(_: Progress) -> None:
            for process in multiprocessing.active_children():
                os.kill(process.pid, signal.SIGKILL)

        with pytest.raises(ScoringError, match=r"a worker process died, .*Give fewer --workers"):
            score_manifest(tiny.folder, manifest, there, TWO, progress=murder)
        left = len(rows_in(there)) if (there / "shards").exists() else 0
        told: list[Progress] = []
        summary = score_manifest(tiny.folder, manifest, there, TWO, progress=told.append)
        assert summary.images == 21 - left
        assert (summary.rows, summary.failed) == (21, 1)
        assert rows_in(there) == rows_in(here)
        assert told[-1].total == 21
        assert not multiprocessing.active_children()

    def test_a_workers_error_is_ours_and_ends_all(self, run_copy, tiny, tmp_path):
        manifest = write_manifest(tmp_path / "m.csv", tiny)
        (run_copy / "model.safetensors").write_bytes(b"x")
        options = ScoringOptions(workers=2, shard_rows=1, device="cpu")
        with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
            score_manifest(run_copy, manifest, tmp_path / "out", options)
        assert not multiprocessing.active_children()
        assert not Path(tmp_path / "out" / "shards").exists()
