import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from golden_names_mvfa import renamed_adapter
from golden_parity import assert_parity, weights
from scanomaly.nn.adapters import AdapterForm, Adapters, LevelAdapter

BOTH = ("seg", "det")


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))


def adapters(levels: int = 2, heads: tuple[str, ...] = BOTH, **form: object) -> Adapters:
    torch.manual_seed(0)
    return Adapters(8, 4, levels, heads, AdapterForm(**form))  # type: ignore[arg-type]


def test_the_published_adapter(golden):
    table = load_file(golden("mvfa_adapter.safetensors"))
    adapter = LevelAdapter(32, 24, AdapterForm(), last=False)
    adapter.load_state_dict(renamed_adapter(weights(table)))
    bottleneck = adapter.bottleneck(table["in.x"])
    assert_parity(bottleneck, table["out.bottleneck"])
    assert_parity(adapter.output(bottleneck), table["out.adapted"])


def test_two_heads_take_a_tenth_each(tokens):
    network = adapters()
    mixed, found = network(0, tokens)
    expected = 0.8 * tokens
    for head in BOTH:
        adapter = network.heads[head][0]
        bottleneck = F.leaky_relu(tokens @ adapter.down.weight.T, 0.01)
        torch.testing.assert_close(found[head], bottleneck)
        expected = expected + 0.1 * F.leaky_relu(bottleneck @ adapter.up.weight.T, 0.01)
    torch.testing.assert_close(mixed, expected)


@pytest.mark.parametrize(
    ("heads", "share_each", "kept", "share"),
    [(BOTH, False, 0.9, 0.05), (("both",), True, 0.9, 0.1), (("both",), False, 0.9, 0.1)],
)
def test_the_papers_form_keeps_nine_tenths(tokens, heads, share_each, kept, share):
    network = adapters(heads=heads, share_each=share_each)
    mixed, found = network(0, tokens)
    outputs = [network.heads[head][0].output(found[head]) for head in heads]
    torch.testing.assert_close(mixed, kept * tokens + share * sum(outputs))


def test_the_papers_activation_is_relu_once(tokens):
    network = adapters(heads=("both",), activation="relu", output_activation="none")
    mixed, found = network(0, tokens)
    adapter = network.heads["both"][0]
    bottleneck = (tokens @ adapter.down.weight.T).relu()
    torch.testing.assert_close(found["both"], bottleneck)
    torch.testing.assert_close(mixed, 0.9 * tokens + 0.1 * bottleneck @ adapter.up.weight.T)


def test_a_projector_leaves_the_network_alone(tokens):
    network = adapters(feeds_back=False, activation="none")
    mixed, found = network(0, tokens)
    assert mixed is tokens
    torch.testing.assert_close(found["seg"], tokens @ network.heads["seg"][0].down.weight.T)
    assert [name for name in network.state_dict() if "up" in name] == []
    with pytest.raises(ValueError, match=r"no way back: expected form\.feeds_back"):
        network.heads["seg"][0].output(found["seg"])


def test_after_the_last_level_nothing_is_mixed_and_its_way_back_is_not_trained(tokens):
    network = adapters()
    mixed, found = network(1, tokens)
    assert mixed is tokens
    assert found.keys() == set(BOTH)
    still = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert still == {f"heads.{head}.1.up.weight" for head in BOTH}


def test_published_size_and_trainable_part():
    with torch.device("meta"):
        network = Adapters(1024, 768, 4, BOTH)
    per_head = sum(p.numel() for p in network.heads["seg"].parameters())
    assert per_head == 6_291_456
    assert sum(p.numel() for p in network.parameters()) == 12_582_912
    still = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    assert still == 2 * 1024 * 768


def gradients(network: Adapters, tokens: torch.Tensor, learns: object) -> dict[str, object]:
    network.zero_grad()
    mixed, found = network(0, tokens, learns)
    (mixed.square().sum() + found["seg"].sum()).backward()
    return {name: p.grad for name, p in network.named_parameters()}


def test_an_image_that_teaches_nothing_leaves_no_gradient_in_that_head(tokens):
    network = adapters()
    learns = torch.tensor([True, False, True])
    all_of_them = gradients(network, tokens[learns], None)
    some = gradients(network, tokens, {"seg": learns})
    for name in ("heads.seg.0.down.weight", "heads.seg.0.up.weight"):
        torch.testing.assert_close(some[name], all_of_them[name])
    none = gradients(network, tokens, {"seg": torch.zeros(3, dtype=torch.bool)})
    assert none["heads.seg.0.down.weight"] is None, "Adam steps on zeros, never on nothing"
    assert none["heads.det.0.down.weight"] is not None


def test_a_head_that_learns_nothing_still_passes_gradients_on(tokens):
    network = adapters()
    expected = tokens.clone().requires_grad_()
    network(0, expected)[0].square().sum().backward()
    for learns in ([False] * 3, [True, False, True]):
        found = tokens.clone().requires_grad_()
        mixed, _ = network(0, found, {"seg": torch.tensor(learns)})
        mixed.square().sum().backward()
        torch.testing.assert_close(found.grad, expected.grad)
