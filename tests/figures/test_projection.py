"""t-SNE that repeats itself, and what it does with few or equal points."""

import numpy as np
import pytest

from scanomaly.figures.projection import LEAST_POINTS, perplexity_of, project


def two_groups(each: int) -> np.ndarray:
    random = np.random.default_rng(0)
    middle = np.repeat(np.eye(2, 8), each, axis=0)
    vectors = middle + random.normal(0, 0.05, middle.shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_groups_stay_apart_and_the_same_seed_gives_the_same_places():
    vectors = two_groups(12)
    found = project(vectors, 3)
    assert found.shape == (24, 2)
    group = np.arange(24) >= 12
    distances = np.linalg.norm(found[:, None] - found, axis=2) + 1e9 * np.eye(24)
    assert (group[distances.argmin(axis=1)] == group).all()
    assert np.array_equal(project(vectors, 3), found)


@pytest.mark.parametrize(("points", "expected"), [(6, 5 / 3), (61, 20), (91, 30), (1000, 30)])
def test_few_points_have_a_smaller_perplexity(points, expected):
    assert perplexity_of(points) == pytest.approx(expected)


def test_the_fewest_points_can_be_projected():
    assert np.isfinite(project(two_groups(LEAST_POINTS // 2), 0)).all()


@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_vectors_that_are_the_same_become_one_place(noise):
    vectors = np.full((9, 4), 0.5, np.float32)
    vectors += np.random.default_rng(0).normal(0, noise, vectors.shape).astype(np.float32)
    assert (project(vectors, 0) == 0).all()


def test_equal_vectors_among_others_lie_in_one_spot():
    vectors = two_groups(10)
    vectors[3:6] = vectors[3]
    found = project(vectors, 0)
    assert np.isfinite(found).all()
    spread = np.linalg.norm(found[3:6] - found[3], axis=1).max()
    assert spread < 0.5 * np.linalg.norm(found - found[3], axis=1).max()
