"""Intervals against values worked out by hand, in their limits, and whether they cover what they claim."""

import numpy as np
import pytest
from scipy import stats

from ovit_core.study.calibration import expected_calibration_error
from ovit_core.study.intervals import interval, means


def test_a_tiny_example_by_hand():
    x = np.array([[1.0, 0, 0, 1], [1, 0, 0, 1], [1, 1, 0, 1]])  # three seeds, four images
    # Means of seeds 1/2, 1/2, 3/4: s^2 = 1/48. Of images 1, 1/3, 0, 1: sigma^2 = 1/4. Of all 7/12; what is left of the
    # second image is 1/4, 1/4, -1/2 and of the others -1/12, -1/12, 1/6: sigma_e^2 = 1/12.
    squared = 1 / 48 / 3 + 1 / 4 / 4 - 1 / 12 / 12  # 1/16
    df = squared**2 / ((1 / 144) ** 2 / 2 + (1 / 16) ** 2 / 3 + (1 / 144) ** 2 / 6)
    found = interval(x.mean(1), x)
    assert found.mean == pytest.approx(7 / 12) and (found.n, found.N) == (3, 4)
    assert (found.s**2, found.sigma**2, found.sigma_e**2) == pytest.approx((1 / 48, 1 / 4, 1 / 12))
    assert found.df == pytest.approx(df) and found.half == pytest.approx(stats.t.ppf(0.975, df) / 4)
    assert found.p == pytest.approx(2 * stats.t.sf(7 / 3, df))
    assert (found.low, found.high) == (found.mean - found.half, found.mean + found.half)


def test_seeds_that_agree_leave_the_images_alone():
    right = np.tile([1.0, 0, 1, 1, 0], (3, 1))  # one dense model for all seeds
    found = interval(right.mean(1), right)
    assert found.s == 0 and found.sigma_e == 0 and found.df == pytest.approx(4)
    assert found.half == pytest.approx(stats.t.ppf(0.975, 4) * np.sqrt(0.3 / 5))  # variance of 3 ones of 5: 0.3


def test_images_that_agree_leave_the_seeds_alone():
    x = np.array([[0.5], [0.6], [0.8]]) * np.ones((3, 50))
    assert interval(x.mean(1), x)[:2] == pytest.approx(interval(x.mean(1))[:2])
    assert interval(x.mean(1), x).df == 2


def test_no_interval_where_nothing_varies_and_nothing_where_nothing_differs():
    same = interval(np.zeros(3), np.zeros((3, 10)))
    assert (same.mean, same.half, same.p) == (0, 0, 1)
    shifted = interval(np.full(3, 0.3))  # a method on which the seed has no bearing, without its images
    assert shifted.mean == pytest.approx(0.3) and np.isnan([shifted.half, shifted.p]).all()
    rounded = interval(np.array([0.3 - 0.2, 0.4 - 0.3, 0.2 - 0.1]))  # equal but for rounding
    assert np.isnan(rounded.half)


def test_never_narrower_than_over_seeds_alone():
    g = np.random.default_rng(0)
    for _ in range(200):
        x = 0.1 * g.standard_normal((3, 1)) + 0.3 * g.standard_normal((3, 40))
        assert interval(x.mean(1), x).half >= interval(x.mean(1)).half - 1e-15


def test_a_mean_over_classes_by_hand():
    x = np.array([[1.0, 0, 1, 1, 0, 0, 1, 0, 1, 0, 1], [1, 1, 0, 1, 1, 0, 1, 0, 0, 0, 0]])
    labels = np.array([0] * 5 + [1] * 6)
    g = np.random.default_rng(0).permutation(11)  # the order of images is none
    both = [x[:, labels == k] for k in (0, 1)]
    values = np.mean([part.mean(1) for part in both], axis=0)
    np.testing.assert_allclose(means(x[:, g], labels[g]), values)
    found = interval(values, x[:, g], labels[g])
    image = sum(part.mean(0).var(ddof=1) / part.shape[1] for part in both) / 4
    rest = [p - p.mean(0) - p.mean(1, keepdims=True) + p.mean() for p in both]
    error = sum((r**2).sum() / (r.shape[1] - 1) / r.shape[1] for r in rest) / 4 / 2
    assert found.sigma**2 / 11 == pytest.approx(image) and found.sigma_e**2 / 22 == pytest.approx(error)
    one = interval(x.mean(1), x, np.zeros(11, int))
    assert one == pytest.approx(interval(x.mean(1), x))


def test_small_classes_take_the_variance_of_all():
    g = np.random.default_rng(1)
    x = (g.random((3, 23)) < 0.6).astype(float)
    labels = np.array([0] * 20 + [1] * 2 + [2])
    over = x.mean(0)
    parts = [over[labels == k] for k in range(3)]
    pooled = sum(((p - p.mean()) ** 2).sum() for p in parts) / 20
    image = (parts[0].var(ddof=1) / 20 + pooled / 2 + pooled) / 9
    assert interval(means(x, labels), x, labels).sigma ** 2 / 23 == pytest.approx(image)
    alone = interval(x.mean(1), x, np.arange(23))  # a class an image
    assert alone == pytest.approx(interval(x.mean(1), x))


def test_small_classes_of_several_sets_take_the_variance_of_their_own():
    """Two sets, of which one has a class of two images: the other, whose images all agree, says nothing of it."""
    g = np.random.default_rng(1)
    x = np.concatenate([(g.random((3, 22)) < 0.6).astype(float), np.ones((3, 30))], axis=1)
    labels = np.array([0] * 20 + [1] * 2 + [2] * 30)
    weights, pools = np.array([0.25, 0.25, 0.5]), np.array([0, 0, 1])
    over = x.mean(0)
    parts = [over[labels == k] for k in range(2)]
    pooled = sum(((p - p.mean()) ** 2).sum() for p in parts) / 20  # 22 images, two classes
    image = (parts[0].var(ddof=1) / 20 + pooled / 2) / 16
    found = interval(means(x, labels, weights), x, labels, weights, pools)
    assert found.sigma**2 / 52 == pytest.approx(image)
    one = interval(means(x, labels, weights), x, labels, weights, np.zeros(3, int))
    assert one == interval(means(x, labels, weights), x, labels, weights) and one.sigma < found.sigma


def covered(n: int, seeds: float, rest: float, images: bool) -> float:
    """How often the interval holds the true mean 0: 1500 draws of n seeds by 500 images, images of deviation 0.3."""
    g, hits = np.random.default_rng(n), 0
    for _ in range(1500):
        x = seeds * g.standard_normal((n, 1)) + 0.3 * g.standard_normal((1, 500)) + rest * g.standard_normal((n, 500))
        found = interval(x.mean(1), x if images else None)
        hits += found.low <= 0 <= found.high
    return hits / 1500


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("seeds", [0.0, 0.01, 0.03, 0.1])  # the images bring 0.013
def test_intervals_cover_new_seeds_and_new_images(n, seeds):
    assert 0.93 <= covered(n, seeds, 0.2, images=True) <= 0.99


def test_over_seeds_alone_they_do_not():
    assert covered(5, 0.0, 0.2, images=False) < 0.65 and covered(5, 0.01, 0.2, images=False) < 0.75


def test_classes_keep_the_coverage():
    g, hits = np.random.default_rng(0), 0
    labels = np.repeat(np.arange(20), np.arange(3, 23))  # 3 to 22 images a class
    hard = np.linspace(-1, 1, 20)[labels]  # classes differ, and are always these
    for _ in range(1000):
        x = hard + 0.03 * g.standard_normal((3, 1)) + g.standard_normal(250) + 0.3 * g.standard_normal((3, 250))
        found = interval(means(x, labels), x, labels)
        hits += found.low <= 0 <= found.high
    assert 0.93 <= hits / 1000 <= 0.99


def test_calibration_error_by_hand():
    top = np.array([0.9, 0.5, 0.8, 0.6])
    right = np.array([True, False, False, True])
    # two bins of two: (.5 - 0) + (.6 - 1) and (.8 - 0) + (.9 - 1), over four images
    assert expected_calibration_error(right, top, bins=2) == pytest.approx((0.1 + 0.7) / 4)
    assert expected_calibration_error(right, top, bins=15) == pytest.approx((0.5 + 0.4 + 0.8 + 0.1) / 4)
    g = np.random.default_rng(0)
    sure = g.random(50_000)
    assert expected_calibration_error(g.random(50_000) < sure, sure) < 0.01  # one that is calibrated
    assert expected_calibration_error(np.zeros(50_000, bool), sure) == pytest.approx(0.5, abs=0.01)


def test_p_is_that_of_the_more_careful_way():
    """With many images the way over seeds and images has many degrees of freedom; at the levels of Holm the t of few
    seeds is the wider one, and p is its.
    """
    draw = np.random.default_rng(0)
    each = (
        0.1 + 0.5 * draw.standard_normal((1, 2000)) + 0.001 * draw.standard_normal((3, 1)) + 0 * draw.random((3, 2000))
    )
    found = interval(each.mean(1), each)
    seeds = interval(each.mean(1))
    assert found.half > seeds.half and found.df > 100
    alone = 2 * stats.t.sf(found.mean / np.sqrt((found.s**2) / 3), 2)
    assert found.p == pytest.approx(
        max(alone, 2 * stats.t.sf(found.mean / (found.half / stats.t.ppf(0.975, found.df)), found.df))
    )


@pytest.mark.parametrize("n", [2, 3, 5])
def test_seeds_that_tie_by_chance_have_the_interval_of_their_images(n):
    """As many images won as lost in every seed, others each time: the two-way estimate takes off more than there is."""
    x = np.zeros((n, 600))
    for seed in range(n):
        x[seed, 100 * seed : 100 * seed + 20], x[seed, 100 * seed + 20 : 100 * seed + 40] = 1, -1
    found = interval(x.mean(1), x)
    assert found.mean == 0 and found.s == 0 and found.sigma < found.sigma_e
    images = x.mean(0).var(ddof=1) / 600
    assert found.half == pytest.approx(stats.t.ppf(0.975, n - 1) * np.sqrt(images)) and found.p == 1
    tied = interval((x + 0.25).mean(1), x + 0.25)
    assert tied.half == pytest.approx(found.half) and tied.p < 0.5
