"""Depthwise convolutions that stay in fp32 under autocast."""

from copy import deepcopy

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from scanomaly.nn.depthwise import with_exact_depthwise

WIDTH = 8


def network(kind: type[nn.Conv2d] = nn.Conv2d) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, WIDTH, 1),
        kind(WIDTH, WIDTH, 3, stride=2, groups=WIDTH),
        nn.Conv2d(WIDTH, WIDTH, 1, groups=2),
    )


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
def test_only_depthwise_ones_are_computed_in_fp32_and_give_back_what_they_took(kind, image):
    exact = with_exact_depthwise(network(kind))
    taken = []
    exact[1].register_forward_hook(lambda layer, given, found: taken.append((*given, found)))
    with torch.autocast("cpu", torch.bfloat16):
        found = exact(image)
    ((given, kept),) = taken
    assert found.dtype == given.dtype == kept.dtype == torch.bfloat16
    in_fp32 = network(kind)[1](given.float())
    assert torch.equal(kept, in_fp32.to(torch.bfloat16))
    assert [type(layer) for layer in exact][::2] == [nn.Conv2d, nn.Conv2d]
    torch.testing.assert_close(exact(image), network(kind)(image))


def test_gradients_are_those_of_fp32(image):
    exact, plain = with_exact_depthwise(network()), network()
    exact(image).square().sum().backward()
    plain(image).square().sum().backward()
    for ours, theirs in zip(exact.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_what_is_not_trained_stays_under_autocast(image):
    """Its forward pass is as exact as that of its neighbours, and faster so."""
    exact = with_exact_depthwise(network()).requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(exact(image), network()(image))


@pytest.mark.parametrize("side", [9, 10])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
def test_a_frozen_one_gives_its_input_the_gradient_of_fp32(kind, kernel, side):
    torch.manual_seed(0)
    plain = kind(WIDTH, WIDTH, kernel, stride=2, padding=kernel // 2, groups=WIDTH)
    plain.requires_grad_(False)
    image, out = torch.rand(2, WIDTH, side, side), torch.rand(2, WIDTH, 5, 5)
    gradients = []
    for layer in (plain, with_exact_depthwise(nn.Sequential(deepcopy(plain)))[0]):
        given = image.clone().requires_grad_()
        layer(given).backward(out[..., : layer(given).shape[2], : layer(given).shape[3]])
        gradients.append(given.grad)
    torch.testing.assert_close(*gradients)

    given = image.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = with_exact_depthwise(nn.Sequential(deepcopy(plain)))(given)
    found.backward(out[..., : found.shape[2], : found.shape[3]].bfloat16())
    assert given.grad.dtype == torch.bfloat16
    theirs = image.bfloat16().float().requires_grad_()
    plain(theirs).backward(out.bfloat16().float()[..., : found.shape[2], : found.shape[3]])
    assert torch.equal(given.grad, theirs.grad.bfloat16())


def test_state_and_copies():
    exact = with_exact_depthwise(network())
    assert exact.state_dict().keys() == network().state_dict().keys()
    other = deepcopy(exact)
    nn.init.zeros_(other[1].weight)
    assert exact[1].weight.any()
    kind = type(exact[1])
    assert type(with_exact_depthwise(exact)[1]) is kind, "once is enough"
