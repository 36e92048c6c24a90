"""`scanomaly score`: what it prints, what it refuses, and a kill in the middle of 2,000 rows."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scanomaly.scoring import ScoringOptions, score_manifest
from scoring.test_archive import rows_in, write_manifest
from tiny_runs import TinyRun, save_image, slice_pixels

ROWS, SHARD_ROWS = 2000, 50


def test_what_is_printed(command, tiny, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", tiny, ("gone,gone.png,,",))
    words = ("score", tiny.folder, manifest, "--out", tmp_path / "out", "--device", "cpu")
    done = command(*words)
    assert done.code == 0, done.err
    failed, counted, now, place = done.out.splitlines()
    assert failed.startswith("could not be scored: gone: ")
    assert counted == "1 of 21 images could not be scored; see `error`."
    assert now.startswith("scored now: 21 images, ")
    assert place == f"scores: 21 rows in {tmp_path / 'out' / 'shards'}"
    assert "scored now: 0 images" in command(*words).out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ray", "nonsense"], r"expected --ray auto, HOST:PORT or ray://HOST:PORT, got 'nonsen"),
        (["--ray", "127.0.0.1:1"], r"127\.0\.0\.1:1.* does not answer .*`ray start --head`"),
        (["--workers", "0"], r"expected at least one worker, got 0"),
        (["--device", "toaster"], r"device 'toaster' cannot be used here"),
    ],
)
def test_bad_options(refused, tiny, tmp_path, words, message):
    manifest = write_manifest(tmp_path / "m.csv", tiny)
    refused(message, "score", tiny.folder, manifest, "--out", tmp_path / "out", *words)


def test_bad_manifests(refused, tiny, tmp_path):
    words = ("--out", tmp_path / "out")
    refused(r"m\.csv: .*found no such file", "score", tiny.folder, tmp_path / "m.csv", *words)
    (tmp_path / "m.csv").write_text("id,path\na,x.png\na,y.png\n")
    refused(r"found 'a' in rows 2 and 3\.", "score", tiny.folder, tmp_path / "m.csv", *words)


@pytest.mark.slow
def test_a_kill_in_the_middle_loses_and_repeats_no_row(tiny: TinyRun, tmp_path: Path):
    for index in range(20):
        save_image(tmp_path / f"{index}.png", slice_pixels(index)[0])
    lines = [f"id{i},{'gone' if i % 400 == 9 else i % 20}.png" for i in range(ROWS)]
    (tmp_path / "m.csv").write_text("\n".join(["id,path", *lines]) + "\n")
    code = "from scanomaly.cli import main; main()"
    options = [tiny.folder, tmp_path / "m.csv", "--out", tmp_path / "out", "--workers", 2]
    words = [sys.executable, "-c", code, "score", *options, "--shard-rows", SHARD_ROWS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    shards = tmp_path / "out" / "shards"
    with subprocess.Popen(list(map(str, words)), env=environment) as process:
        patience = time.monotonic() + 300
        while time.monotonic() < patience and process.poll() is None:
            if len(list(shards.glob("*.parquet"))) >= ROWS // SHARD_ROWS // 3:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    there = {file: file.stat().st_mtime_ns for file in shards.glob("*.parquet")}
    assert 0 < len(there) < ROWS // SHARD_ROWS, "killed in the middle"
    done = subprocess.run(
        list(map(str, words)), env=environment, capture_output=True, text=True, check=True
    )
    assert "5 of 2000 images could not be scored" in done.stdout
    assert {file: file.stat().st_mtime_ns for file in there} == there, "finished shards are kept"
    rows = rows_in(tmp_path / "out")
    assert sorted(row[0] for row in rows) == sorted(f"id{i}" for i in range(ROWS))
    whole = ScoringOptions(shard_rows=SHARD_ROWS, device="cpu")
    score_manifest(tiny.folder, tmp_path / "m.csv", tmp_path / "whole", whole)
    assert rows == rows_in(tmp_path / "whole"), "as if nobody had killed it"
