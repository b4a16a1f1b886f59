"""The benchmark: both forms compute the same, and its tables and figure are written."""

import os
from unittest.mock import patch

import pandas as pd

from ovit_core import benchmark


def test_benchmark_runs_and_both_forms_agree(tmp_path, capsys):
    with patch.dict(os.environ, OVIT_STUDY_DIR=str(tmp_path)):
        benchmark.main(["--d", "4096", "--m", "32", "--sizes", "16", "32", "--device", "cpu"])
    rows = pd.read_csv(tmp_path / "figures/benchmark/side_by_side.csv")
    assert (rows.largest_difference.dropna() < 1e-3).all() and (rows.same_order.dropna() > 0.9).all()
    assert (tmp_path / "figures/benchmark/scaling.png").exists()
