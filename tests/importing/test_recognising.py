"""What a file looks like, and which command and presets fit it."""

import re
from pathlib import Path

import pytest
import torch

from importing.published_files import Shapes, iqe_clip, kq_former, mvfa, qfae, saved
from scanomaly.errors import CheckpointError, ConfigError
from scanomaly.importing import LAYOUTS, preset_for
from scanomaly.importing.published import Published
from scanomaly.importing.recognising import require_fit

FULL = {"qfae": qfae(), "mvfa": mvfa(), "iqe-clip": iqe_clip(), "kqf": kq_former()}
DEFAULT = {"qfae": "qfae-brain", "mvfa": "mvfa-few", "iqe-clip": "iqe-few", "kqf": "kqf-concat-vit"}


def published(shapes: Shapes, file: str = "a.pth") -> Published:
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return Published(Path("/published") / file, "", tensors)


@pytest.mark.parametrize("asked", FULL)
@pytest.mark.parametrize("name", FULL)
def test_every_system_knows_its_own(name, asked):
    layout, run = LAYOUTS[asked], preset_for(LAYOUTS[asked], DEFAULT[asked])
    if name == asked:
        require_fit(published(FULL[name]), layout, run)
        return
    with pytest.raises(CheckpointError) as error:
        require_fit(published(FULL[name]), layout, run)
    found = str(error.value)
    assert f"no checkpoint of {layout.system}; it looks like {LAYOUTS[name].system} with" in found
    command = re.search(r"`scanomaly import (\S+) FILE --preset (\S+)`", found)
    assert command is not None
    assert command[1] == name
    require_fit(published(FULL[name]), LAYOUTS[name], preset_for(LAYOUTS[name], command[2]))


def test_what_nobody_published():
    run = preset_for(LAYOUTS["qfae"], "qfae-brain")
    with pytest.raises(CheckpointError, match=r"nor of another .*: 2 entries, such as a, b; give"):
        require_fit(published({"a": (1,), "b": ()}), LAYOUTS["qfae"], run)
    with pytest.raises(CheckpointError, match="0 entries; give"):
        require_fit(published({}), LAYOUTS["qfae"], run)


def check(name: str, preset: str, shapes: Shapes, file: str, dataset: str | None = None) -> str:
    with pytest.raises(CheckpointError) as error:
        require_fit(
            published(shapes, file), LAYOUTS[name], preset_for(LAYOUTS[name], preset), dataset
        )
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "preset", "shapes", "file", "message"),
    [
        (
            "qfae",
            "qfae-brain-two-encoders",
            qfae(),
            "a.pth",
            r"encoders is 1 in the file and 2 in the run; presets that fit: qfae-brain, ",
        ),
        (
            "qfae",
            "qfae-brain",
            qfae(junction=(196, 768, 8, 3072), decoder=(768, 6, 3072, 768)),
            "a.pth",
            r"queries is 196 in the file and 784 in the run \(--set config.junction.queries=196\); "
            r"config.decoder.patch is 16 .*; presets that fit: qfae-brain-decoder-patch-16",
        ),
        (
            "qfae",
            "qfae-brain",
            qfae(),
            "liver/last_ckpt.pth",
            r"set is liver by its path .*: qfae-li",
        ),
        (
            "qfae",
            "qfae-brain",
            qfae(),
            "retina/last_ckpt.pth",
            r"is resc by its path .* and brain in",
        ),
        (
            "mvfa",
            "mvfa-zero",
            mvfa(),
            "few-shot/Brain.pth",
            r"setting is few_shot by its pa",
        ),
        ("mvfa", "mvfa-few-level-1", mvfa(), "a.pth", r"adapted levels is 4 in the file and 1 in"),
        (
            "iqe-clip",
            "iqe-few",
            iqe_clip(learned=4),
            "a.pth",
            r"learned is 4 .* and 1 in the run \(--set config.prompts.learned=4\); no preset fits",
        ),
        (
            "iqe-clip",
            "iqe-few-as-written",
            iqe_clip(),
            "a.pth",
            r"feed-forwards of a block is 1 in",
        ),
        ("iqe-clip", "iqe-few", iqe_clip(), "Brain_8.pth", r"--set data.shots=8"),
        ("iqe-clip", "iqe-few", iqe_clip(), "Brain.pth", r"setting is zero_shot by its path"),
        ("kqf", "kqf-concat-vit", kq_former("resnet"), "a.ckpt", r"fit: kqf-.*kqf-concat-resnet"),
        (
            "kqf",
            "kqf-concat-vit",
            kq_former(former=False),
            "a.ckpt",
            r"former is 0 .*: mi-average-v",
        ),
        (
            "kqf",
            "kqf-offline",
            kq_former(),
            "a.ckpt",
            r"layers of the decoder is 12 .* and 3 in the run",
        ),
        (
            "kqf",
            "kqf-concat-vit",
            kq_former(),
            "KQF_channel_vit/best.ckpt",
            r"fusion is channel by its path .*; presets that fit: kqf-channel-vit",
        ),
    ],
)
def test_sizes_and_paths_that_do_not_fit(name, preset, shapes, file, message):
    found = check(name, preset, shapes, file)
    assert "looks like" in found
    assert re.search(message, found), found


def test_another_data_set():
    found = check("mvfa", "mvfa-few", mvfa(), "few-shot/Liver.pth", "Brain")
    assert "data set is Liver by its path" in found
    run = preset_for(LAYOUTS["mvfa"], "mvfa-few")
    require_fit(published(mvfa(), "few-shot/Liver.pth"), LAYOUTS["mvfa"], run, "Liver")
    require_fit(published(mvfa(), "few-shot/mine.pth"), LAYOUTS["mvfa"], run, "Liver")


@pytest.mark.parametrize(("preset", "problem"), [("mvfa-few", "of mvfa"), ("nothing", "unknown")])
def test_presets_of_another_method(preset, problem):
    with pytest.raises(ConfigError, match=rf"{preset} is {problem}; .* takes one of qfae-brain, "):
        preset_for(LAYOUTS["qfae"], preset)


def test_the_command_says_it_in_one_line(refused, tmp_path):
    file = saved({"seg_adapters": {}, "junction.queries": torch.ones(1, 2, 3)}, tmp_path / "a.pth")
    words = ("--preset", "mvfa-few", "--out", tmp_path / "run")
    refused("looks like QFAE with", "import", "mvfa", file, *words)
    refused("--preset mvfa-few is of mvfa", "import", "kqf", file, *words)
    refused("expected a preset name or --config", "import", "kqf", file)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes").touch()
    refused("is there already and not empty", "import", "mvfa", file, *words)
    file.write_bytes(file.read_bytes()[:100])
    words = ("--preset", "mvfa-few", "--out", tmp_path / "other")
    refused("damaged, incomplete or of another format", "import", "mvfa", file, *words)
