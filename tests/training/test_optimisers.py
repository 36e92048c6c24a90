"""Learning rates and moments of every step, against published values and plain loops."""

import json

import pytest
import torch
from torch import nn

from scanomaly.config.fit import FitOptions
from scanomaly.training.optimisers import optimiser_and_schedule, parameter_groups


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slow = nn.Linear(2, 2)
        self.temperature = nn.Parameter(torch.zeros(()))
        self.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)


def test_parameters_with_a_rate_of_their_own_form_a_group_and_frozen_ones_none():
    model = Model()
    rest, own = parameter_groups(model, {"temperature": 0.01})
    assert own == {"params": [model.temperature], "lr": 0.01}
    assert rest == {"params": [model.slow.weight, model.slow.bias]}


def test_published_learning_rate_and_beta1_of_every_step(golden):
    published = json.loads(golden("qfae_onecycle.json").read_text())
    options = FitOptions(learning_rate=published["max_lr"], warm_up=published["pct_start"])
    made = optimiser_and_schedule([nn.Parameter(torch.zeros(1))], options, published["total_steps"])
    optimiser, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    group = optimiser.param_groups[0]
    used: dict[str, list[float]] = {"lr": [], "beta1": []}
    for step in range(published["total_steps"]):
        used["lr"].append(group["lr"])
        used["beta1"].append(group["betas"][0])
        optimiser.step()
        if step + 1 < published["total_steps"]:
            schedule.step()
    assert used["lr"] == pytest.approx(published["lr"], rel=1e-9)
    assert used["beta1"] == pytest.approx(published["beta1"], rel=1e-9)
    assert (group["betas"][1], group["eps"], group["weight_decay"]) == (0.999, 1e-8, 0.0)
    assert made["lr_scheduler"]["interval"] == "step"


def test_published_warm_up_and_cosine_of_every_step(golden):
    published = json.loads(golden("vqa_schedule.json").read_text())
    total, rising = published["first_cycle_steps"], published["warmup_steps"]
    options = FitOptions(
        learning_rate=published["max_lr"],
        optimiser="adamw",
        schedule="warm_up_cosine",
        warm_up=rising / total,
    )
    made = optimiser_and_schedule([nn.Parameter(torch.zeros(1))], options, total)
    optimiser, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    used = []
    for _ in range(total + 1):  # the published code would then begin another cycle
        used.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert used == pytest.approx(published["lr"][: total + 1], rel=1e-9)
    assert used[0] == used[-1] == pytest.approx(published["min_lr"])


@pytest.mark.parametrize(("epochs", "warm_up"), [(1, 0.9), (2, 0.4), (3, 0.0)])
def test_a_warm_up_of_few_steps_ends_before_the_cosine(epochs, warm_up):
    options = FitOptions(schedule="warm_up_cosine", learning_rate=1e-3, warm_up=warm_up)
    made = optimiser_and_schedule(parameter_groups(Model(), {"temperature": 0.01}), options, epochs)
    rates = [group["lr"] for group in made["optimizer"].param_groups]
    assert rates == pytest.approx([1e-3, 0.01])  # int(share * steps) is 0: it starts at the top


def test_adamw_decays_every_parameter_and_adam_is_the_default():
    groups = [nn.Parameter(torch.ones(2))]
    options = FitOptions(
        optimiser="adamw", learning_rate=0.1, weight_decay=0.05, schedule="constant"
    )
    made = optimiser_and_schedule(groups, options, 1)["optimizer"]
    assert type(made) is torch.optim.AdamW
    groups[0].grad = torch.zeros(2)
    made.step()
    assert groups[0].tolist() == pytest.approx([0.995, 0.995])
    assert type(optimiser_and_schedule(groups, FitOptions(), 9)["optimizer"]) is torch.optim.Adam


def test_a_constant_schedule_is_plain_adam_with_the_betas_asked_for():
    options = FitOptions(schedule="constant", betas=(0.5, 0.999), learning_rate=1e-3)
    model, plain = Model(), Model()
    plain.load_state_dict(model.state_dict())
    made = optimiser_and_schedule(parameter_groups(model, {"temperature": 0.01}), options, 5)
    expected = torch.optim.Adam(
        [
            {"params": plain.slow.parameters(), "lr": 1e-3},
            {"params": [plain.temperature], "lr": 0.01},
        ],
        betas=(0.5, 0.999),
    )
    for step in range(5):
        for one, optimiser in ((model, made["optimizer"]), (plain, expected)):
            optimiser.zero_grad()
            (one.slow(torch.ones(2) * step).square().sum() + one.temperature.exp()).backward()
            optimiser.step()
        made["lr_scheduler"]["scheduler"].step()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_one_cycle_keeps_the_proportion_of_the_rates():
    options = FitOptions(learning_rate=1e-3, warm_up=0.5)
    made = optimiser_and_schedule(parameter_groups(Model(), {"temperature": 0.01}), options, 10)
    peaks = [0.0, 0.0]
    for _ in range(9):
        rates = [group["lr"] for group in made["optimizer"].param_groups]
        peaks = [max(pair) for pair in zip(peaks, rates, strict=True)]
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert peaks == [1e-3, 0.01]
