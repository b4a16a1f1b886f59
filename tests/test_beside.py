"""Published differences beside ours: direction alone, and only of what was run."""

import numpy as np
import pandas as pd
import pytest

from ovit_core.ablations.no_weight_update import published as one_shot
from ovit_core.ablations.transfer import published as transfer
from ovit_core.study import beside
from ovit_core.study.beside import Claim, direction
from ovit_core.study.families import Contrast
from ovit_core.study.tasks import COLUMNS, HELD_OUT, NUMBERS


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
    "theirs, mean, verdict, says",
    [
        ((0.1, 0.2), 0.03, "resolved", "the same"),
        ((-0.1, -0.2), -0.03, "resolved", "the same"),
        ((0.1, 0.2), -0.03, "resolved", "the opposite"),
        ((0.1, -0.004), -0.03, "resolved", "the opposite"),  # the second is too small to have a direction
        ((0.1, 0.2), 0.02, "not resolved", "not resolved here"),
        ((0.1, 0.2), 0.02, "no interval", "not resolved here"),
        ((0.1, -0.2), 0.03, "resolved", "above 0 here; published ones differ among themselves"),
        ((0.1, 0.2), 0.001, "same", "none here"),
        ((0.004, -0.009), 0.03, "resolved", "none published; above 0 here"),
        ((0.004, -0.009), -0.15, "resolved", "none published; below 0 here"),  # what was kept there is lost here
        ((0.004, -0.009), 0.03, "not resolved", "not resolved here"),
        ((0.004, -0.009), 0.001, "same", "none in either"),
        ((0.004, -0.009), 0.005, "resolved", "none in either"),  # resolved, and inside the margin
    ],
)
def test_a_direction_is_told_only_where_both_sides_leave_no_doubt(theirs, mean, verdict, says):
    claim = Claim({str(i): value for i, value in enumerate(theirs)}, Contrast("what", {}))
    line = dict(mean=mean, low=mean - 0.004, high=mean + 0.004, margin=0.01, verdict=verdict)
    assert direction(claim, line) == says


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


SETS = {  # dense, pruned
    "folder:cifar10_10k": (0.5, 0.48), "caltech101": (0.6, 0.63), "folder:flowers89": (0.4, 0.3), "folder:cifar10_c": (0.5, 0.4),
}  # fmt: skip


def recovered(tells=lambda name: True):
    """Recovered models by linear probe, with the validation rows that say which set tells something."""
    lines = []
    for name, (dense, pruned) in SETS.items():
        at = dict(experiment="transfer", phase="linear", dataset=name)
        for method, source in (("dense", "one_shot"), ("raw_pixels", ""), ("random_init", "")):
            level = 0.5 if source or not tells(name) else 0.1
            lines += seeds(
                (level, level + 0.001 * len(method), level),
                method=method,
                metric=HELD_OUT,
                source_phase=source,
                sparsity_target=0,
                **at,
            )
        at |= dict(source_phase="recovered", metric="mean_per_class" if name == "caltech101" else "top1")
        lines += seeds((dense, dense + 0.01, dense), method="dense", sparsity_target=0.0, **at)
        lines += seeds(
            (pruned, pruned + 0.01, pruned + 0.001), method="ovit", sparsity_target=0.9, damp_rule="own", **at
        )
    return table(lines)


def shown(rows):
    return [line.split(" | ")[1:] for line in transfer.published(rows).splitlines() if "less dense |" in line]


def test_all_lines_are_corrected_together():
    """However many there are, and in whatever order."""
    claim = lambda i: Claim({"theirs": 0.1}, Contrast(f"set {i}", {"ovit": 1, "dense": -1}, dict(dataset=f"s{i}")))
    lines = [
        dict(experiment="transfer", phase="linear", dataset=f"s{i}", method=method, seed=seed, value=value, sparsity_target=at)
        for i in range(7) for method, at, values in (("ovit", 0.9, (0.6, 0.63, 0.66)), ("dense", 0.0, (0.5, 0.5, 0.5)))
        for seed, value in enumerate(values)
    ]  # fmt: skip
    found = lambda n: [rest[-1] for rest in cells(beside.table(table(lines), [*map(claim, range(n))], "")).values()][1:]
    assert found(1) == ["the same"] and found(7) == ["not resolved here"] * 7  # p is .017 for each


def test_transfer_of_recovered_models_on_sets_that_others_had():
    cifar = ["−2.3 (cifar10)", "−2.0 ± 0.1 (folder:cifar10_10k)", "the same |"]
    caltech = ["−0.6 (caltech101)", "+3.0 ± 0.1 (caltech101)", "none published; above 0 here |"]
    assert shown(recovered()) == [cifar, caltech]
    text = transfer.published(recovered())
    assert "pruned to 90 % and recovered" in text and "Not run here: food101, fgvc_aircraft, oxford_pets." in text
    silent = ["−2.3 (cifar10)", "", "folder:cifar10_10k tells nothing here |"]
    assert shown(recovered(lambda name: name != "folder:cifar10_10k")) == [silent, caltech]
    assert shown(recovered().assign(metric=lambda rows: rows.metric.replace("mean_per_class", "top1"))) == [cifar]
    assert transfer.published(recovered().assign(source_phase="one_shot")) == ""
