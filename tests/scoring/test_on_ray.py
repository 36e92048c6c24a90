"""Shards on a Ray cluster: the rows of one process, nodes that go away, errors with their node."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from scanomaly.errors import CheckpointError, WeightsError
from scanomaly.ray_cluster import ClusterError
from scanomaly.scoring import ScoringError, on_ray, score_manifest
from scoring.test_archive import SHARD, rows_in, write_manifest
from tiny_cluster import TinyCluster, tiny_cluster
from tiny_runs import TinyRun

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[TinyCluster]:
    with tiny_cluster(workers=2) as made:
        yield made


def test_errors_name_the_node(cluster: TinyCluster, tiny: TinyRun, run_copy: Path, tmp_path: Path):
    manifest = write_manifest(tmp_path / "m.csv", tiny)
    (run_copy / "model.safetensors").write_bytes(b"x")
    options = replace(SHARD, ray=cluster.address)
    message = rf"^on {socket.gethostname()}: .*model\.safetensors is damaged"
    with pytest.raises(CheckpointError, match=message):
        score_manifest(run_copy, manifest, tmp_path / "out", options)


def test_a_worker_without_the_weights_says_which(
    cluster: TinyCluster, tiny: TinyRun, run_copy: Path, tmp_path: Path
):
    manifest = write_manifest(tmp_path / "m.csv", tiny)
    words = (run_copy / "run.yaml").read_text()
    assert str(tiny.weights) in words
    (run_copy / "run.yaml").write_text(words.replace(str(tiny.weights), str(tmp_path / "gone")))
    message = rf"^on {socket.gethostname()}: .*{tmp_path / 'gone'}.* does not exist"
    with pytest.raises(WeightsError, match=message):
        score_manifest(run_copy, manifest, tmp_path / "out", replace(SHARD, ray=cluster.address))
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_workers_that_never_start(
    cluster: TinyCluster, tiny: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    manifest = write_manifest(tmp_path / "m.csv", tiny)
    monkeypatch.setattr(on_ray, "PATIENCE_SECONDS", 0.0)
    share = on_ray._Share(workers=1, cpus=64, gpus=0)
    monkeypatch.setattr(on_ray._Share, "of", lambda *_: share)
    with pytest.raises(ScoringError, match=r"no worker of 64 CPUs and 0 GPUs started .*--workers"):
        score_manifest(tiny.folder, manifest, tmp_path / "out", replace(SHARD, ray=cluster.address))


def test_a_node_that_goes_away_costs_no_row(
    cluster: TinyCluster,
    tiny: TinyRun,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    """Last: one node is left behind. More workers are asked for than there is room."""
    manifest = write_manifest(tmp_path / "m.csv", tiny, ("gone,gone.png,,",))
    options = replace(SHARD, shard_rows=1, ray=cluster.address, workers=5)
    monkeypatch.setattr("scanomaly.scoring.progress.REPORT_SECONDS", 0.0)
    killed: list[int] = []

    def kill(progress: object) -> None:
        if not killed:
            killed.append(1)
            cluster.kill(cluster.computing())

    summary = score_manifest(tiny.folder, manifest, tmp_path / "there", options, progress=kill)
    assert (summary.rows, summary.failed, summary.images) == (21, 1, 21)
    assert "a worker was lost" in caplog.text
    score_manifest(tiny.folder, manifest, tmp_path / "here", replace(SHARD, shard_rows=1))
    assert rows_in(tmp_path / "there") == rows_in(tmp_path / "here")


class Nodes:
    """What ray tells of a cluster."""

    def __init__(self, *resources: dict[str, float]) -> None:
        self._resources = resources

    def nodes(self) -> list[dict[str, object]]:
        return [{"Alive": True, "Resources": one} for one in self._resources]


@pytest.mark.parametrize(
    ("nodes", "device", "workers", "expected"),
    [
        ([{}, {"CPU": 4}, {"CPU": 6}], "auto", None, (2, 4, 0)),
        ([{"CPU": 4}, {"CPU": 4}], "cpu", 4, (4, 2, 0)),
        ([{"CPU": 4}, {"CPU": 4}], "auto", 1, (1, 4, 0)),
        ([{"CPU": 2}], "cpu", 5, (5, 1, 0)),
        ([{"CPU": 16, "GPU": 2}, {"CPU": 16, "GPU": 2}], "auto", None, (4, 8, 1)),
        ([{"CPU": 16, "GPU": 2}, {"CPU": 16, "GPU": 2}], "cuda", 1, (1, 8, 1)),
        ([{"CPU": 16, "GPU": 2}], "cpu", None, (1, 16, 0)),
    ],
)
def test_what_each_worker_takes(nodes, device, workers, expected):
    share = on_ray._Share.of(Nodes(*nodes), device, workers)
    assert (share.workers, share.cpus, share.gpus) == expected


def test_a_cluster_without_a_cpu():
    with pytest.raises(ClusterError, match="no CPU for a worker; add nodes"):
        on_ray._Share.of(Nodes({"memory": 1e9}), "auto", None)
