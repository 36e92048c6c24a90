import pytest
import torch
from safetensors.torch import load_file

from golden_parity import assert_parity
from scanomaly.nn import memory_bank
from scanomaly.nn.memory_bank import MemoryBank, unit


@pytest.fixture
def bank() -> MemoryBank:
    """Five images of three owners, four tokens each."""
    bank = MemoryBank()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(5, 4, 6, generator=generator) * 3
    bank.remember(tokens, torch.tensor([7, 7, 8, 9, 9]))
    return bank


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(1))


def plain_distances(bank: MemoryBank, tokens: torch.Tensor, without: list[int]) -> torch.Tensor:
    """One patch against one row at a time."""
    found = torch.zeros(tokens.shape[:2])
    for image, patches in enumerate(tokens):
        for index, patch in enumerate(patches):
            rows = [
                row
                for owner, rows in zip(bank.owner.tolist(), bank.tokens, strict=True)
                for row in rows
                if owner != without[image]
            ]
            cosines = [torch.cosine_similarity(patch, row, dim=0) for row in rows]
            found[image, index] = 1 - max(cosines)
    return found


def test_published_cosines(golden):
    table = load_file(golden("mvfa_cos.safetensors"))
    assert_parity(unit(table["in.a"]) @ unit(table["in.b"]).T, table["out.cos"])
    bank = MemoryBank()
    bank.remember(table["in.b"][None], torch.zeros(1, dtype=torch.int64))
    nearest = 1 - table["out.cos"].amax(dim=1)
    assert_parity(bank.distances(table["in.a"][None])[0], nearest)


@pytest.mark.parametrize("buffer", [2**22, 1, 13, 60])
@pytest.mark.parametrize("queries", [1024, 1, 7])
def test_distances_are_those_of_a_plain_loop(bank, tokens, buffer, queries, monkeypatch):
    monkeypatch.setattr(memory_bank, "BUFFER", buffer)
    monkeypatch.setattr(memory_bank, "QUERIES", queries)
    expected = plain_distances(bank, tokens, [-1] * 4)
    torch.testing.assert_close(bank.distances(tokens), expected, rtol=0, atol=1e-6)
    asking = [7, 9, 1, 8]
    expected = plain_distances(bank, tokens, asking)
    found = bank.distances(tokens, torch.tensor(asking))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_an_image_of_the_bank_is_far_from_the_others_only(bank):
    own = bank.tokens[2:3].clone()
    assert bank.distances(own).abs().max() < 1e-6
    assert bank.distances(own, torch.tensor([8])).min() > 1e-3


def test_in_bf16_the_distance_to_the_row_found_is_exact(bank, tokens):
    half = tokens.to(torch.bfloat16)
    found = bank.distances(half)
    assert found.dtype == torch.float32
    exact = bank.distances(half.float())
    torch.testing.assert_close(found, exact, rtol=0, atol=2e-2)
    assert (found - exact).abs().median() < 1e-6


def test_the_only_normal_image_cannot_be_left_out():
    bank = MemoryBank()
    bank.remember(torch.ones(3, 2, 4), torch.tensor([5, 5, 5]))
    with pytest.raises(ValueError, match=r"besides the one left out, got 1 .* at least 2 normal"):
        bank.distances(torch.ones(1, 2, 4), torch.tensor([5]))
    assert bank.distances(torch.ones(1, 2, 4), torch.tensor([6])).abs().max() < 1e-6


def test_an_empty_bank_knows_no_distance(tokens):
    assert torch.equal(MemoryBank().distances(tokens), torch.zeros(4, 3))


def test_tokens_of_zeros_have_a_distance(bank):
    assert torch.equal(bank.distances(torch.zeros(1, 2, 6)), torch.ones(1, 2))


def test_a_saved_bank_fills_the_room_made_for_it(bank, tokens):
    state, other = bank.state_dict(), MemoryBank()
    other.make_room(state["tokens"].shape, state["owner"].shape)
    other.load_state_dict(state)
    assert len(other) == 5
    assert torch.equal(other.distances(tokens), bank.distances(tokens))


def test_in_fp16_a_bank_takes_half_the_bytes_and_distances_hardly_move():
    generator = torch.Generator().manual_seed(2)
    memory, tokens = (
        torch.randn(6, 5, 768, generator=generator),
        torch.randn(2, 9, 768, generator=generator),
    )
    tokens[0, :5] = memory[1] + 0.1 * tokens[0, :5]
    exact, small = MemoryBank(), MemoryBank("fp16")
    for bank in (exact, small):
        bank.remember(memory, torch.arange(6))
    assert small.tokens.nbytes * 2 == exact.tokens.nbytes
    found, expected = small.distances(tokens), exact.distances(tokens)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-5)
    assert not torch.equal(found, expected)
    other = MemoryBank("fp16")
    other.make_room(small.tokens.shape, small.owner.shape)
    other.load_state_dict(small.state_dict())
    assert torch.equal(other.distances(tokens), found)
