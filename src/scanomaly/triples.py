"""Detector x labelled images -> triples of pictures with questions and answers.

H W pixels of an image's own file
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanomaly.data.images import as_bytes, read_image, read_mask
from scanomaly.data.manifest import Manifest, Row
from scanomaly.data.mivqa import TRIPLES, VqaItem, write_corpus, write_pictures
from scanomaly.data.phantom.dataset import MANIFEST
from scanomaly.data.phantom.evidence import MARKED_ABOVE, Evidence
from scanomaly.data.phantom.heads.dataset import HEALTHY
from scanomaly.data.phantom.questions import Pair, SliceFacts, question_answer_pairs
from scanomaly.errors import ConfigError, DataError
from scanomaly.files import write_text
from scanomaly.inference import Finding, FittedDetector, Scored
from scanomaly.questions import question_of

logger = logging.getLogger(__name__)

RECONSTRUCTING = ("qfae", "autoencoder")
"""Methods that make a reconstruction."""
RECORD = "with verdict and size"
"""What the record of a triple holds; one that holds something else is made anew."""
UNFINISHED = "unfinished"
"""Folder with the questions of each triple that is done, until all are."""

Pictures = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
"""Image, anomaly map and reconstruction: uint8 (H, W, 3) each."""
Cells = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Made:
    """What came of it. failed: one message for each image that could not be used."""

    file: Path
    triples: int
    questions: int
    failed: tuple[str, ...]


def require_reconstruction(fitted: FittedDetector) -> None:
    """Raises ConfigError where the detector cannot make triples: what it lacks, what has it."""
    if fitted.run.method not in RECONSTRUCTING:
        raise ConfigError(
            f"expected a detector that makes a reconstruction, got {fitted.run.method}, which "
            f"makes none; fit one that does: {' or '.join(RECONSTRUCTING)}."
        )
    if fitted.calibration is None:
        raise ConfigError(
            "expected a calibrated detector, got one without: its maps have no scale that is the "
            "same for every image; fit it with healthy images to calibrate on (split valid, or "
            "data.calibration_share)."
        )


def triple_pictures(fitted: FittedDetector, pixels: NDArray[Any], finding: Finding) -> Pictures:
    """What the detector shows of an image, as an answerer sees it, on the image's own grid.

    pixels: (H, W, 3) as read. The map goes through its calibrated range, the same for every image,
    so that "nothing found" stays black. For detectors that `require_reconstruction` lets pass.
    """
    assert finding.reconstruction is not None
    shown = as_bytes(fitted.scaled(finding.anomaly_map).clip(0, 1))
    return as_bytes(pixels), np.repeat(shown[..., None], 3, axis=2), finding.reconstruction


def make_triples(
    fitted: FittedDetector,
    manifest: Manifest,
    out: Path,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Made:
    """Score every labelled image and write `triples.jsonl` with its pictures into `out`.

    The phantom of whole heads is asked all seven questions, any other set those that its labels
    and masks can answer. Patients, splits and kinds are kept. seed: of the choice among wordings.
    An interrupted run goes on with the same call; a finished one is never overwritten. Raises
    DataError for an unusable folder or when no triple could be made, ConfigError for a detector
    that cannot make any.
    """
    require_reconstruction(fitted)
    _claim(out)
    rows = _usable_rows(manifest)
    _warn_of_training_images(fitted, manifest)
    work = _Work(fitted, out, _cells_of(rows), seed, _fingerprint(fitted, seed))
    failed = work.make_all(replace(manifest, rows=rows), progress)
    made = [item for row in rows for item in work.items_of(row)]
    if not made:
        raise DataError(
            f"{manifest.dataset}: no triple could be made of {len(rows)} images; the first: "
            f"{failed[0]}"
        )
    file = write_corpus(out, made)
    shutil.rmtree(out / UNFINISHED)
    triples = len({item.image for item in made})
    logger.info("%s: %d triples, %d questions, %d left out.", out, triples, len(made), len(failed))
    return Made(file, triples, len(made), tuple(failed))


def _claim(out: Path) -> None:
    """Make the folder ours: new, empty, or left unfinished by an earlier run."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: expected a folder for the triples, got a file; choose another.")
    if (out / TRIPLES).exists():
        raise DataError(
            f"{out} already holds finished triples; remove it or give another folder with --out."
        )
    if out.is_dir() and any(out.iterdir()) and not (out / UNFINISHED).is_dir():
        raise DataError(f"{out} holds other files; give a new or empty folder with --out.")
    (out / UNFINISHED).mkdir(parents=True, exist_ok=True)


def _usable_rows(manifest: Manifest) -> tuple[Row, ...]:
    """The labelled rows, each with a split; says what it left out or decided."""
    labelled = tuple(row for row in manifest if row.label is not None)
    if not labelled:
        raise DataError(
            f"{manifest.dataset}: expected images with a label, got {len(manifest)} without "
            f"({manifest.source}); questions need to know what is abnormal."
        )
    unlabelled = len(manifest) - len(labelled)
    if unlabelled:
        logger.warning("%s: %d images without a label are left out.", manifest.dataset, unlabelled)
    astray = sum(row.split is None for row in labelled)
    if astray:
        logger.warning(
            "%s: %d images name no split and become test; to train on some, give a manifest with "
            "a column split.",
            manifest.dataset,
            astray,
        )
    return tuple(replace(row, split=row.split or "test") for row in labelled)


def _warn_of_training_images(fitted: FittedDetector, manifest: Manifest) -> None:
    trained = fitted.splits.get("trained", "")
    if trained.endswith(f" of {manifest.dataset}"):
        logger.warning(
            "the detector was trained on %s: its maps of these very images are quieter than those "
            "of new ones; other patients make better triples.",
            trained,
        )


def _cells_of(rows: Sequence[Row]) -> dict[Path, Cells]:
    """Image -> its line in the manifest of a phantom to be asked about; empty for any other set."""
    tables = (folder / MANIFEST for folder in rows[0].path.resolve().parents)
    table = next((table for table in tables if table.is_file()), None)
    if table is None:
        return {}
    with table.open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if HEALTHY in line]
    for line in lines:
        if line[HEALTHY]:
            line[HEALTHY] = str(table.parent / line[HEALTHY])
    return {(table.parent / line["path"]).resolve(): line for line in lines}


def _fingerprint(fitted: FittedDetector, seed: int) -> str:
    """Tells a triple of this detector from one that another made."""
    calibration = "" if fitted.calibration is None else fitted.calibration.to_json()
    parts = (fitted.run.model_dump_json(), calibration, str(seed), str(MARKED_ABOVE), RECORD)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class _Work:
    """Triples of one detector in one folder, some of which may be done."""

    fitted: FittedDetector
    out: Path
    cells: Mapping[Path, Cells]
    seed: int
    fingerprint: str

    def make_all(
        self, manifest: Manifest, progress: Callable[[int, int], None] | None
    ) -> list[str]:
        """Make those that are missing; returns a message for each image that cannot be used."""
        missing = tuple(row for row in manifest if self._done(row) is None)
        before = len(manifest) - len(missing)
        if before:
            logger.info("%d of %d triples were made before.", before, len(manifest))
        failed: list[str] = []

        def remember(row: Row, error: DataError) -> None:
            logger.warning("left out: %s", error)
            failed.append(str(error))

        scored_rows = self.fitted.score_rows(replace(manifest, rows=missing), on_error=remember)
        for number, scored in enumerate(scored_rows, start=before + 1):
            try:
                self._make(scored)
            except DataError as error:  # of a mask, which the detector does not read
                remember(scored.row, error)
            if progress:
                progress(number, len(manifest))
        return failed

    def _make(self, scored: Scored) -> None:
        row = scored.row
        finding = self.fitted.finding(scored)
        pixels = read_image(row.path, self.fitted.run.data.window)
        pictures = triple_pictures(self.fitted, pixels, finding)
        facts = self._facts(row)
        seed = [self.seed, zlib.crc32(row.id.encode())]
        evidence = self._evidence(row, pictures)
        pairs = question_answer_pairs(facts, evidence, np.random.default_rng(seed))
        paths = write_pictures(self.out, row.id, pictures)
        record = {
            "detector": self.fingerprint,
            "pictures": [path.relative_to(self.out).as_posix() for path in paths],
            "pairs": pairs,
            "verdict": self._verdict(finding),
        }
        write_text(self._record(row), json.dumps(record, ensure_ascii=False))

    def _verdict(self, finding: Finding) -> dict[str, float | bool | None]:
        """What the detector says, as fields of a VqaItem."""
        calibration = self.fitted.calibration
        flagged = finding.flagged if calibration is not None and calibration.can_flag else None
        return {"score": finding.score, "p_value": finding.p_value, "flagged": flagged}

    def _evidence(self, row: Row, pictures: Pictures) -> Evidence:
        image, anomaly_map, reconstruction = (_grey(picture) for picture in pictures)
        healthy = self.cells.get(row.path.resolve(), {}).get(HEALTHY)
        window = self.fitted.run.data.window
        return Evidence(
            image=image,
            anomaly_map=anomaly_map,
            threshold=MARKED_ABOVE,
            reconstruction=reconstruction,
            mask=_mask(row, image.shape),
            healthy=_grey(as_bytes(read_image(Path(healthy), window))) if healthy else None,
        )

    def _facts(self, row: Row) -> SliceFacts:
        cells = self.cells.get(row.path.resolve())
        return SliceFacts(bool(row.label)) if cells is None else SliceFacts.of_row(cells)

    def _record(self, row: Row) -> Path:
        return self.out / UNFINISHED / f"{row.id}.json"

    def _done(self, row: Row) -> dict[str, Any] | None:
        """The record of a triple that this detector made, with all its pictures, else None."""
        try:
            record: dict[str, Any] = json.loads(self._record(row).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        whole = all((self.out / path).is_file() for path in record["pictures"])
        return record if whole and record["detector"] == self.fingerprint else None

    def items_of(self, row: Row) -> Iterator[VqaItem]:
        """The questions about one image; none if it could not be used."""
        record = self._done(row)
        if record is None:
            return
        facts = self._facts(row)
        image, anomaly_map, reconstruction = (self.out / path for path in record["pictures"])
        pairs: list[Pair] = record["pairs"]
        for question, answer in pairs:
            yield VqaItem(
                id=f"{row.id}-{question_of(question).name}",
                image=image,
                anomaly_map=anomaly_map,
                reconstruction=reconstruction,
                question=question,
                answer=answer,
                patient=row.patient,
                category=facts.kind or row.kind or "",
                split=row.split or "test",
                facts={name: value for name, value in asdict(facts).items() if _is_known(value)},
                **record["verdict"],
            )


def _is_known(value: object) -> bool:
    return value is not None and value != ""


def _grey(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W, 3) to (H, W) in 0..1."""
    return np.asarray(picture.mean(axis=2) / 255, dtype=np.float32)


def _mask(row: Row, size: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """What is abnormal; nothing in a normal image, None where unknown."""
    if row.mask is None:
        return None if row.label else np.zeros(size, dtype=np.bool_)
    return read_mask(row.mask, (size[0], size[1]), row.path)
