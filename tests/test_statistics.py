"""Intervals, paired differences and the sentences, against numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from ovit_core.study import statistics


def rows(values, phase="one_shot", dataset="d"):
    """(method, sparsity, seed) -> accuracy, as rows."""
    fixed = dict(experiment="e", phase=phase, dataset=dataset, allocation="global", pattern="unstructured", scope="all")
    points = [dict(method=m, sparsity_target=s, seed=k, metric="top1", value=v) for (m, s, k), v in values.items()]
    return pd.DataFrame([fixed | point for point in points])


def test_t_interval_by_hand():
    # three values 1, 2, 3: standard error 1/sqrt(3), t quantile of 2 degrees of freedom 4.302653
    assert statistics.t_interval(np.array([1.0, 2, 3])) == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)
    assert np.isnan(statistics.t_interval(np.array([1.0])))


def test_difference_is_paired_by_seed():
    r = rows({("ovit", 0.9, 0): 0.8, ("ovit", 0.9, 1): 0.6, ("dense", 0.0, 0): 0.9, ("dense", 0.0, 1): 0.7})
    d = statistics.difference(r, "ovit", "dense").iloc[0]
    assert d["mean"] == pytest.approx(-0.1) and d.half == pytest.approx(
        0, abs=1e-9
    )  # seeds vary, the difference does not


@pytest.mark.parametrize(
    "mean, half, says",
    [
        (0.1, 0.02, "above `b` by +10.0 ± 2.0"),
        (-0.1, 0.02, "below"),
        (0.01, 0.02, "no difference"),
        (0.1, np.nan, "one seed"),
    ],
)
def test_verdicts_follow_the_interval(mean, half, says):
    assert says in statistics.verdict(mean, half, "`a`", "`b`")


def test_bootstrap_covers_the_mean():
    low, high = statistics.bootstrap(0.9, 1000)
    assert low < 0.9 < high and high - low == pytest.approx(2 * 1.96 * np.sqrt(0.09 / 1000), rel=0.15)
