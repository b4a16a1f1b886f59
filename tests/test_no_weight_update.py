"""Ablation A beyond one step: gradual pruning, and the attribution of the gain by hand."""

import copy
from itertools import pairwise

import pandas as pd
import pytest
import torch
from conftest import TINY, quick

from ovit_core import masks
from ovit_core.ablations.no_weight_update import tasks
from ovit_core.ablations.no_weight_update.analysis import answer_attribution, attribution, not_run, sensitivity
from ovit_core.ablations.no_weight_update.parameters import NoWeightUpdate, cubic
from ovit_core.ablations.no_weight_update.run import Seed
from ovit_core.data.batches import batches
from ovit_core.data.loading import load
from ovit_core.pattern import Pattern
from ovit_core.pruning import prune
from ovit_core.study.dense import Upstream
from ovit_core.study.intervals import interval
from ovit_core.study.surgeon import DTYPE, Surgeon
from ovit_core.study.tasks import COLUMNS, World


def test_cubic_starts_and_ends_where_it_should_and_slows_down():
    steps = cubic(0.4, 0.9, 5)
    assert steps[0] == pytest.approx(0.4) and steps[-1] == 0.9
    gaps = [b - a for a, b in pairwise(steps)]
    assert all(a > b > 0 for a, b in pairwise(gaps))
    for bad in ((0.9, 0.4, 5), (0.4, 0.9, 1), (0.4, 1.2, 3)):
        with pytest.raises(ValueError, match="gradual pruning needs"):
            cubic(*bad)


def test_gradual_pruning_keeps_zeros_uses_current_weights_and_ends_exact(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    settings = ["upstream=digits", f"model_args={TINY}", "epochs=0", "gradients=8", "block_size=24", "damps=[1.0e-4]"]
    settings += ["gradual_start=0.4", "gradual_cycles=3", "gradual_images=200"]
    config = quick(NoWeightUpdate, *settings)
    seed, steps, prune_again = Seed(config, 0), [], Surgeon.prune_again

    def watched(surgeon, model, method, sparsity, damp):
        before = copy.deepcopy(model)
        prune_again(surgeon, model, method, sparsity, damp)
        assert all((masks.of(model)[name] <= mask).all() for name, mask in masks.of(before).items())
        steps.append((sparsity, before, copy.deepcopy(model)))

    monkeypatch.setattr(Surgeon, "prune_again", watched)
    world = World({"digits": seed.upstream.data.fingerprint}, {0: seed.upstream.identity})
    found = [dict(t.columns) | dict(value=0.5) for t in tasks.searches(config, 0, world, [])]
    (task,) = (
        t for t in tasks.measurements(config, 0, world, found)
        if (t.kind, t.columns["method"], t.columns["sparsity_target"]) == ("gradual", "ovit", 0.9)
    )  # fmt: skip
    models, tested = [], Seed.tested
    monkeypatch.setattr(Seed, "tested", lambda self, model: models.append(model) or tested(self, model))
    seed.measure(task)
    (final,) = models
    total = sum(m.numel() for m in masks.of(final).values())
    assert masks.sparsity(final) == round(0.9 * total) / total
    assert [sparsity for sparsity, _, _ in steps] == cubic(0.4, 0.9, 3)
    # The second step is what `prune` makes of the first step's model as training left it.
    (_, _, first), (at, trained, second), _ = steps
    for name, mask in masks.of(first).items():
        weight = trained.get_parameter(name)
        assert not torch.equal(weight, first.get_parameter(name)) and torch.equal(weight == 0, ~mask)
    loader = batches(seed.upstream.data.train, config.gradient_batch, seed=0)
    prune(trained, "ovit", at, loader, gradients=8, block_size=24, damp=1e-4, dtype=DTYPE)
    assert all(torch.equal(p, q) for p, q in zip(trained.parameters(), second.parameters()))


def rows(values):
    """One row per (method, seed) of accuracy at 90 %."""
    columns = dict(experiment="no_weight_update", phase="one_shot", dataset="d", allocation="global", scope="all",
                   pattern="unstructured", sparsity_target=0.9, metric="top1")  # fmt: skip
    return pd.DataFrame(
        [dict.fromkeys(COLUMNS, "") | columns | dict(method=m, seed=s, value=v) for (m, s), v in values.items()]
    )


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
    assert part.loc["score", "half"] == pytest.approx(interval([-0.1, -0.2]).half)
    assert set(found.score_kind) == {"greedy"}  # the other scores have no rows
    assert (
        "of oViT's +45.0"
        in answer_attribution(rows({(m, 0): v[0] for m, v in a.items()} | {(m, 1): v[1] for m, v in a.items()}))[0]
    )


def test_sensitivity_pairs_by_seed():
    base = rows({("ovit", 0): 0.8, ("ovit", 1): 0.9, ("ovit_mask_only", 0): 0.5, ("ovit_mask_only", 1): 0.4})
    found = sensitivity(base.assign(experiment="sensitivity", scope_name="block_size", block_size=16))
    half = pytest.approx(interval([0.3, 0.5]).half)
    wanted = dict(column="block_size", setting=16, mean=pytest.approx(0.4), half=half, seeds=2)
    assert found[list(wanted)].to_dict("records")[0] == wanted


def test_sensitivity_has_the_studys_own_setting_as_a_point():
    varied = rows({("ovit", 0): 0.8, ("ovit_mask_only", 0): 0.5}).assign(
        experiment="sensitivity", scope_name="block_size", block_size=16
    )
    own = rows({("ovit", 0): 0.9, ("ovit_mask_only", 0): 0.5}).assign(scope_name="", block_size=48)
    found = sensitivity(pd.concat([varied, own]))
    assert found.setting.tolist() == [16, 48] and found["mean"].tolist() == pytest.approx([0.3, 0.4])


def test_what_was_not_run_is_listed():
    settings = ["methods=[ovit, magnitude]", "recovery_methods=[ovit]", "recovery_sparsities=[0.9]", "regimes=[global]"]
    said = not_run(quick(NoWeightUpdate, *settings, "gradual_methods=[]"))
    assert "one-shot: `ovit_mask_only`" in said and "the regimes uniform, 2:4" in said
    assert "after recovery: `magnitude` and 50 %, 70 %, 80 %, 95 %" in said
    assert "pruned gradually: `ovit`, `magnitude`;" in said and "sensitivity to block size" in said


def test_a_pattern_that_does_not_divide_the_blocks_leaves_the_others_as_they_are(tiny):
    """Asking for 2:4 as well must not change the blocks, and so the rows, of unstructured pruning."""
    config = quick(NoWeightUpdate, "block_size=6", "gradients=2")
    surgeon = Surgeon(config, Upstream(tiny, load("digits"), 0), 0)
    assert set(surgeon.curvature("fisher").block_sizes.values()) == {6}
    assert set(surgeon.curvature("fisher", Pattern(2, 4)).block_sizes.values()) == {4}
    assert surgeon.curvature("fisher") is surgeon.curvature("fisher", Pattern(1, 3))  # 6 is a multiple of 3
