import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from golden_names import DECODER, renamed
from golden_parity import assert_parity, weights
from scanomaly.nn.image_decoder import ImageDecoder

Table = dict[str, Tensor]


@pytest.fixture
def table(golden) -> Table:
    return load_file(golden("qfae_decoder_rgb.safetensors"))


def decoder(state: Table, channels: int = 3) -> ImageDecoder:
    built = ImageDecoder(
        20, (4, 4), 4, width=32, depth=2, heads=4, channels=channels, mlp_ratio=2.0
    )
    built.load_state_dict(state)
    return built.eval()


def test_published_image_and_the_tokens_after_every_block(table):
    built = decoder(renamed(weights(table), DECODER))
    tokens: list[Tensor] = []
    for block in built.blocks:
        block.register_forward_hook(lambda _, inputs, output: tokens.append(output))
    assert_parity(built(table["in.z"]), table["out.image"])
    for index, output in enumerate(tokens):
        assert_parity(output[:, :5], table[f"out.prefix{index}"])
        patches = output[:, 5:].transpose(1, 2).unflatten(2, (4, 4))
        assert_parity(patches, table[f"out.block{index}"])
    assert len(tokens) == 2


def test_positions_are_the_published_table(table):
    assert_parity(decoder(renamed(weights(table), DECODER)).positions, table["w.decoder_pos_embed"])


def test_another_norm_epsilon_is_another_decoder(table):
    state = renamed(weights(table), DECODER)
    other = ImageDecoder(20, (4, 4), 4, width=32, depth=2, heads=4, mlp_ratio=2.0, norm_eps=1e-2)
    other.load_state_dict(state)
    assert not torch.allclose(other.eval()(table["in.z"]), table["out.image"], atol=1e-4)


@pytest.mark.parametrize("channel", range(3))
def test_one_grey_channel_is_repeated(table, channel):
    """A decoder with one channel's rows of the published head draws that channel three times."""
    state = renamed(weights(table), DECODER)
    for name in ("to_pixels.weight", "to_pixels.bias"):
        state[name] = state[name][channel::3]  # channel fastest
    image = decoder(state, channels=1)(table["in.z"])
    published = table["out.image"][:, channel : channel + 1]
    assert_parity(image, published.expand(-1, 3, -1, -1))
