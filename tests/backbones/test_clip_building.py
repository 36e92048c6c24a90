"""A CLIP's files: found, read, checked, refused with a way out."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn

from scanomaly.backbones.clip import build_clip
from scanomaly.backbones.weights import describe, find, missing_message, verify
from scanomaly.config.backbones import ClipConfig
from scanomaly.errors import ConfigError, WeightsError
from tiny_clip import NAME, TINY_CLIP, changed, make_clip, save_clip

FULL = "ViT-L-14-336/openai"


def test_a_folder_by_name_and_a_single_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCANOMALY_WEIGHTS", str(tmp_path / "weights"))
    folder = save_clip(tmp_path / "weights" / NAME)
    assert find(NAME) == folder
    by_name = build_clip(ClipConfig(name=NAME))
    (tmp_path / "weights" / NAME / "model.safetensors").touch()  # timm's file of one tower
    for place in (folder / "open_clip_model.safetensors", folder, tmp_path / "weights"):
        other = build_clip(ClipConfig(name=NAME, weights=str(place)))
        assert other.text.fingerprint() == by_name.text.fingerprint()
        assert other.vision.fingerprint() == by_name.vision.fingerprint()


def test_verify_checks_both_towers(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "weights" / NAME)
    for place in (tmp_path / "weights", folder.parent, folder):
        [finding] = verify(place)
        assert (finding.name, finding.problems) == (NAME, ())
    file = folder / "open_clip_model.safetensors"
    state = load_file(file)
    state["visual.proj"][0] = torch.nan
    save_file(state, file)
    [finding] = verify(tmp_path / "weights")
    assert finding.problems == ("visual.proj holds NaN or infinity",)
    file.write_bytes(b"123")
    [finding] = verify(tmp_path / "weights")
    assert "cannot be read as weights" in finding.problems[0]
    folder.rename(folder.with_name("test.partial"))
    [finding] = verify(tmp_path / "weights")
    assert finding.problems == (f"unfinished download; `scanomaly weights fetch {NAME}`",)


def test_missing_weights_say_all_that_is_needed() -> None:
    with pytest.raises(WeightsError) as caught:
        build_clip(ClipConfig())
    message = str(caught.value)
    assert message == missing_message(FULL)
    for part in (
        *("1712 MB", "licence MIT", f"`scanomaly weights fetch {FULL} --to", "OpenAI, CLIP"),
        "https://huggingface.co/timm/vit_large_patch14_clip_336.openai",
        "(open_clip_model.safetensors, open_clip_config.json)",
    ):
        assert part in message


def test_the_inventory_agrees_with_open_clip() -> None:
    entry = describe(FULL)
    known = open_clip.get_pretrained_cfg("ViT-L-14-336", "openai")
    assert known["hf_hub"].strip("/") == entry.repository
    with torch.device("meta"):
        network = open_clip.CLIP(**open_clip.get_model_config("ViT-L-14-336"))
    values = sum(v.numel() for v in network.state_dict().values())
    assert entry.megabytes == pytest.approx(values * 4 / 1e6, abs=1)


def test_open_clip_is_asked_for_other_names() -> None:
    entry = describe("ViT-B-32/laion2b_s34b_b79k")
    assert entry.repository == "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    assert entry.megabytes is None
    for name in ("ViT-B-32/nonsense", "nonsense/openai"):
        with pytest.raises(WeightsError, match=f"no pretrained weights called '{name}'"):
            describe(name)


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".pth"])
def test_other_formats_are_refused_with_the_way_out(tmp_path: Path, suffix: str) -> None:
    """Such as OpenAI's TorchScript archive."""
    file = tmp_path / f"ViT-L-14-336px{suffix}"
    file.write_bytes(b"PK")
    with pytest.raises(WeightsError, match=r"expected a \.safetensors file.*TorchScript") as caught:
        build_clip(ClipConfig(weights=str(file)))
    assert str(file) in str(caught.value)
    assert f"`scanomaly weights fetch {FULL} --to DIR`" in str(caught.value)
    assert "huggingface.co/timm/vit_large_patch14_clip_336.openai" in str(caught.value)
    with pytest.raises(WeightsError, match=r"save open_clip's state dict as open_clip_model\.safe"):
        build_clip(ClipConfig(name=NAME, weights=str(file)))


def test_a_file_of_another_architecture_is_refused(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "tiny")
    with pytest.raises(
        WeightsError, match=r"embed_dim expected 768, found 12; vision_cfg"
    ) as caught:
        build_clip(ClipConfig(weights=str(folder)))
    assert str(folder) in str(caught.value)
    (folder / "open_clip_config.json").unlink()
    file = folder / "open_clip_model.safetensors"
    with pytest.raises(WeightsError, match=rf"{file} does not fit the CLIP {FULL}: .*keys missing"):
        build_clip(ClipConfig(weights=str(folder)))
    with pytest.raises(
        ConfigError, match=r"no architecture 'tiny-clip', and there is no open_clip"
    ):
        build_clip(ClipConfig(name=NAME, weights=str(folder)))


def test_values_that_do_not_fit_their_own_description_are_refused(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "tiny", changed(embed_dim=8), make_clip())
    with pytest.raises(WeightsError, match=r"2 shapes differ \(text_projection expected \(8, 8\)"):
        build_clip(ClipConfig(name=NAME, weights=str(folder)))


DESCRIPTIONS: dict[str, tuple[str, type[Exception], str]] = {
    "broken": ("{", WeightsError, "is not a description of an open_clip model"),
    "timm's": ('{"architecture": "vit"}', WeightsError, "is not a description"),
    "a list": ("[]", WeightsError, "is not a description"),
}


@pytest.mark.parametrize("kind", DESCRIPTIONS)
def test_a_description_that_is_none(tmp_path: Path, kind: str) -> None:
    text, error, message = DESCRIPTIONS[kind]
    folder = save_clip(tmp_path / "tiny")
    (folder / "open_clip_config.json").write_text(text)
    with pytest.raises(error, match=message):
        build_clip(ClipConfig(name=NAME, weights=str(folder)))


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "other towers": ({"text_cfg": {"hf_model_name": "roberta"}}, r"\(hf_model_name\)"),
    "custom text": ({"custom_text": True}, "another kind of text tower"),
    "convolutions": ({"vision_cfg": {"layers": [1, 1, 1, 1]}}, "got ModifiedResNet"),
    "mean patches": ({"vision_cfg": {"pool_type": "avg"}}, "class token is its summary"),
    "both ways": ({"text_cfg": {"no_causal_mask": True}}, "causal text tower"),
    "unknown": ({"vision_cfg": {"colour": 3}}, "open_clip cannot build tiny-clip/test: .*colour"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_architectures_that_are_not_two_plain_transformers(tmp_path: Path, kind: str) -> None:
    parts, message = UNFIT[kind]
    sizes = changed(**parts)
    buildable = kind in ("convolutions", "mean patches", "both ways")
    folder = save_clip(tmp_path / "odd", sizes, make_clip(sizes) if buildable else nn.Linear(1, 1))
    with pytest.raises(ConfigError, match=message):
        build_clip(ClipConfig(name=NAME, weights=str(folder)))


@pytest.mark.parametrize("name", ["ViT-L-14-336", "", "a/b/c", "../weights/x"])
def test_a_name_is_architecture_slash_tag(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        ClipConfig(name=name)


def test_patches_cannot_be_resized() -> None:
    with pytest.raises(ValidationError, match="patch"):
        ClipConfig(patch=16)  # type: ignore[arg-type]


def test_random_weights_are_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[[str], Any] = open_clip.get_model_config
    known = {"tiny-clip": TINY_CLIP}
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: known.get(name) or real(name))
    config, state = ClipConfig(name=NAME, weights="random"), torch.random.get_rng_state()
    first, second = build_clip(config), build_clip(config)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [t.fingerprint() for t in first] == [t.fingerprint() for t in second]
    with pytest.raises(ConfigError, match="no architecture 'nonsense'"):
        build_clip(ClipConfig(name="nonsense/x", weights="random"))


def test_without_open_clip_there_is_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ConfigError, match=r"CLIP needs open_clip .*scanomaly\[clip\]"):
        build_clip(ClipConfig(weights="random"))
    with pytest.raises(WeightsError, match=r"not installed: `pip install 'scanomaly\[clip\]'`"):
        describe("ViT-B-32/laion2b_s34b_b79k")
    assert describe(FULL).licence == "MIT"


def test_open_clip_is_not_imported_before_it_is_used() -> None:
    program = (
        "import sys, scanomaly.backbones.clip; assert not {'open_clip', 'timm'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
