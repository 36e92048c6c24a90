"""Reading published files: tensors and plain values, never code."""

import os
import sys
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path, PosixPath
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from importing.published_files import (
    iqe_clip,
    iqe_content,
    kq_former,
    mvfa,
    mvfa_content,
    qfae,
    random_values,
    saved,
)
from scanomaly.errors import CheckpointError
from scanomaly.importing.published import SAFE, read_published


def test_nested_state_dicts_and_parameters(tmp_path):
    content = {"part": OrderedDict(weight=torch.ones(2)), "token": nn.Parameter(torch.zeros(3))}
    found = read_published(saved(content, tmp_path / "a.pth"))
    assert found.shapes == {"part.weight": (2,), "token": (3,)}
    assert len(found.sha256) == 64
    assert not found.strange


def as_lightning(tensors: dict[str, Tensor]) -> dict[str, object]:
    return {"state_dict": OrderedDict(tensors), "epoch": 3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shapes", "content", "megabytes"),
    [
        (mvfa(), mvfa_content, 50),
        (iqe_clip(), iqe_content, 190),
        (qfae(), as_lightning, 1400),
        (kq_former(), as_lightning, 1300),
    ],
    ids=["mvfa", "iqe-clip", "qfae", "kqf"],
)
def test_a_file_of_full_size(shapes, content, megabytes, tmp_path):
    """Values under all published keys in the published layout, each read back as it was."""
    tensors = random_values(shapes)
    file = saved(content(tensors), tmp_path / "best.pth")
    assert file.stat().st_size > megabytes * 1e6
    found = read_published(file)
    assert found.shapes == shapes
    assert all(torch.equal(found.tensors[name], value) for name, value in tensors.items())
    assert not found.strange
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 1000)
    with pytest.raises(CheckpointError, match=r"best\.pth cannot be read as a checkpoint"):
        read_published(file)
    file.unlink()  # pytest would keep it


def test_the_older_format_of_torch(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert read_published(tmp_path / "a.pth").shapes == {"a": (2,)}


@pytest.fixture
def lightning(monkeypatch) -> dict[str, type]:
    """Classes of Lightning 1.5 that its files name, without Lightning 1.5."""
    made: dict[str, type] = {}
    for path, base in (
        ("pytorch_lightning.utilities.parsing.AttributeDict", dict),
        ("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint", object),
        ("pytorch_lightning.callbacks.early_stopping.EarlyStopping", object),
        ("pytorch_lightning.core.Other", object),
    ):
        module, _, name = path.rpartition(".")
        parts = module.split(".")
        for count in range(1, len(parts) + 1):
            dotted = ".".join(parts[:count])
            if dotted not in sys.modules:
                monkeypatch.setitem(sys.modules, dotted, ModuleType(dotted))
        made[name] = type(name, (base,), {"__module__": module})
        monkeypatch.setattr(sys.modules[module], name, made[name], raising=False)
    return made


def lightning_content(lightning: dict[str, type]) -> dict[str, object]:
    arguments = Namespace(learning_rate=1e-5, folder=PosixPath("runs") / "best")
    return {
        "epoch": 3,
        "global_step": 66,
        "pytorch-lightning_version": "1.5.10",
        "state_dict": OrderedDict(weight=torch.ones(2)),
        "callbacks": {
            lightning["ModelCheckpoint"]: {"best_model_score": torch.tensor(0.5)},
            lightning["EarlyStopping"]: {"wait_count": 2},
        },
        "optimizer_states": [{"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}}],
        "lr_schedulers": [{"last_epoch": 3}],
        "hparams_name": "args",
        "hyper_parameters": lightning["AttributeDict"](args=arguments),
    }


def test_lightning_1_5(lightning, tmp_path):
    file = saved(lightning_content(lightning), tmp_path / "best.ckpt")
    found = read_published(file)
    assert found.shapes == {"weight": (2,)}
    assert {"hyper_parameters", "optimizer_states", "callbacks"} < set(found.training_state)
    assert not found.strange


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_by_name(zipped, lightning, tmp_path):
    content = lightning_content(lightning) | {"hyper_parameters": Command(tmp_path / "ran")}
    file = tmp_path / "best.ckpt"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"would run posix.system when opened, .* save its t"):
        read_published(file)
    assert not (tmp_path / "ran").exists()


def test_every_class_outside_the_list_is_named(lightning, tmp_path):
    content = {"a": lightning["Other"](), "b": slice(1, 2)}
    with pytest.raises(CheckpointError, match=r"run builtins.slice, pytorch_lightning.core.Other "):
        read_published(saved(content, tmp_path / "a.pth"))


def test_the_list_lasts_only_while_reading(lightning, tmp_path):
    file = saved(lightning_content(lightning), tmp_path / "best.ckpt")
    read_published(file)
    assert not set(SAFE) & set(torch.serialization.get_safe_globals())


@pytest.mark.parametrize("share", [0.0, 0.4, 0.98])
def test_truncated_files(share, tmp_path):
    file = saved({"weight": torch.ones(300)}, tmp_path / "a.pth")
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"a.pth cannot be read .* fetch it again"):
        read_published(file)


def test_what_is_no_file_or_no_table(tmp_path):
    with pytest.raises(CheckpointError, match="found nothing; give the file itself"):
        read_published(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="found a folder"):
        read_published(tmp_path)
    with pytest.raises(CheckpointError, match="expected a table of tensors, found a Tensor"):
        read_published(saved(torch.ones(2), tmp_path / "a.pth"))
    strange = read_published(saved({"a": torch.ones(1), "b": [1], "c": "x"}, tmp_path / "b.pth"))
    assert strange.strange == ("b", "c")
