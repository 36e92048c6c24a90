"""What the doctor says: findings, the sets they are about, and whether it is safe to go on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from scanomaly.files import write_text

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""error: results would be wrong or the run fails; warning: look before you believe them."""
SHOWN_FILES = 3
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the table. files: a few of those it is about; dataset: "" when about all."""

    severity: Severity
    check: str
    found: str
    remedy: str
    files: tuple[str, ...] = ()
    dataset: str = ""


@dataclass(frozen=True, slots=True)
class Examined:
    """One set that was looked at. counts: split -> [normal, abnormal, unlabelled] images."""

    dataset: str
    root: str
    source: str
    images: int
    masks: int
    counts: Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that was found, errors first."""

    sets: tuple[Examined, ...]
    findings: tuple[Finding, ...]

    @property
    def safe(self) -> bool:
        """Whether there is no error."""
        return not any(finding.severity == "error" for finding in self.findings)

    @property
    def images(self) -> int:
        return sum(examined.images for examined in self.sets)

    def counts(self) -> dict[Severity, int]:
        """How many findings of each severity."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "format": FORMAT,
            "safe": self.safe,
            "counts": self.counts(),
            "sets": [asdict(examined) for examined in self.sets],
            "findings": [asdict(finding) for finding in self.findings],
        }


def write_json(diagnosis: Diagnosis, path: Path) -> None:
    """Raises DiskError."""
    write_text(path, json.dumps(diagnosis.as_dict(), indent=2, ensure_ascii=False) + "\n")
