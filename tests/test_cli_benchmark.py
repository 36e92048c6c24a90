"""The benchmark as its user types it: list, run, a kill, a cluster, report, import, score."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest
from safetensors.torch import load_file

import tiny_benchmark
from importing.published_files import saved
from importing.tiny_published import QFAE_SIZES, qfae_run, qfae_tensors, save_golden_encoder
from scanomaly.bench.jobs import load_plan, runs_folder
from scanomaly.bench.results import RESULT_FILE
from scanomaly.config.fit import FitOptions
from tiny_benchmark import NAME, PUBLISHED, RIVAL, ROW, STYLES
from tiny_cluster import TinyCluster, tiny_cluster

pytest.importorskip("ray")
PATIENTS, SEEDS, PROTOCOLS = 24, 2, 2
PATIENCE = 300.0


@pytest.fixture(scope="module")
def cluster():
    with tiny_cluster(workers=2) as made:
        yield made


def kill_after_the_first_job(words: list[object], runs: Path) -> dict[Path, int]:
    """Results that were there when the driver died -> when they were written."""
    told = runs.parent.with_name("told.txt")
    with (
        told.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, tiny_benchmark.__file__, *map(str, words)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            stderr=stderr,
        ) as driver,
    ):
        try:
            deadline = time.monotonic() + PATIENCE
            while not list(runs.glob(f"*/{RESULT_FILE}")):
                assert driver.poll() is None, told.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            driver.send_signal(signal.SIGKILL)
    return {file: file.stat().st_mtime_ns for file in runs.glob(f"*/{RESULT_FILE}")}


@pytest.mark.slow
def test_from_the_list_to_scores(
    command, golden, monkeypatch, cluster: TinyCluster, tmp_path: Path
):
    sizes = QFAE_SIZES["decoder"]
    encoder = save_golden_encoder(
        tmp_path / "encoder", load_file(golden("qfae_encoder.safetensors"))
    )
    fit = FitOptions(epochs=1, batch_size=8, accelerator="cpu")
    run = qfae_run(sizes, encoder, tmp_path / "weights").model_copy(update={"fit": fit})
    run.save(tmp_path)
    tiny_benchmark.offer(tmp_path / "run.yaml", monkeypatch.setitem)
    data, bench, runs = (tmp_path / name for name in ("data", "bench", "runs"))
    styles = [word for style in STYLES for word in ("--styles", style)]
    assert command("phantom", data, *styles, "--patients", PATIENTS, "--slices", 2).code == 0

    assert f"{NAME} " in command("bench", "list").out
    assert f"{PUBLISHED}" in command("bench", "list", NAME).out

    words = ["bench", "run", NAME, "--data", data, "--out", bench, "--seeds", "1,2"]
    words += ["--protocol", "honest,paper", "--device", "cpu"]
    local = [tmp_path / "run.yaml", *words, "--workers", 1, "--threads", 1]
    there = kill_after_the_first_job(local, bench / "runs")
    jobs = len(STYLES) * SEEDS * PROTOCOLS
    assert 0 < len(there) < jobs, "killed in the middle"
    done = command(*words, "--ray", cluster.address)
    assert done.code == 0, done.err
    rest = f"{jobs - len(there)} jobs computed, {len(there)} had been finished before"
    assert done.out.startswith(rest)
    assert {file: file.stat().st_mtime_ns for file in there} == there, "not computed again"
    plan = load_plan(bench, NAME)
    assert plan is not None
    assert len({cell.digest for cell in plan.cells}) == jobs
    assert all(
        (runs_folder(bench, str(cell.digest)) / RESULT_FILE).is_file() for cell in plan.cells
    )
    assert command(*words).out.startswith(f"0 jobs computed, {jobs} had been")

    reported = command("bench", "report", bench)
    assert f"{jobs} of {jobs} runs finished" in reported.out
    assert (bench / "report" / f"{NAME}.html").is_file()
    assert f"| {RIVAL} | {PUBLISHED} |" in (bench / "report" / f"{NAME}.md").read_text("utf-8")
    with (bench / "report" / f"{NAME}.csv").open(encoding="utf-8") as file:
        ours = [line for line in csv.DictReader(file) if line["row"] == ROW]
    assert {(line["column"], line["published"]) for line in ours} == {
        (name, str(PUBLISHED)) for name in (*STYLES.values(), "mean of 2 columns")
    }

    file = saved(qfae_tensors(run, sizes), tmp_path / "last_ckpt.pth")
    imported = command("import", "qfae", file, "--preset", "tiny", "--out", runs / "published")
    assert imported.code == 0, imported.err
    manifest = data / "Retinal_OCT" / "phantom.csv"
    scored = command(
        *("score", runs / "published", manifest, "--out", tmp_path / "scores"),
        *("--ray", cluster.address, "--shard-rows", 16),
    )
    assert scored.code == 0, scored.err
    table = pyarrow.parquet.read_table(tmp_path / "scores" / "shards").to_pydict()
    with manifest.open(encoding="utf-8") as rows:
        ids = [row["id"] for row in csv.DictReader(rows)]
    assert sorted(table["id"]) == sorted(ids), "every image once"
    assert all(score is not None for score in table["score"])
    assert len(set(table["score"])) > len(ids) // 2
