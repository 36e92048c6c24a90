"""CLIP's towers against what the published MVFA and IQE-CLIP code returned.

B images, L patches, N sentences, W width, r class tokens, n learnable tokens
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from golden_parity import assert_parity, weights
from scanomaly.backbones.clip import ClipText, ClipVision, tokenize
from scanomaly.backbones.resample import resample_positions

Golden = Callable[[str], Path]
PLAIN = ((0.0,) * 3, (1.0,) * 3)
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 3}
VISION = {"image_size": 30, "patch_size": 7, "width": 16, "layers": 24, "head_width": 8}


@pytest.mark.parametrize(("old", "new"), [(24, 17), (5, 3)])
def test_position_tables(golden: Golden, old: int, new: int) -> None:
    table = load_file(golden("mvfa_pos_embed.safetensors"))
    found = resample_positions(table[f"in.grid{old}"][None], (old, old), (new, new))
    assert_parity(found[0], table[f"out.grid{new}"])


def _sides(old: int, new: int) -> tuple[int, int]:
    """Image sides that give these grids with patches of 2, the new one with a pixel to spare."""
    return 2 * old, 2 * new + 1


@pytest.mark.parametrize(("old", "new"), [(24, 17), (5, 3)])
def test_a_tower_resamples_its_positions_alike(golden: Golden, old: int, new: int) -> None:
    """With a silent convolution and no first norm, tokens are class embedding and positions."""
    table = load_file(golden("mvfa_pos_embed.safetensors"))
    width = table[f"in.grid{old}"].shape[1]
    native, other = _sides(old, new)
    sizes = {"image_size": native, "patch_size": 2, "width": width, "layers": 1, "head_width": 3}
    network = open_clip.CLIP(4, {**sizes, "no_ln_pre": True}, {**TEXT, "layers": 1}).visual
    for parameter in (network.conv1.weight, network.class_embedding):
        parameter.data.zero_()
    network.positional_embedding.data.copy_(table[f"in.grid{old}"])
    tokens = ClipVision(network, *PLAIN).start(torch.rand(1, 3, other, other))
    assert_parity(tokens[0], table[f"out.grid{new}"])


@pytest.fixture
def image_path(golden: Golden) -> dict[str, Tensor]:
    return load_file(golden("mvfa_image_path.safetensors"))


def _golden_vision(image_path: dict[str, Tensor]) -> ClipVision:
    network = open_clip.CLIP(12, {**VISION, "mlp_ratio": 2.0}, {**TEXT, "layers": 1}).visual
    state = weights(image_path)
    network.load_state_dict({k: v for k, v in state.items() if "_adapters." not in k})
    return ClipVision(network, *PLAIN)


class Adapters:
    """The published adapters and their mixing, as a hook."""

    def __init__(self, table: dict[str, Tensor]) -> None:
        self.table = table
        self.bottlenecks: dict[str, Tensor] = {}

    def __call__(self, block: int, tokens: Tensor) -> Tensor:
        if (block + 1) % 6:
            return tokens
        adapted = 0.8 * tokens
        for head in ("seg", "det"):
            adapted = adapted + 0.1 * self._adapter(head, block // 6, tokens)
        return adapted

    def _adapter(self, head: str, level: int, tokens: Tensor) -> Tensor:
        start = f"w.{head}_adapters.{level}"
        middle = F.leaky_relu(tokens @ self.table[f"{start}.fc1.0.weight"].T, 0.01)
        self.bottlenecks[f"out.{head}{level}"] = middle
        return F.leaky_relu(middle @ self.table[f"{start}.fc2.0.weight"].T, 0.01)


def test_the_image_path_with_adapters(image_path: dict[str, Tensor]) -> None:
    adapters = Adapters(image_path)
    features = _golden_vision(image_path).extract(
        image_path["in.image"], [5, 11, 17, 23], after_block=adapters
    )
    assert features.grids == ((4, 4),) * 4
    assert len(adapters.bottlenecks) == 8
    for name, found in adapters.bottlenecks.items():
        assert_parity(found, image_path[name], 1e-4)
    assert features.pooled is not None
    assert_parity(features.pooled, image_path["out.pooled"], 1e-4)


def test_the_golden_image_path_sees_a_missing_adapter(image_path: dict[str, Tensor]) -> None:
    plain = _golden_vision(image_path).extract(image_path["in.image"], [23])
    assert plain.pooled is not None
    assert (plain.pooled - image_path["out.pooled"]).abs().max() > 1e-2


OBJECTS = {
    "Brain": "Brain",
    "Liver": "Liver",
    "Retina_RESC": "retinal OCT",
    "Retina_OCT2017": "retinal OCT",
    "Chest": "Chest X-ray film",
    "Histopathology": "histopathological image",
}
STATES = {
    "normal": "{}|flawless {}|perfect {}|unblemished {}|{} without flaw|{} without defect|"
    "{} without damage",
    "abnormal": "damaged {}|broken {}|{} with flaw|{} with defect|{} with damage",
}
TEMPLATES = (
    *("a bad photo of a", "a low resolution photo of the", "a bad photo of the"),
    *("a cropped photo of the", "a bright photo of a", "a dark photo of the", "a photo of my"),
    *("a photo of the cool", "a close-up photo of a", "a black and white photo of the"),
    *("a bright photo of the", "a cropped photo of a", "a jpeg corrupted photo of a"),
    *("a blurry photo of the", "a photo of the", "a good photo of the", "a photo of one"),
    *("a close-up photo of the", "a photo of a", "a low resolution photo of a"),
    *("a photo of a large", "a blurry photo of a", "a jpeg corrupted photo of the"),
    *("a good photo of a", "a photo of the small", "a photo of the large"),
    *("a black and white photo of a", "a dark photo of a", "a photo of a cool"),
    "a photo of a small",
)
SCENES = ("there is a", "there is the", "this is a", "this is the", "this is one")


def _prompts(dataset: str, kind: str) -> Iterator[str]:
    for state in STATES[kind].split("|"):
        words = state.format(OBJECTS[dataset])
        yield from (f"{template} {words}." for template in TEMPLATES)
        yield from (f"{scene} {words} in the scene." for scene in SCENES)


@pytest.mark.parametrize("dataset", OBJECTS)
@pytest.mark.parametrize("kind", STATES)
def test_ids_of_all_prompts(golden: Golden, dataset: str, kind: str) -> None:
    with np.load(golden("mvfa_prompt_tokens.npz")) as file:
        published = torch.from_numpy(file[f"tokens.{dataset}.{kind}"]).long()
    found = tokenize(list(_prompts(dataset, kind)))
    assert found.shape == (35 * len(STATES[kind].split("|")), 77)
    assert torch.equal(found[:, : published.shape[1]], published)
    assert not found[:, published.shape[1] :].any()


class GoldenText:
    """The published text tower, and the sentences with class tokens in place of the end token."""

    def __init__(self, table: dict[str, Tensor]) -> None:
        self.table = table
        sizes = {"image_size": 8, "patch_size": 8, "width": 8, "layers": 1, "head_width": 8}
        network = open_clip.CLIP(24, sizes, TEXT)
        names = ("positional", "text_proj", "ln_final", "transformer", "logit")
        state = {k: v for k, v in weights(table).items() if k.startswith(names)}
        embeddings = torch.zeros(49408, 32).index_copy(
            0, table["token_ids"], table["w.token_embedding.rows"]
        )
        state["token_embedding.weight"] = embeddings
        missing = network.load_state_dict(state, strict=False).missing_keys
        assert all(name.startswith("visual.") for name in missing)
        del network.visual
        self.tower = ClipText(network)
        self.ids = torch.stack([table["in.tokens.normal"], table["in.tokens.abnormal"]]).long()
        self.end = 12

    def sequence(self, image: int) -> Tensor:
        """(2, 77, W): both sentences of one image, positions included."""
        tokens = self.table["in.class_tokens"][image].expand(2, -1, -1)  # (2, r, W)
        rows = self.tower.embed(self.ids)
        joined = torch.cat([rows[:, : self.end], tokens, rows[:, self.end + 1 :]], dim=1)[:, :77]
        return joined + self.tower.positions


@pytest.fixture
def shallow(golden: Golden) -> GoldenText:
    return GoldenText(load_file(golden("iqe_text_shallow.safetensors")))


@pytest.fixture
def deep(golden: Golden) -> GoldenText:
    return GoldenText(load_file(golden("iqe_text_deep1.safetensors")))


def test_the_sentences_of_iqe_clip(shallow: GoldenText) -> None:
    sentences = [f"a photo of a {state} <|class|>." for state in ("normal", "abnormal")]
    assert torch.equal(tokenize(sentences), shallow.ids)


@pytest.mark.parametrize("cut", [77, 14])
def test_text_with_class_tokens(shallow: GoldenText, cut: int) -> None:
    """Row 13 is the last of two class tokens; what comes after it changes nothing."""
    tower = shallow.tower
    for image, published in enumerate(shallow.table["out.text_features"]):
        found = tower.finish(tower.run(shallow.sequence(image)[:, :cut])[:, 13])
        assert_parity(F.normalize(found, dim=-1), published)


def test_text_with_deep_prompts(deep: GoldenText) -> None:
    """One learnable row after the start token, replaced before each block, then cut out."""
    tower, table = deep.tower, deep.table
    project = (table["w.prompt_proj.weight"], table["w.prompt_proj.bias"])
    prompts = torch.stack([table["w.prompt_embeddings"][0], *table["w.deep_prompt_embeddings"]])
    inserted = F.linear(prompts, *project)  # (blocks, n, W)

    def replace(block: int, tokens: Tensor) -> Tensor:
        if block + 1 == tower.depth:
            return tokens
        rows = inserted[block + 1].expand(len(tokens), -1, -1)
        return torch.cat([tokens[:, :1], rows, tokens[:, 2:]], dim=1)

    for image, published in enumerate(table["out.text_features"]):
        plain = deep.sequence(image)
        rows = inserted[0].expand(2, -1, -1)
        sequence = torch.cat([plain[:, :1], rows, plain[:, 1:]], dim=1)[:, :77]
        tokens = tower.run(sequence, after_block=replace)
        kept = torch.cat([tokens[:, :1], tokens[:, 2:]], dim=1)
        norm = (table["w.prompt_norm.weight"], table["w.prompt_norm.bias"])
        normed = F.layer_norm(kept, (tower.width,), *norm, eps=1e-6)
        assert_parity(F.normalize(tower.finish(normed[:, 13]), dim=-1), published)
