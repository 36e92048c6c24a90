"""Writing so that a reader never sees half of a file."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scanomaly.errors import ScanomalyError
from scanomaly.files import DiskError, write_bytes, write_file, write_text

Write = Callable[[Path], object]


def half(path: Path) -> None:
    path.write_text("half of")


def full_disk(path: Path) -> None:
    half(path)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_text_and_bytes_arrive_in_new_folders(tmp_path):
    write_text(tmp_path / "a" / "b" / "words.txt", "Größe\n")
    write_bytes(tmp_path / "a" / "b" / "bytes.bin", b"\x00\xff")
    assert (tmp_path / "a" / "b" / "words.txt").read_bytes() == "Größe\n".encode()
    assert (tmp_path / "a" / "b" / "bytes.bin").read_bytes() == b"\x00\xff"
    assert names(tmp_path / "a" / "b") == ["bytes.bin", "words.txt"]


def test_the_old_file_is_replaced(tmp_path):
    write_text(tmp_path / "file", "a long old content")
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")

    def write(temporary: Path) -> None:
        assert temporary.parent == target.parent, "a rename works within one file system only"
        half(temporary)
        assert target.read_text() == "old"
        temporary.write_text("new")

    write_file(target, write)
    assert target.read_text() == "new"


@pytest.mark.parametrize("before", ["old", None])
def test_a_full_disk_leaves_what_was_there(tmp_path, before):
    target = tmp_path / "model.safetensors"
    if before is not None:
        target.write_text(before)
    message = (
        rf"{target} could not be written: No space left on device; free some space or choose "
        r"another folder\. Nothing that was there before was changed"
    )
    with pytest.raises(DiskError, match=message) as raised:
        write_file(target, full_disk)
    assert isinstance(raised.value, ScanomalyError)
    assert isinstance(raised.value.__cause__, OSError)
    assert names(tmp_path) == ([] if before is None else [target.name])
    assert before is None or target.read_text() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_any_other_end_is_passed_on_and_leaves_what_was_there(tmp_path, error):
    target = tmp_path / "file"
    target.write_text("old")

    def write(temporary: Path) -> None:
        half(temporary)
        raise error

    with pytest.raises(error):
        write_file(target, write)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_writer_that_wrote_nothing_is_an_error(tmp_path):
    with pytest.raises(DiskError, match="file could not be written: No such file"):
        write_file(tmp_path / "file", lambda temporary: None)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DiskError, match=r"file/inside could not be written: .*free some space"):
        write_text(tmp_path / "file" / "inside", "text")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_folder_in_place_of_the_file_is_an_error(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(DiskError, match="file could not be written: Is a directory"):
        write_text(tmp_path / "file", "text")
    assert names(tmp_path) == ["file"]
