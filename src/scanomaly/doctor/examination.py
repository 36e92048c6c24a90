"""All sets at a path through all checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from scanomaly.data.manifest import Manifest
from scanomaly.doctor.checks import CHECKS, CHECKS_ACROSS
from scanomaly.doctor.findings import SEVERITIES, Diagnosis, Examined, Finding
from scanomaly.doctor.sources import find_sources
from scanomaly.doctor.survey import Measuring, Survey, files_of, survey

Progress = Callable[[int, int], None]
"""(files done, files in all)"""


def examine(
    data: Path,
    dataset: str | None = None,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """What is wrong with the data at `data`: one set, several, a manifest, triples, any folder.

    dataset: as of `read_manifest`; without it every set of a folder. workers: processes that
    decode; None takes the cores there are. Every file is decoded once; between sets only digests
    are kept. Raises DataError when there is nothing to look at, for an unknown `dataset`, and when
    a worker is killed.
    """
    sources = [(source, files_of(source)) for source in find_sources(Path(data), dataset)]
    total = sum(len(files) for _, files in sources)
    done = 0

    def seen() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    sets: list[Examined] = []
    findings: list[Finding] = []
    digests: dict[str, Mapping[bytes, str]] = {}
    with Measuring(workers, total) as each:
        for source, files in sources:
            surveyed = survey(source, files, each, seen)
            name = source.manifest.dataset
            findings += [replace(f, dataset=name) for check in CHECKS for f in check(surveyed)]
            sets.append(_examined(surveyed))
            if len(sources) > 1:
                digests.setdefault(name, _digests(surveyed))
    findings += [found for check in CHECKS_ACROSS for found in check(sets, digests)]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Diagnosis(tuple(sets), tuple(findings))


def _digests(surveyed: Survey) -> dict[bytes, str]:
    return {f.digest: str(f.path) for _, f in surveyed.images() if not f.is_constant}


def _examined(surveyed: Survey) -> Examined:
    manifest = surveyed.manifest
    return Examined(
        dataset=manifest.dataset,
        root=str(surveyed.source.root),
        source=manifest.source,
        images=len(manifest),
        masks=sum(row.mask is not None for row in manifest),
        counts=_counts(manifest),
    )


def _counts(manifest: Manifest) -> dict[str, list[int]]:
    """Split -> normal, abnormal and unlabelled images."""
    counts: dict[str, list[int]] = {}
    for row in manifest:
        found = counts.setdefault(row.split or "no split", [0, 0, 0])
        found[2 if row.label is None else int(row.label)] += 1
    return counts
