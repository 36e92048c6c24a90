"""What an output folder was begun with, so that nothing else goes on in it: job.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scanomaly.checkpoint import CALIBRATION_FILE
from scanomaly.config.experiment import MODEL_FILE, RUN_FILE
from scanomaly.errors import ScanomalyError
from scanomaly.files import write_text
from scanomaly.run_folder import read_json

JOB_FILE = "job.json"
JOB_FORMAT = 1

OTHERS: Mapping[str, str] = {
    "detector": "another run or another state of it",
    "manifest": "another manifest or another state of it",
    "shard_rows": "another --shard-rows",
    "precision": "another --precision",
    "maps": "another choice of --maps",
}
"""Field of a job -> what differs, in words."""


class ScoringError(ScanomalyError):
    """Scoring of a manifest cannot start or go on; finished shards are kept."""


@dataclass(frozen=True, slots=True)
class ScoringJob:
    """Everything that decides what is in the shards."""

    detector: str
    """Digest of the run folder's model, configuration and calibration."""
    manifest: str
    rows: int
    shard_rows: int
    precision: str
    maps: bool
    format: int = JOB_FORMAT

    @property
    def shards(self) -> int:
        """How many there are in the end."""
        return -(-self.rows // self.shard_rows)

    def rows_in(self, shard: int) -> int:
        """All are of one size but the last."""
        return min(self.shard_rows, self.rows - shard * self.shard_rows)

    def save(self, out: Path) -> None:
        write_text(out / JOB_FILE, json.dumps(asdict(self), indent=1))


def detector_digest(run: Path) -> str:
    """Of the files that decide the scores; a file that is not there counts as empty."""
    digest = hashlib.blake2b(digest_size=16)
    for name in (RUN_FILE, MODEL_FILE, CALIBRATION_FILE):
        file = run / name
        content = file.read_bytes() if file.is_file() else b""
        digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def begun(out: Path, asked: Mapping[str, Any]) -> ScoringJob | None:
    """The job of a folder, None for a new or empty one.

    asked: fields of a ScoringJob that must agree. Raises ScoringError when they do not or when the
    folder holds other files, and CheckpointError for a damaged job.json.
    """
    values = read_json(out / JOB_FILE, JOB_FORMAT)
    if values is None:
        if out.exists() and not _is_empty(out):
            raise ScoringError(f"{out} holds other files; give a new or empty folder.")
        return None
    differing = [
        words for name, words in OTHERS.items() if name in asked and asked[name] != values.get(name)
    ]
    if differing or values.keys() != ScoringJob.__dataclass_fields__.keys():
        raise ScoringError(
            f"{out} was begun with {' and '.join(differing) or 'other fields in ' + JOB_FILE}; go "
            "on with what it was begun with, or give another folder. Its shards are kept."
        )
    return ScoringJob(**values)


def _is_empty(out: Path) -> bool:
    """Nothing but halves of files that a kill left behind."""
    return out.is_dir() and all(
        path.name.startswith(".") and path.suffix == ".part" for path in out.iterdir()
    )
