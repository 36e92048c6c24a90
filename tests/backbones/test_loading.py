"""Weight files as they come: good ones in several formats, and everything that can be wrong."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_networks import TINY_DINOV2, make_network
from torch import Tensor

from scanomaly.backbones import build_backbone
from scanomaly.backbones.vit import VisionTransformerBackbone
from scanomaly.config.backbones import BackboneConfig
from scanomaly.errors import ConfigError, WeightsError

Saved = Callable[[str], Path]
MAE = "vit_base_patch16_224.mae"


def _fingerprint(name: str, weights: Path) -> str:
    return build_backbone(BackboneConfig(name=name, weights=str(weights))).fingerprint()


@pytest.fixture
def folder(saved: Saved) -> Path:
    return saved(MAE)


def test_file_folder_and_folder_of_folders_are_the_same(folder: Path) -> None:
    places = (folder, folder / "model.safetensors", folder.parent)
    assert len({_fingerprint(MAE, place) for place in places}) == 1


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_torch_files_give_the_same_as_safetensors(folder: Path, wrapper: str | None) -> None:
    expected = _fingerprint(MAE, folder)
    state = load_file(folder / "model.safetensors")
    torch.save({wrapper: state} if wrapper else state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert _fingerprint(MAE, folder) == expected


def test_half_precision_files_become_fp32(folder: Path) -> None:
    file = folder / "model.safetensors"
    save_file({k: v.half() for k, v in load_file(file).items()}, file)
    backbone = build_backbone(BackboneConfig(name=MAE, weights=str(folder)))
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}


def test_a_classifier_in_the_file_is_left_out(folder: Path) -> None:
    expected = _fingerprint(MAE, folder)
    file = folder / "model.safetensors"
    save_file({**load_file(file), "head.weight": torch.ones(7, 32)}, file)
    assert _fingerprint(MAE, folder) == expected


def test_published_dinov2_names_are_understood(saved: Saved) -> None:
    """Meta's own file: a mask token, register_tokens, and a position for the class token."""
    name = "vit_base_patch14_reg4_dinov2.lvd142m"
    folder = saved(name)
    expected = build_backbone(BackboneConfig(name=name, weights=str(folder)))
    state = load_file(folder / "model.safetensors")
    width = TINY_DINOV2["embed_dim"]
    class_position = torch.randn(1, 1, width)
    state["pos_embed"] = torch.cat([class_position, state["pos_embed"]], dim=1)
    state["cls_token"] = state["cls_token"] - class_position
    state["register_tokens"] = state.pop("reg_token")
    state["mask_token"] = torch.zeros(1, width)
    save_file(state, folder / "model.safetensors")
    found = build_backbone(BackboneConfig(name=name, weights=str(folder)))
    image = torch.rand(1, 3, 56, 56)
    torch.testing.assert_close(
        found.extract(image, [-1]).patches, expected.extract(image, [-1]).patches
    )


def _without_a_key(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if k != "blocks.3.norm1.bias"}


def _with_another_shape(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "cls_token": torch.ones(1, 1, 8)}


def _with_unknown_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {f"decoder.{index}": torch.ones(1) for index in range(5)}


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (_without_a_key, r"1 keys missing \(blocks.3.norm1.bias\)"),
        (_with_another_shape, r"cls_token expected \(1, 1, 32\), found \(1, 1, 8\)"),
        (_with_unknown_keys, r"5 keys unknown \(decoder.0, decoder.1, decoder.2, \.\.\.\)"),
    ],
)
def test_misfits_name_file_keys_and_shapes(
    folder: Path, damage: Callable[[dict[str, Tensor]], dict[str, Tensor]], complaint: str
) -> None:
    file = folder / "model.safetensors"
    save_file(damage(load_file(file)), file)
    with pytest.raises(WeightsError, match=f"{file} does not fit vit_base_.*{complaint}"):
        _fingerprint(MAE, folder)


def test_weights_of_another_architecture_are_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"does not fit resnet18: .*keys missing .*bn1"):
        _fingerprint("resnet18", folder)


def test_a_description_of_another_architecture_is_refused(folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"describes vit_base_patch16_224, but resnet18 was"):
        _fingerprint("resnet18", folder)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"architecture": "vit_base_patch16_224", "model_args": 1}']
)
def test_a_damaged_description_is_named(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"config\.json is not a description of a timm model"):
        _fingerprint(MAE, folder)


def test_a_neighbouring_config_of_something_else_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "resnet18.pth"
    torch.save(make_network("resnet18").state_dict(), file)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert _fingerprint("resnet18", file)


def test_sizes_that_timm_does_not_take_are_named(folder: Path) -> None:
    saved = json.loads((folder / "config.json").read_text())
    saved["model_args"]["wings"] = 2
    (folder / "config.json").write_text(json.dumps(saved))
    with pytest.raises(ConfigError, match=r"timm cannot build .*wings"):
        _fingerprint(MAE, folder)


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_truncated_safetensors_are_named(folder: Path, kept: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=f"{file} cannot be read as weights .* fetch it again"):
        _fingerprint(MAE, folder)


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("arbitrary code ran",))


def test_pickled_code_is_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file, save in ((tmp_path / "a.pth", torch.save), (tmp_path / "b.pth", _plain_pickle)):
        save({"weight": _Trap()}, file)
        with pytest.raises(WeightsError, match="cannot be read as weights"):
            _fingerprint(MAE, file)
    assert capsys.readouterr().out == ""


def _plain_pickle(value: object, file: Path) -> None:
    file.write_bytes(pickle.dumps(value))


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"model": {"a": "text"}}])
def test_a_file_without_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="holds no table of tensors"):
        _fingerprint(MAE, tmp_path / "weights.pth")


def test_a_swapped_tensor_of_the_registry_package_is_found(tmp_path: Path) -> None:
    from scanomaly.backbones.loading import read_state
    from scanomaly.backbones.weights import locate

    state = read_state(locate("tf_efficientnet_lite0"))
    names = list(state)
    first, second = names.index("_bn0.weight"), names.index("_bn0.bias")
    names[first], names[second] = names[second], names[first]
    torch.save({name: state[name] for name in names}, tmp_path / "swapped.pth")
    with pytest.raises(WeightsError, match=r"misfits: _bn0.bias \(32,\) for bn1.weight"):
        _fingerprint("tf_efficientnet_lite0", tmp_path / "swapped.pth")
    torch.save({name: state[name] for name in list(state)[:-9]}, tmp_path / "short.pth")
    with pytest.raises(WeightsError, match="expected 294 tensors, found 287"):
        _fingerprint("tf_efficientnet_lite0", tmp_path / "short.pth")


def test_one_file_serves_every_patch_size(folder: Path) -> None:
    for patch in (4, 8, 16, 32):
        backbone = build_backbone(BackboneConfig(name=MAE, weights=str(folder), patch=patch))
        assert isinstance(backbone, VisionTransformerBackbone)
        assert backbone.grid == (32 // patch, 32 // patch)


def test_a_network_of_computed_tables_keeps_them(folder: Path) -> None:
    """Filling in on empty tensors must leave none empty."""
    backbone = build_backbone(BackboneConfig(name=MAE, weights=str(folder)))
    tensors = [*backbone.parameters(), *backbone.buffers()]
    assert not any(tensor.is_meta for tensor in tensors)
    assert make_network(MAE).state_dict().keys() == backbone.network.state_dict().keys()
