"""Weights from the Hugging Face hub to a directory.

The only code of the backbones that touches the network.
"""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from scanomaly.backbones.weights.inventory import Pretrained, describe
from scanomaly.backbones.weights.places import weight_file
from scanomaly.backbones.weights.verification import (
    RECORD,
    file_problems,
    record_problems,
    sha256,
)
from scanomaly.errors import WeightsError

RECORD_FORMAT = 1
CHUNK = 1 << 20
TIMEOUT_IN_SECONDS = 30

Progress = Callable[[str, int, int], None]
"""Called with a file's name, its bytes so far and its bytes in all, after every megabyte."""


def fetch(
    name: str, to: Path | str, *, progress: Progress | None = None, offline: bool = False
) -> Path:
    """Download the weights of `name` to the folder `to`/NAME and record their sha256 sums.

    What is there already and whole is kept. A broken download goes on where it stopped, since it
    lies in NAME.partial until everything has arrived.
    Raises WeightsError under `offline` or HF_HUB_OFFLINE, without network or room on the disk,
    for weights that are on no hub, and if what arrived does not fit the architecture.
    """
    entry = describe(name)
    if not entry.repository:
        raise WeightsError(f"{entry.name} is on no hub; make it with `{entry.command} --out {to}`.")
    folder = Path(to).expanduser() / entry.name
    if folder.is_dir() and record_problems(folder, require=True) == []:
        return folder
    _refuse_if_offline(entry, folder, offline)
    _require_room(entry, folder.parent)
    partial = folder.with_name(f"{folder.name}.partial")
    _download(entry, partial, progress or (lambda file, done, total: None))
    _write_record(entry, partial)
    problems = file_problems(weight_file(partial, entry.name), entry.name)
    if problems:
        shutil.rmtree(partial, ignore_errors=True)
        raise WeightsError(f"what came for {entry.name} is not usable: {'; '.join(problems)}.")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def _refuse_if_offline(entry: Pretrained, folder: Path, offline: bool) -> None:
    forbidden = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    if offline or forbidden:
        reason = "offline was asked for" if offline else "HF_HUB_OFFLINE is set"
        raise WeightsError(
            f"{entry.name} was not fetched because {reason}; on a machine with network, copy "
            f"https://huggingface.co/{entry.repository} to {folder}."
        )


def _require_room(entry: Pretrained, directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(directory).free // 1_000_000
    except OSError as error:
        raise WeightsError(f"{directory} cannot be written to ({error}).") from error
    if entry.megabytes and free < entry.megabytes:
        raise WeightsError(
            f"{entry.name} needs {entry.megabytes} MB and {directory} has {free} MB free; "
            "give another --to directory."
        )


def _download(entry: Pretrained, partial: Path, progress: Progress) -> None:
    try:
        partial.mkdir(exist_ok=True)
        for file in entry.files:
            _download_file(entry.repository, partial / file, progress)
    except Exception as error:  # no network, unknown repository, disk full: a dozen classes
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise WeightsError(
            f"{entry.name} could not be fetched from https://huggingface.co/{entry.repository} "
            f"({reason}); fetch again to go on where it stopped, or copy that repository to "
            f"{partial.with_suffix('')}."
        ) from error


def _download_file(repository: str, target: Path, progress: Progress) -> None:
    """`target`, going on with what an earlier try left in `target`.part.

    The hub's own client, huggingface_hub 2.4, starts again at 0 in a new process. Raises OSError
    if the connection brings no more, or if the whole has not the sum that the hub states.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    if target.is_file():
        return
    url = hf_hub_url(repository, target.name)
    known = get_hf_file_metadata(url)
    part, size = target.with_name(f"{target.name}.part"), known.size or 0
    done, before = part.stat().st_size if part.is_file() else 0, -1
    while done < size and done > before:  # a line that drops but brings something is tried again
        before, done = done, _append(url, part, done, lambda now: progress(target.name, now, size))
    if done != size:
        raise OSError(f"{target.name} stopped after {done} of {size} bytes")
    if known.etag and len(known.etag) == 64 and sha256(part) != known.etag:
        part.unlink()
        raise OSError(f"{target.name} came with another sha256 than the hub states")
    part.rename(target)


def _append(url: str, part: Path, done: int, progress: Callable[[int], None]) -> int:
    """Add what `url` has beyond `done` bytes to `part`; the bytes it holds then."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    with (
        urllib.request.urlopen(request, timeout=TIMEOUT_IN_SECONDS) as answer,
        part.open("ab" if answer.status == 206 else "wb") as stream,
    ):
        while chunk := answer.read(CHUNK):
            stream.write(chunk)
            progress(stream.tell())
        return stream.tell()


def _write_record(entry: Pretrained, folder: Path) -> None:
    files = {
        file.name: {"sha256": sha256(file), "bytes": file.stat().st_size}
        for file in sorted(folder.iterdir())
        if file.is_file() and file.name != RECORD
    }
    record = {
        "format": RECORD_FORMAT,
        "name": entry.name,
        "repository": entry.repository,
        "licence": entry.licence,
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": files,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
