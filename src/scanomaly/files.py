"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from scanomaly.errors import ScanomalyError


class DiskError(ScanomalyError):
    """A file could not be written; whatever was there before is untouched."""


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary name beside `path`, then rename. Raises DiskError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise DiskError(
            f"{path} could not be written: {reason}; free some space or choose another folder. "
            "Nothing that was there before was changed."
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text. Raises DiskError."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Raises DiskError."""
    write_file(path, lambda temporary: temporary.write_bytes(content))
