"""Published differences beside ours: direction alone, and only of what was run."""

import numpy as np
import pandas as pd
import pytest

from ovit_core.ablations.no_weight_update import published as one_shot
from ovit_core.ablations.transfer import published as transfer
from ovit_core.study.beside import Claim, direction
from ovit_core.study.families import Contrast
from ovit_core.study.tasks import COLUMNS, NUMBERS


def table(lines):
    usual = dict.fromkeys(COLUMNS, "") | dict.fromkeys(NUMBERS, np.nan)
    usual |= dict(scope="all", metric="top1", pattern="unstructured", allocation="global")
    return pd.DataFrame([usual | line for line in lines])


def seeds(values, **where):
    return [where | dict(seed=seed, value=value) for seed, value in enumerate(values)]


def cells(text):
    """First cell -> the others, of a Markdown table."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {first: rest for first, *rest in lines}


@pytest.mark.parametrize(
    "theirs, low, high, says",
    [
        ((0.1, 0.2), 0.01, 0.05, "the same"),
        ((-0.1, -0.2), -0.05, -0.01, "the same"),
        ((0.1, 0.2), -0.05, -0.01, "the opposite"),
        ((0.1, 0.2), -0.01, 0.05, "not resolved here"),
        ((0.1, -0.2), 0.01, 0.05, "above 0 here; published ones differ among themselves"),
        ((0.1,), np.nan, np.nan, "not resolved here"),
    ],
)
def test_a_direction_is_told_only_where_the_interval_leaves_no_doubt(theirs, low, high, says):
    claim = Claim({str(i): value for i, value in enumerate(theirs)}, Contrast("what", {}))
    assert direction(claim, pd.Series(dict(mean=(low + high) / 2, low=low, high=high))) == says


def test_two_of_four_in_one_shot():
    at = dict(experiment="no_weight_update", phase="one_shot", pattern="2:4", allocation="uniform", dataset="up")
    at |= dict(sparsity_target=0.5, damp_rule="own")
    values = dict(magnitude=(0.6, 0.61, 0.6), obc=(0.7, 0.71, 0.72), obc_mask_only=(0.5, 0.7, 0.6))
    rows = table([line for method, v in values.items() for line in seeds(v, method=method, **at)])
    found = cells(one_shot.published(rows))
    assert found["SparseGPT, or OBC, less magnitude"][0] == "+5.6 (augreg_in1k), +25.8 (augreg2_in21k_ft)"
    assert found["SparseGPT, or OBC, less magnitude"][2] == "the same"
    assert found["its mask without update, less magnitude"][2] == "not resolved here"
    assert "SparseGPT's update; oViT's" not in found  # oViT was not run
    assert one_shot.published(rows.assign(pattern="unstructured")) == ""


def test_transfer_of_recovered_models_on_sets_that_others_had():
    lines = []
    for name, dense, pruned in (
        ("folder:cifar10_10k", 0.5, 0.48),
        ("caltech101", 0.6, 0.63),
        ("folder:flowers89", 0.4, 0.3),
    ):
        at = dict(experiment="transfer", phase="linear", dataset=name, source_phase="recovered")
        at |= dict(metric="mean_per_class") if name == "caltech101" else {}
        lines += seeds((dense, dense + 0.01, dense), method="dense", sparsity_target=0.0, **at)
        lines += seeds(
            (pruned, pruned + 0.01, pruned + 0.001), method="ovit", sparsity_target=0.9, damp_rule="own", **at
        )
    text = transfer.published(table(lines))
    shown = [line.split(" | ") for line in text.splitlines() if "less dense |" in line]
    assert [line[1:] for line in shown] == [
        ["-2.3 (cifar10)", "-2.0 ± 0.1 (folder:cifar10_10k)", "the same |"],
        ["-0.6 (caltech101)", "+3.0 ± 0.1 (caltech101)", "the opposite |"],
    ]  # fmt: skip
    assert "pruned to 90 % and recovered" in text
    one = table(lines).assign(source_phase="one_shot")
    assert transfer.published(one) == ""
