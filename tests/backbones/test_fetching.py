"""Downloads, against a hub that runs in this process, and checks of what lies on the disk."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_networks import make_network, save_folder

import tiny_clip
from scanomaly.backbones import build_backbone
from scanomaly.backbones.clip import build_clip
from scanomaly.backbones.weights import (
    INVENTORY,
    Pretrained,
    fetch,
    fetching,
    find,
    locate,
    verify,
)
from scanomaly.config.backbones import BackboneConfig, ClipConfig
from scanomaly.errors import WeightsError
from tiny_clip import save_clip

NAME = "resnet18.a1_in1k"


class Hub(ThreadingHTTPServer):
    """A Hugging Face hub with one repository, which can hang up in the middle of a file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.folder = folder
        self.ranges: list[str | None] = []
        self.hang_up_after: int | None = None
        self.stated_sum: str | None = None

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is part of the tests."""


class _Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: object) -> None: ...

    def _file(self) -> Path:
        return self.server.folder / self.path.rpartition("/")[2]

    def do_HEAD(self) -> None:
        if not self._file().is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            return
        self.send_response(200)
        self._describe(self._file().stat().st_size)

    def _describe(self, size: int) -> None:
        self.send_header("Content-Length", str(size))
        stated = self.server.stated_sum or hashlib.sha256(self._file().read_bytes()).hexdigest()
        self.send_header("ETag", f'"{stated}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()

    def do_GET(self) -> None:
        content = self._file().read_bytes()
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self._describe(len(content) - start)
        stop = self.server.hang_up_after
        if stop is not None and len(content) > stop:
            self.wfile.write(content[start:stop])
            self.wfile.flush()
            self.connection.close()
            return
        self.wfile.write(content[start:])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub(save_folder(make_network(NAME), NAME, tmp_path / "served"))
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(
        huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetched(hub: Hub, tmp_path: Path) -> Path:
    return fetch(NAME, tmp_path / "weights")


def test_what_is_fetched_is_found_built_and_verified(
    fetched: Path, hub: Hub, tmp_path: Path
) -> None:
    assert (
        fetched == tmp_path / "weights" / NAME == locate("resnet18", given=[tmp_path / "weights"])
    )
    assert {file.name for file in fetched.iterdir()} == {
        "config.json", "model.safetensors", "fetched.json",
    }  # fmt: skip
    record = json.loads((fetched / "fetched.json").read_text())
    assert record["licence"] == "Apache-2.0"
    assert record["format"] == 1
    assert len(record["files"]["model.safetensors"]["sha256"]) == 64
    build_backbone(BackboneConfig(name="resnet18", weights=str(fetched.parent)))
    [finding] = verify(fetched.parent)
    assert finding.ok
    assert finding.name == NAME


def test_both_towers_of_a_clip_are_fetched_by_their_own_names(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.folder = save_clip(tmp_path / "clip")
    entry = Pretrained(tiny_clip.NAME, "these tests", "MIT", None, "some/repository")
    monkeypatch.setitem(INVENTORY, entry.name, entry)  # type: ignore[arg-type]
    folder = fetch(entry.name, tmp_path / "weights")
    assert folder == tmp_path / "weights" / entry.name == find(entry.name, [tmp_path / "weights"])
    assert {file.name for file in folder.iterdir()} == {
        "open_clip_config.json", "open_clip_model.safetensors", "fetched.json",
    }  # fmt: skip
    assert fetch(entry.name, tmp_path / "weights", offline=True) == folder
    build_clip(ClipConfig(name=entry.name, weights=str(tmp_path / "weights")))
    [finding] = verify(tmp_path / "weights")
    assert (finding.name, finding.problems) == (entry.name, ())
    save_file({"weight": torch.ones(1)}, hub.folder / "open_clip_model.safetensors")
    with pytest.raises(
        WeightsError, match=r"what came for tiny-clip/test .* does not fit the CLIP"
    ):
        fetch(entry.name, tmp_path / "other")
    assert not any(file.is_file() for file in (tmp_path / "other").rglob("*"))


def test_what_is_there_is_not_fetched_again(fetched: Path, hub: Hub) -> None:
    requests = len(hub.ranges)
    assert fetch(NAME, fetched.parent, offline=True) == fetched
    assert len(hub.ranges) == requests


def test_what_was_damaged_since_is_fetched_again(fetched: Path) -> None:
    file = fetched / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    fetch(NAME, fetched.parent)
    assert file.read_bytes() == whole


def test_a_broken_download_leaves_nothing_to_be_found_and_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.hang_up_after = 30_000
    with pytest.raises(WeightsError, match=r"could not be fetched .* fetch again to go on"):
        fetch(NAME, tmp_path)
    assert not (tmp_path / NAME).exists()
    assert [item.name for item in tmp_path.iterdir() if NAME in item.name] == [f"{NAME}.partial"]
    hub.hang_up_after = None
    hub.ranges.clear()
    fetch(NAME, tmp_path)
    assert hub.ranges == ["bytes=30000-"]
    assert not (tmp_path / f"{NAME}.partial").exists()
    assert verify(tmp_path / NAME)[0].ok


def test_a_line_that_drops_now_and_then_is_tried_again(hub: Hub, tmp_path: Path) -> None:
    def recover(file: str, done: int, total: int) -> None:
        assert done <= total
        if file == "model.safetensors":
            hub.hang_up_after = None

    hub.hang_up_after = 30_000
    assert verify(fetch(NAME, tmp_path, progress=recover))[0].ok
    assert "bytes=30000-" in hub.ranges


def test_a_download_with_another_sum_than_the_hub_states_is_thrown_away(
    hub: Hub, tmp_path: Path
) -> None:
    hub.stated_sum = "0" * 64
    with pytest.raises(WeightsError, match="came with another sha256 than the hub states"):
        fetch(NAME, tmp_path)
    assert list((tmp_path / f"{NAME}.partial").iterdir()) == []


def test_weights_that_do_not_fit_are_thrown_away(hub: Hub, tmp_path: Path) -> None:
    save_file({"weight": torch.ones(1)}, hub.folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"what came for resnet18.* does not fit resnet18"):
        fetch(NAME, tmp_path / "weights")
    assert list((tmp_path / "weights").iterdir()) == []


def test_a_repository_without_the_file_is_named(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"could not be fetched from https://huggingface.co/"):
        fetch(NAME, tmp_path)


def test_offline_refuses_before_anything_else(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsError, match="not fetched because offline was asked for; on a"):
        fetch(NAME, tmp_path / "weights", offline=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="not fetched because HF_HUB_OFFLINE is set"):
        fetch(NAME, tmp_path / "weights")
    assert hub.ranges == []
    assert not (tmp_path / "weights").exists()


def test_without_network_there_is_a_reason_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("Name or service not known.")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", fail)
    with pytest.raises(WeightsError, match=r"\(Name or service not known\); fetch again"):
        fetch(NAME, tmp_path)


def test_a_full_disk_and_a_folder_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="cannot be written to"):
        fetch(NAME, tmp_path / "file")
    usage = type(fetching.shutil.disk_usage(tmp_path))(10**9, 10**9, 10**6)
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(WeightsError, match=r"needs 47 MB and .* has 1 MB free"):
        fetch(NAME, tmp_path)


Damage = Callable[[Path], object]


def _flip_a_byte(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def _set_nan(folder: Path) -> None:
    file = folder / "model.safetensors"
    state = load_file(file)
    state["conv1.weight"][0] = torch.nan
    save_file(state, file)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "flipped": (_flip_a_byte, "model.safetensors has another sha256 than when it was fetched"),
    "nan": (_set_nan, "conv1.weight holds NaN or infinity"),
    "truncated": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"123"),
        "cannot be read as weights",
    ),
    "incomplete": (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    "record": (lambda folder: (folder / "fetched.json").write_text("{"), "fetched.json is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_tells_what_is_wrong(fetched: Path, damage: str) -> None:
    harm, complaint = DAMAGES[damage]
    harm(fetched)
    for place in (fetched, fetched.parent):
        [finding] = verify(place)
        assert not finding.ok
        assert any(complaint in problem for problem in finding.problems)


def test_verify_names_each_file_and_unfinished_downloads(tmp_path: Path) -> None:
    save_folder(make_network(NAME), NAME, tmp_path / NAME)
    save_folder(make_network(NAME), NAME, tmp_path / "vit_large_patch16_224.mae.partial")
    torch.save(make_network("resnet18").state_dict(), tmp_path / "resnet18.pth")
    torch.save(make_network("resnet18").state_dict(), tmp_path / "mystery.pth")
    (tmp_path / "notes.txt").touch()
    findings = {finding.name: finding for finding in verify(tmp_path)}
    assert findings.keys() == {NAME, "vit_large_patch16_224.mae", "resnet18", "mystery"}
    assert findings[NAME].ok
    assert findings["resnet18"].ok
    assert "unfinished download" in findings["vit_large_patch16_224.mae"].problems[0]
    assert "timm cannot build 'mystery'" in findings["mystery"].problems[0]


def test_verify_refuses_a_place_without_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds no weights; expected folders with"):
        verify(tmp_path)
    with pytest.raises(WeightsError, match="is not a directory"):
        verify(tmp_path / "absent")
