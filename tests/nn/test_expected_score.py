import pytest
import torch

from scanomaly.nn.expected_score import BINS, ExpectedScore, grey_shares


def images(count: int) -> torch.Tensor:
    """Grey images (count, 3, 16, 16), each of another brightness and contrast."""
    generator = torch.Generator().manual_seed(0)
    level = torch.rand(count, 1, 1, 1, generator=generator)
    noise = torch.rand(count, 1, 16, 16, generator=generator)
    return (0.2 + 0.4 * level + (0.05 + 0.3 * level) * noise).expand(-1, 3, -1, -1)


def test_shares_are_those_of_a_plain_count():
    image = images(2)
    plain = torch.stack(
        [torch.histc(each[0], bins=BINS, min=0, max=1) / each[0].numel() for each in image]
    )
    torch.testing.assert_close(grey_shares(image), plain.sqrt())


def test_it_learns_a_score_that_goes_with_contrast():
    train = images(200)
    score = train.flatten(1).std(dim=1)
    expected = ExpectedScore()
    expected.fit(grey_shares(train), score)
    left = (score / expected(train)).log().var()
    assert left < 0.1 * score.log().var()


def test_it_never_answers_outside_the_scores_it_was_fitted_on():
    train = images(20)
    score = 1 + train.flatten(1).std(dim=1)
    expected = ExpectedScore()
    expected.fit(grey_shares(train), score)
    strange = torch.cat([torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)])
    found = expected(strange)
    assert (found >= score.min() - 1e-6).all()
    assert (found <= score.max() + 1e-6).all()


def test_it_equals_ridge_regression():
    from sklearn.linear_model import Ridge

    train, new = images(40), images(60)[40:]
    score = 1 + train.flatten(1).std(dim=1)
    expected = ExpectedScore()
    expected.fit(grey_shares(train), score)
    shares = grey_shares(train).double()
    spread = shares.std(dim=0, correction=0).clamp_min(0.01)
    scaled = ((shares - shares.mean(0)) / spread).numpy()
    other = ((grey_shares(new).double() - shares.mean(0)) / spread).numpy()
    known = Ridge(10.0).fit(scaled, score.double().log().numpy()).predict(other)
    low, high = float(score.min()), float(score.max())
    plain = torch.tensor(known).exp().clamp(low, high).float()
    torch.testing.assert_close(expected(new), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_few_images_give_a_finite_answer(count):
    expected = ExpectedScore()
    expected.fit(grey_shares(images(count)), torch.rand(count) + 0.5)
    assert expected(images(5)).isfinite().all()


def test_before_fitting_it_expects_one():
    torch.testing.assert_close(ExpectedScore()(images(3)), torch.ones(3))
