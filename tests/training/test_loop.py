"""The real loop on Lightning: all tests that need it for itself are in this one module."""

import copy
import json
from pathlib import Path

import pytest
import tiny_objective
import torch
from tiny_objective import OPTIONS, Pairs, fit, network, squared_error
from torch import Tensor, nn

from processes import run_script
from scanomaly.config.fit import FitOptions
from scanomaly.errors import FitError, FitInterrupted
from scanomaly.records import Draw
from scanomaly.training import Criterion, Objective, optimise
from scanomaly.training.optimisers import optimiser_and_schedule

STEPS_PER_EPOCH = 3


def changed(**fields: object) -> FitOptions:
    return FitOptions.model_validate({**OPTIONS.model_dump(), **fields})


def assert_same_weights(found: nn.Module, expected: nn.Module, atol: float = 1e-6) -> None:
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=0, atol=atol, msg=name)


def slow_fit(options: FitOptions) -> nn.Module:
    """The same optimisation as a plain loop."""
    from scanomaly.training.sampling import EpochSampler

    model, data = network(), Pairs()
    parameters = [p for p in model.parameters() if p.requires_grad]
    made = optimiser_and_schedule(parameters, options, options.epochs * STEPS_PER_EPOCH)
    sampler = EpochSampler(len(data), options)
    for epoch in range(options.epochs):
        sampler.set_epoch(epoch)
        for draws in sampler:
            made["optimizer"].zero_grad()
            squared_error(model)(data.collate([data[draw] for draw in draws])).backward()
            made["optimizer"].step()
            made["lr_scheduler"]["scheduler"].step()
    return model


def test_the_loop_does_what_a_plain_loop_does(tmp_path):
    model, history = fit(tmp_path)
    assert_same_weights(model, slow_fit(OPTIONS))
    assert not torch.equal(model[3].weight, network()[3].weight)
    assert torch.equal(model[0].weight, network()[0].weight)
    assert history.steps == OPTIONS.epochs * STEPS_PER_EPOCH
    assert len(history.train_loss) == OPTIONS.epochs
    assert history.validation_loss == ()
    assert history.checkpoint == "last epoch"


def test_checkpoints_hold_trainable_tensors_and_logs_every_step(tmp_path):
    fit(tmp_path)
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert sorted(state) == [f"model.{i}.{part}" for i in (3, 5) for part in ("bias", "weight")]
    rows = (tmp_path / "logs" / "csv" / "metrics.csv").read_text().splitlines()
    assert "train_loss" in rows[0]
    assert len(rows) == 1 + OPTIONS.epochs
    assert list((tmp_path / "logs" / "tensorboard").glob("events*"))


def test_running_statistics_come_back_with_the_weights_that_were_kept(tmp_path):
    """The last epochs are worse: their means must not stay beside the best epoch's weights."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    names = ("1.running_mean", "1.running_var", "1.num_batches_tracked")
    asked = Objective(model, squared_error(model), Pairs(), Pairs(10, seed=1), statistics=names)
    options = changed(learning_rate=0.5, patience=4, epochs=4)
    history = optimise(asked, options, tmp_path)
    best = history.validation_loss.index(min(history.validation_loss))
    assert best < 3, "else the test says nothing"
    assert model[1].num_batches_tracked == STEPS_PER_EPOCH * (best + 1)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_validation_loss_is_the_mean_over_images_whatever_the_batches(accumulate, tmp_path):
    """Ten images come as 8 + 2 or as 4 + 4 + 2."""
    model = network()
    history = optimise(objective(model, **VALIDATED), changed(accumulate=accumulate), tmp_path)
    data = VALIDATED["validation"]
    pairs = data.collate([data[Draw(None, index)] for index in range(len(data))])
    with torch.no_grad():
        assert history.validation_loss[-1] == pytest.approx(
            squared_error(model)(pairs).item(), rel=1e-5
        )
    assert len(history.validation_loss) == OPTIONS.epochs


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_changes_no_number(accumulate, tmp_path):
    whole, _ = fit(tmp_path / "whole")
    parts, history = fit(tmp_path / "parts", changed(accumulate=accumulate))
    assert_same_weights(parts, whole)
    assert history.steps == OPTIONS.epochs * STEPS_PER_EPOCH


def objective(model: nn.Module, stop_at: int | None = None, **data: object) -> Objective:
    """A kill (Ctrl-C) arrives while training micro-batch `stop_at` is computed."""
    seen = iter(range(10**6))
    plain = squared_error(model)

    def loss(items: tuple[Tensor, Tensor]) -> Tensor:
        if model.training and next(seen) == stop_at:
            raise KeyboardInterrupt
        return plain(items)

    return Objective(model, loss, Pairs(), **data)


VALIDATED = {"validation": Pairs(10, seed=9)}


@pytest.mark.parametrize(
    ("fields", "data"),
    [({}, {}), ({"accumulate": 2}, {}), ({"patience": 4}, VALIDATED)],
    ids=["plain", "accumulating", "validated"],
)
@pytest.mark.parametrize("steps", [1, 7, 11], ids=lambda steps: f"after {steps} steps")
def test_a_killed_run_resumes_to_the_same_weights(steps, fields, data, tmp_path):
    options = changed(**fields)
    whole = network(dropout=0.3)
    expected = optimise(objective(whole, **data), options, tmp_path / "whole")

    stop_at = steps * options.accumulate + options.accumulate - 1
    killed, run_dir = network(dropout=0.3), tmp_path / "killed"
    epoch = 1 + steps // STEPS_PER_EPOCH
    with pytest.raises(FitInterrupted, match=rf"in epoch {epoch} of 4; .*--resume goes on"):
        optimise(objective(killed, stop_at, **data), options, run_dir)

    torch.manual_seed(99)
    resumed = nn.Sequential(*network(dropout=0.3))
    for parameter in resumed[3:].parameters():
        nn.init.zeros_(parameter)  # the checkpoint must give them
    if epoch == 1:  # there is none yet: the run starts again
        resumed = network(dropout=0.3)
    history = optimise(objective(resumed, **data), options, run_dir, resume=True)
    assert_same_weights(resumed, whole)
    assert history.train_loss == pytest.approx(expected.train_loss, rel=1e-6)
    assert history.validation_loss == pytest.approx(expected.validation_loss, rel=1e-6)
    assert (history.steps, history.checkpoint) == (expected.steps, expected.checkpoint)


def test_resuming_a_finished_run_gives_its_weights(tmp_path):
    whole, expected = fit(tmp_path)
    again = network()
    history = optimise(objective(again), OPTIONS, tmp_path, resume=True)
    assert_same_weights(again, whole, atol=0)
    assert history == expected


def test_a_new_run_in_the_same_folder_starts_from_nothing(tmp_path):
    first, _ = fit(tmp_path, changed(epochs=2))
    second, history = fit(tmp_path, changed(epochs=2))
    assert_same_weights(second, first, atol=0)
    assert len(history.train_loss) == 2


class Drifting(nn.Module):
    """One number that training pulls to 3, past the 1 that validation wants."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))


class Wanted:
    """Four images that want the same value."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __len__(self) -> int:
        return 4

    def __getitem__(self, draw: object) -> float:
        return self.value

    def collate(self, items: list[float]) -> Tensor:
        return torch.tensor(items)


def drifting(validation: Wanted | None) -> Objective:
    model = Drifting()

    def loss(wanted: Tensor) -> Tensor:
        return (model.value - wanted).square().mean()

    return Objective(model, loss, Wanted(3.0), validation)


DRIFT = {"epochs": 40, "batch_size": 4, "learning_rate": 0.2, "warm_up": 0.0, "patience": 3}


def test_early_stopping_keeps_the_best_weights(tmp_path):
    asked = drifting(Wanted(1.0))
    history = optimise(asked, changed(**DRIFT), tmp_path)
    best = min(history.validation_loss)
    position = history.validation_loss.index(best)
    assert len(history.validation_loss) == position + 1 + 3 < 40
    assert position > 0
    assert (asked.model.value.item() - 1) ** 2 == pytest.approx(best, abs=1e-6)
    assert history.checkpoint == "best validation loss"


def test_a_criterion_keeps_the_epoch_in_which_it_was_highest(tmp_path):
    model, asked, last = network(), [], []

    def value() -> float:
        model.eval()
        asked.append(copy.deepcopy(model.state_dict()))
        return [0.2, 0.9, 0.5, 0.9][len(asked) - 1]

    def at_last() -> None:
        last.append(copy.deepcopy(model.state_dict()))

    criterion = Criterion("best on test", value, at_last)
    objective = Objective(model, squared_error(model), Pairs(), criterion=criterion)
    history = optimise(objective, OPTIONS, tmp_path)
    assert history.checkpoint == "best on test"
    assert len(asked) == OPTIONS.epochs
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, asked[1][name]), name
    assert not torch.equal(asked[1]["3.weight"], asked[3]["3.weight"])
    assert len(last) == 1
    assert all(torch.equal(tensor, asked[3][name]) for name, tensor in last[0].items())


def test_patience_without_validation_images_is_an_error(tmp_path):
    with pytest.raises(FitError, match=r"fit.patience needs validation images .* unset it"):
        optimise(drifting(None), changed(**DRIFT), tmp_path)


@pytest.mark.parametrize("validation", [None, Wanted(1.0)], ids=["plain", "validated"])
def test_weights_that_are_not_finite_are_an_error(validation, tmp_path):
    asked = drifting(validation)
    broken = Objective(
        asked.model, lambda items: asked.loss(items) * float("nan"), asked.train, validation
    )
    patience = 3 if validation else None
    options = changed(**DRIFT | {"epochs": 2, "patience": patience})
    with pytest.raises(FitError, match=r"not finite; lower fit.learning_rate or use .*fp32"):
        optimise(broken, options, tmp_path)


def test_an_error_in_the_loss_comes_out_as_it_is(tmp_path):
    asked = drifting(None)

    def fail(items: Tensor) -> Tensor:
        raise ZeroDivisionError("in the loss")

    with pytest.raises(ZeroDivisionError, match="in the loss"):
        optimise(
            Objective(asked.model, fail, asked.train), changed(epochs=1, batch_size=4), tmp_path
        )


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(tmp_path):
    """Lightning starts the second process by running the script again."""
    expected, history = fit(tmp_path / "one")
    run_script(tiny_objective.__file__, tmp_path / "two", 2)
    found = torch.load(tmp_path / "two" / "weights.pt", weights_only=True)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6, msg=name)
    losses = json.loads(Path(tmp_path / "two" / "train_loss.json").read_text())
    assert losses == pytest.approx(history.train_loss, rel=1e-5)
