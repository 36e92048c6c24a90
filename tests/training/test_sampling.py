from itertools import chain

import pytest

from scanomaly.config.fit import FitOptions
from scanomaly.errors import FitError
from scanomaly.training.sampling import EpochSampler, InOrder


def draws(sampler, epoch=0):
    sampler.set_epoch(epoch)
    return [[draw.index for draw in batch] for batch in sampler]


def test_epochs_are_permutations_of_their_own():
    sampler = EpochSampler(100, FitOptions(batch_size=10, seed=5))
    first, second = draws(sampler, 0), draws(sampler, 1)
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(100))
    assert first != second
    assert draws(sampler, 0) == first
    assert draws(EpochSampler(100, FitOptions(batch_size=10, seed=6)), 0) != first
    sampler.set_epoch(3)
    assert {draw.epoch for batch in sampler for draw in batch} == {3}


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)])
def test_ranks_and_micro_batches_share_each_global_batch(world, accumulate):
    """For every optimiser step the images are those of one process with the whole batch."""
    count, step = 54, 8
    whole = [sorted(b) for b in draws(EpochSampler(count, FitOptions(batch_size=step)), 3)]
    options = FitOptions(batch_size=step, devices=world, accumulate=accumulate)
    parts = [draws(EpochSampler(count, options, rank, world), 3) for rank in range(world)]
    assert {len(part) for part in parts} == {6 * accumulate}
    for k, expected in enumerate(whole):
        batches = [b for part in parts for b in part[k * accumulate : (k + 1) * accumulate]]
        assert all(len(batch) == options.micro_batch for batch in batches)
        assert sorted(chain(*batches)) == expected


def test_fewer_images_than_a_batch_is_an_error_with_the_remedy():
    with pytest.raises(FitError, match=r"7 training items .* batch of 64; .*batch_size=7"):
        EpochSampler(7, FitOptions())


def test_batches_must_divide_over_devices():
    with pytest.raises(ValueError, match=r"batch_size 10 is not a multiple .* = 4; use 8"):
        FitOptions(batch_size=10, devices=4)


def test_validation_images_come_once_in_order():
    batches = list(InOrder(5, 2))
    assert [[d.index for d in batch] for batch in batches] == [[0, 1], [2, 3], [4]]
    assert {d.epoch for batch in batches for d in batch} == {None}
    assert len(InOrder(5, 2)) == len(batches)
