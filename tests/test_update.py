"""Ablation A beyond one step: gradual pruning, and the attribution of the gain by hand."""

import copy

import pandas as pd
import pytest
import torch

from ovit_core import data, masks, schedule
from ovit_core.attribution import answer_attribution, attribution, sensitivity
from ovit_core.config import NoWeightUpdate, from_parameters
from ovit_core.dense import Upstream
from ovit_core.pruning import prune
from ovit_core.statistics import not_run, t_interval
from ovit_core.study import read_profile
from ovit_core.surgeon import Surgeon


def test_cubic_starts_and_ends_where_it_should_and_slows_down():
    steps = schedule.cubic(0.4, 0.9, 5)
    assert steps[0] == pytest.approx(0.4) and steps[-1] == 0.9
    gaps = [b - a for a, b in zip(steps, steps[1:])]
    assert all(a > b > 0 for a, b in zip(gaps, gaps[1:]))
    for bad in ((0.9, 0.4, 5), (0.4, 0.9, 1), (0.4, 1.2, 3)):
        with pytest.raises(ValueError, match="gradual pruning needs"):
            schedule.cubic(*bad)


def test_gradual_pruning_keeps_zeros_uses_current_weights_and_ends_exact(tiny, tiny_batches):
    seen, options = [], dict(loader=tiny_batches, gradients=8, block_size=24, damp=1e-4)

    def cut(model, sparsity):
        before = masks.of(model)
        before = {n: m.clone() for n, m in before.items()}
        prune(model, "ovit", sparsity, **options)
        assert all((masks.of(model)[n] <= m).all() for n, m in before.items())
        seen.append(copy.deepcopy(model))

    def train(model):  # a step that moves every kept weight
        with torch.no_grad():
            for name, mask in masks.of(model).items():
                w = model.get_parameter(name)
                w.add_(0.1 * torch.randn(w.shape, generator=torch.Generator().manual_seed(len(seen))) * mask)

    final = schedule.gradual(tiny, schedule.cubic(0.4, 0.9, 3), cut, train)
    total = sum(m.numel() for m in masks.of(final).values())
    assert masks.sparsity(final) == round(0.9 * total) / total
    # The second step is what `prune` makes of the first step's model as training left it.
    first, second = seen[:2]
    del seen[1:]  # `train` moves the weights by how many steps there were
    train(first)
    prune(first, "ovit", schedule.cubic(0.4, 0.9, 3)[1], **options)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters()))


def rows(values):
    """One row per (method, seed) of accuracy at 90 %."""
    columns = dict(experiment="no_weight_update", phase="one_shot", dataset="d", allocation="global", scope="all",
                   pattern="unstructured", sparsity_target=0.9, metric="top1")  # fmt: skip
    return pd.DataFrame([columns | dict(method=m, seed=s, value=v) for (m, s), v in values.items()])


def test_attribution_by_hand():
    a = {"magnitude": (0.3, 0.4), "magnitude_joint": (0.5, 0.7), "ovit_mask_only": (0.2, 0.2), "ovit": (0.8, 0.8)}
    found = attribution(rows({(m, s): v for m, both in a.items() for s, v in enumerate(both)}))
    part = found[found.score_kind == "greedy"].set_index("part")
    assert part.loc["score", "mean"] == pytest.approx(-0.15)  # (-0.1 - 0.2) / 2
    assert part.loc["update", "mean"] == pytest.approx(0.25)
    assert part.loc["total", "mean"] == pytest.approx(0.45)
    assert part.loc["interaction", "mean"] == pytest.approx(0.35)
    assert part.loc["score_other", "mean"] == pytest.approx(0.2)
    assert part.loc["update_other", "mean"] == pytest.approx(0.6)
    assert part.loc["score_shapley", "mean"] + part.loc["update_shapley", "mean"] == pytest.approx(0.45)
    assert part.loc["score", "half"] == pytest.approx(t_interval([-0.1, -0.2]))
    assert set(found.score_kind) == {"greedy"}  # the other scores have no rows
    assert (
        "of oViT's +45.0"
        in answer_attribution(rows({(m, 0): v[0] for m, v in a.items()} | {(m, 1): v[1] for m, v in a.items()}))[0]
    )


def test_sensitivity_pairs_by_seed():
    base = rows({("ovit", 0): 0.8, ("ovit", 1): 0.9, ("ovit_mask_only", 0): 0.5, ("ovit_mask_only", 1): 0.4})
    found = sensitivity(base.assign(experiment="sensitivity", scope_name="block_size", block_size=16))
    assert found.to_dict("records")[0] == dict(
        setting=16, mean=pytest.approx(0.4), half=pytest.approx(t_interval([0.3, 0.5])), seeds=2, column="block_size"
    )


def test_sensitivity_has_the_studys_own_setting_as_a_point():
    varied = rows({("ovit", 0): 0.8, ("ovit_mask_only", 0): 0.5}).assign(
        experiment="sensitivity", scope_name="block_size", block_size=16
    )
    own = rows({("ovit", 0): 0.9, ("ovit_mask_only", 0): 0.5}).assign(scope_name="", block_size=48)
    found = sensitivity(pd.concat([varied, own]))
    assert found.setting.tolist() == [16, 48] and found["mean"].tolist() == pytest.approx([0.3, 0.4])


def test_what_was_not_run_is_listed():
    settings = ["methods=[ovit, magnitude]", "recovery_methods=[ovit]", "recovery_sparsities=[0.9]", "regimes=[global]"]
    said = not_run(from_parameters(NoWeightUpdate, read_profile("quick", [*settings, "gradual_methods=[]"])))
    assert "one-shot: `ovit_mask_only`" in said and "the regimes uniform, 2:4" in said
    assert "after recovery: `magnitude` and 50 %, 70 %, 80 %, 95 %" in said
    assert "pruned gradually: `ovit`, `magnitude`;" in said and "sensitivity to block size" in said


def test_a_pattern_that_does_not_divide_the_blocks_leaves_the_others_as_they_are(tiny):
    """Asking for 2:4 as well must not change the blocks, and so the rows, of unstructured pruning."""
    config = from_parameters(NoWeightUpdate, read_profile("quick", ["block_size=6", "gradients=2"]))
    surgeon = Surgeon(config, Upstream(tiny, data.load("digits"), 0), 0)
    assert set(surgeon.curvature("fisher").block_sizes.values()) == {6}
    assert set(surgeon.curvature("fisher", "2:4").block_sizes.values()) == {4}
    assert surgeon.curvature("fisher") is surgeon.curvature("fisher", "1:3")  # 6 is a multiple of 3
