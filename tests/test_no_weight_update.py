"""Ablation A: training after pruning, equal compute, the attribution of the gain by hand, what is compared and told."""

import copy
import re
from dataclasses import replace
from itertools import chain, combinations, islice, product

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY, quick
from PIL import Image
from scipy import stats

from ovit_core import masks, training
from ovit_core.ablations.no_weight_update import scales, tasks
from ovit_core.ablations.no_weight_update.acting import layers, overlap, place
from ovit_core.ablations.no_weight_update.analysis import answers, families, not_run
from ovit_core.ablations.no_weight_update.attribution import attribution, cells, parts_table, relation
from ovit_core.ablations.no_weight_update.parameters import NoWeightUpdate
from ovit_core.ablations.no_weight_update.run import Seed
from ovit_core.ablations.no_weight_update.scales import ceiling, log_odds
from ovit_core.ablations.no_weight_update.sweeps import sensitivity
from ovit_core.data.batches import Steps, batches
from ovit_core.data.loading import load
from ovit_core.methods import METHODS
from ovit_core.pattern import Pattern
from ovit_core.pruning import prune
from ovit_core.study import lambdas, measure, recovery, registry
from ovit_core.study.ablation import Results
from ovit_core.study.dense import Upstream
from ovit_core.study.families import differences
from ovit_core.study.intervals import interval
from ovit_core.study.surgeon import DTYPE, Surgeon
from ovit_core.study.tasks import COLUMNS, World
from ovit_core.study.tuning import edges, lambda_table, searched
from ovit_core.training import Evaluation


def gradual(tmp_path, monkeypatch, *settings):
    """A seed of a tiny study, and its gradual task."""
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    common = ["upstream=digits", f"model_args={TINY}", "epochs=0", "gradients=8", "block_size=24", "damps=[1.0e-4]"]
    common += ["gradual_steps=[0.5, 0.75, 0.9]", "recovery_images=200", "gradual_lrs=[1.0e-3]"]
    config = quick(NoWeightUpdate, *common, *settings)
    seed = Seed(config, 0)
    world = World({"digits": seed.upstream.data.fingerprint}, {0: seed.upstream.identity})
    found = [dict(t.columns) | dict(value=0.5) for t in tasks.searches(config, 0, world, [])]
    (task,) = (
        t for t in tasks.measurements(config, 0, world, found)
        if (t.kind, t.columns["method"], t.columns["sparsity_target"]) == ("gradual", "ovit", 0.9)
    )  # fmt: skip
    return seed, task


def test_gradual_pruning_keeps_zeros_uses_current_weights_and_ends_exact(tmp_path, monkeypatch):
    (seed, task), steps, prune_again = gradual(tmp_path, monkeypatch), [], Surgeon.prune_again

    def watched(surgeon, model, method, sparsity, damp, step):
        before = copy.deepcopy(model)
        prune_again(surgeon, model, method, sparsity, damp, step)
        assert all((masks.of(model)[name] <= mask).all() for name, mask in masks.of(before).items())
        steps.append((sparsity, before, copy.deepcopy(model)))

    monkeypatch.setattr(Surgeon, "prune_again", watched)
    final = seed.pruned_gradually(task)
    total = sum(m.numel() for m in masks.of(final).values())
    assert masks.sparsity(final) == round(0.9 * total) / total
    assert [sparsity for sparsity, _, _ in steps] == [0.5, 0.75, 0.9]
    # The second step is what `prune` makes of the first step's model as training left it.
    (_, _, first), (at, trained, second), _ = steps
    for name, mask in masks.of(first).items():
        weight = trained.get_parameter(name)
        assert not torch.equal(weight, first.get_parameter(name)) and torch.equal(weight == 0, ~mask)
    loader = seed.surgeon(task)._batches(1)
    prune(trained, "ovit", at, loader, gradients=8, block_size=24, damp=1e-4, dtype=DTYPE)
    assert all(torch.equal(p, q) for p, q in zip(trained.parameters(), second.parameters()))


def test_gradual_steps_are_spread_over_the_training_and_one_optimizer_goes_through_it(tmp_path, monkeypatch):
    seed, task = gradual(tmp_path, monkeypatch, "gradual_epochs=2")
    assert task.columns["epochs"] == 8 and task.columns["passes"] == 3
    made, pruned, done = [], [], []
    create, prune_again = training.create_optimizer_v2, Surgeon.prune_again
    monkeypatch.setattr(training, "create_optimizer_v2", lambda *a, **k: made.append(create(*a, **k)) or made[-1])

    def watched(surgeon, model, method, sparsity, damp, step):
        moments = [state["exp_avg"].abs().sum() for state in made[-1].state.values()]
        pruned.append((sparsity, step, bool(moments) and all(m > 0 for m in moments[:3]), len(done)))
        prune_again(surgeon, model, method, sparsity, damp, step)

    class Counted(Steps):
        def __iter__(self):
            done.append(0)
            return super().__iter__()

    monkeypatch.setattr(Surgeon, "prune_again", watched)
    monkeypatch.setattr(measure, "Steps", Counted)
    seed.pruned_gradually(task)
    assert len(made) == 1 and len(done) == 8
    assert pruned == [(0.5, 0, False, 0), (0.75, 1, True, 2), (0.9, 2, True, 4)]  # and two cycles' half to hold


def test_gradual_pruning_that_was_interrupted_ends_where_it_would_have(tmp_path, monkeypatch):
    """Also where it was cut off in the epoch that begins with a pruning step."""
    seed, task = gradual(tmp_path / "whole", monkeypatch)
    whole = seed.pruned_gradually(task)
    seed, task = gradual(tmp_path / "cut", monkeypatch)
    prune_again = Surgeon.prune_again

    def cut(surgeon, model, method, sparsity, damp, step):
        prune_again(surgeon, model, method, sparsity, damp, step)
        if step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Surgeon, "prune_again", cut)
    with pytest.raises(KeyboardInterrupt):
        seed.pruned_gradually(task)
    monkeypatch.setattr(Surgeon, "prune_again", prune_again)
    again = Seed(seed.config, 0).pruned_gradually(task)
    assert all(torch.equal(p, q) for p, q in zip(whole.state_dict().values(), again.state_dict().values()))


def test_the_curvatures_images_are_not_those_that_training_saw_first(tmp_path, monkeypatch):
    seed, _ = gradual(tmp_path, monkeypatch)
    train, images = seed.upstream.data.train, lambda loader: torch.cat([x for x, _ in loader])
    few = Surgeon(seed.config.replace(gradient_batch=4, gradients=8), seed.upstream, 0)
    other = Surgeon(few.config, seed.upstream, 1)
    drawn = [images(surgeon._batches(step)) for surgeon in (few, other) for step in (0, 1, 2)]
    drawn += [images(islice(batches(train, 32, seed=s), 1)) for s in (0, 1)]
    assert all(len(x) == 32 for x in drawn) and not any(torch.equal(a, b) for a, b in combinations(drawn, 2))


def test_several_passes_see_the_images_of_one_that_has_all_their_gradients(tmp_path, monkeypatch):
    seed, _ = gradual(tmp_path, monkeypatch)
    images = lambda gradients, step: torch.cat([
        x for x, _ in Surgeon(seed.config.replace(gradients=gradients), seed.upstream, 0)._batches(step)
    ])  # fmt: skip
    assert torch.equal(torch.cat([images(2, step) for step in range(4)]), images(8, 0))


def test_the_curvature_of_images_in_files_is_of_images_as_an_evaluation_sees_them(tmp_path, monkeypatch):
    """Their training split is augmented image by image."""
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    draw = np.random.default_rng(0)
    for split, shade in product(("train", "val"), (0, 1)):
        folder = tmp_path / "mine" / split / f"shade{shade}"
        folder.mkdir(parents=True)
        for i in range(20):
            Image.fromarray(draw.integers(0, 255, (96, 96, 3), np.uint8)).save(folder / f"{i}.png")
    settings = ["upstream=folder:mine", f"data_dir={tmp_path}", f"model_args={TINY | dict(img_size=96)}", "epochs=0"]
    config = quick(
        NoWeightUpdate,
        *settings,
        "gradients=4",
        "gradient_batch=4",
        "block_size=24",
        "batch_size=8",
        "recovery_images=8",
    )
    seed = Seed(config, 0)
    surgeon, train = seed.surgeon(lambdas.searches(config, 0, World(), ["ovit"])[0]), seed.upstream.data.train
    assert train.train_transform is not None
    plain = {tuple(x.flatten()[:50].tolist()) for x, _ in train.unaugmented()}
    assert all(tuple(x.flatten()[:50].tolist()) in plain for batch, _ in surgeon._batches(1) for x in batch)
    for method in ("ovit", "obc"):
        assert masks.sparsity(surgeon.pruned(method, 0.5, 1e-2, ("uniform", Pattern()))) == pytest.approx(0.5, abs=1e-3)


def test_lambda_is_searched_on_some_validation_images_and_rates_on_all(tmp_path, monkeypatch):
    seed, task = gradual(tmp_path, monkeypatch, "search_images=100")
    asked = []
    monkeypatch.setattr(Surgeon, "judge", lambda self, model, images=None: float(asked.append(images) is None))
    for name in ("pruned", "trained", "pruned_gradually"):
        monkeypatch.setattr(seed, name, lambda task: seed.upstream.model)
    for kind in (seed.search, seed.recovery_rate, seed.gradual_rate):
        assert [found.row["value"] for found in kind(task)] == [1.0]
    assert asked == [100, None, None]


def test_searches_look_at_images_of_all_classes(tmp_path, monkeypatch):
    """Images in folders lie class by class: the first hundred would be of one class."""
    seed, _ = gradual(tmp_path, monkeypatch)
    val, seen = seed.upstream.data.val, []
    order = np.argsort(val.labels.numpy(), kind="stable")
    seed.upstream.data = replace(seed.upstream.data, val=val.take(order))
    monkeypatch.setattr(
        training, "evaluate", lambda model, loader: seen.append(loader.split) or Evaluation(*[np.ones(1)] * 3)
    )
    seed.surgeon(gradual(tmp_path, monkeypatch)[1]).judge(seed.upstream.model, 100)
    assert len(seen[0]) == 100 and len(set(seen[0].labels.tolist())) == 10


def test_a_recovered_model_is_trained_once_and_known_again(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    settings = ["upstream=digits", f"model_args={TINY}", "epochs=0", "gradients=8", "block_size=24", "damps=[1.0e-4]"]
    config = quick(NoWeightUpdate, *settings, "recovery_images=200", "recovery_lrs=[1.0e-3]")
    seed = Seed(config, 0)
    world = World({"digits": seed.upstream.data.fingerprint}, {0: seed.upstream.identity})
    found = [dict(t.columns) | dict(value=0.5) for t in tasks.searches(config, 0, world, [])]
    task = recovery.recovered(config, 0, world, found, "ovit", 0.9, 2)
    once = seed.made(task)
    monkeypatch.setattr(training, "train", None)
    again = seed.made(task)
    assert all(torch.equal(p, q) for p, q in zip(once.state_dict().values(), again.state_dict().values()))
    assert masks.sparsity(again) == pytest.approx(0.9, abs=1e-4)
    other = recovery.recovered(config, 0, world, found, "ovit", 0.9, 5)
    with pytest.raises(TypeError):  # another length is another model
        seed.made(other)


def test_oviTs_own_mask_is_trained_without_its_update_too():
    """At oViT's lambda, and at the rate that suits its score alone; the latter's own rows are another thing."""
    config, world = quick(NoWeightUpdate), World({"glyph_letters": ""}, {0: ""})
    best = dict(ovit=1e-8, ovit_mask_only=1e-5)
    found = [
        dict(t.columns) | dict(value=0.5 + (t.columns["damp"] == best.get(t.columns["method"])))
        for t in tasks.searches(config, 0, world, [])
    ]
    rate = lambda t: t.columns["lr"] == (5e-4 if t.columns["method"] == "ovit_mask_only" else config.recovery_lrs[0])
    found += [
        dict(t.columns) | dict(value=0.5 + rate(t))
        for t in tasks.finer_searches(config, 0, world, found) if t.kind == "recovery_rate"
    ]  # fmt: skip
    trained = [t for t in tasks.measurements(config, 0, world, found) if t.kind == "recovered"]
    mine = [t.columns for t in trained if t.columns["method"] == "ovit_mask_only"]
    assert [(t["damp_rule"], t["damp"], t["epochs"]) for t in mine] == [
        (rule, damp, epochs)
        for rule, damp in (("own", 1e-5), ("shared", 1e-8)) for epochs in config.recovery_epochs
    ]  # fmt: skip
    assert {t["lr"] for t in mine} == {5e-4}
    assert {t.columns["damp_rule"] for t in trained if t.columns["method"] == "ovit"} == {"own"}
    few = [t.kind for t in tasks.measurements(config.replace(recovery_methods=("ovit",)), 0, world, found)]
    assert few.count("recovered") == 2 * len(config.recovery_epochs)  # dense and oViT


def test_equal_compute_shares_out_the_gradients(tmp_path, monkeypatch):
    """p passes see gradients / p each; what they make is what `prune` makes with p - 1 recomputations."""
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    settings = ["upstream=digits", f"model_args={TINY}", "epochs=0", "gradients=8", "block_size=24", "damps=[1.0e-4]"]
    config = quick(NoWeightUpdate, *settings, "compute_passes=[2]")
    seed = Seed(config, 0)
    world = World({"digits": seed.upstream.data.fingerprint}, {0: seed.upstream.identity})
    found = [dict(t.columns) | dict(value=0.5) for t in tasks.searches(config, 0, world, [])]
    tried = [t for t in tasks.finer_searches(config, 0, world, found) if t.columns["passes"] == 2]
    assert {t.columns["damp"] for t in tried} == {1e-5, 1e-4, 1e-3}
    lower = lambda t: t.columns["method"] == "obert" and t.columns["damp"] == 1e-5
    found += [dict(t.columns) | dict(value=0.6 if lower(t) or t.columns["damp"] == 1e-4 else 0.5) for t in tried]
    assert tasks.further_searches(config, 0, world, found) == []  # of equals the larger: none lies at the edge
    found = [row | dict(value=0.4) if row["damp"] == 1e-4 and row["passes"] == 2 else row for row in found]
    assert tasks.further_searches(config, 0, world, found) == []  # 1e-6 lies outside of the list
    config = config.replace(damps=(1e-6, 1e-4, 1e-3))
    found += [
        dict(t.columns) | dict(value=0.4)
        for t in tasks.searches(config, 0, world, []) if t.columns["damp"] in (1e-6, 1e-3)
    ]  # fmt: skip
    further = tasks.further_searches(config, 0, world, found)
    assert [(t.columns["method"], t.columns["damp"]) for t in further] == [("obert", 1e-6)]
    assert lambdas.best_damp(config, found, "obert", passes=2) is None  # before it is tried
    found += [dict(t.columns) | dict(value=0.9) for t in further]
    assert lambdas.best_damp(config, found, "obert", passes=2) == 1e-6  # at the edge still, which the page then tells
    (task,) = (
        t for t in tasks.measurements(config, 0, world, found)
        if (t.columns["scope_name"], t.columns["method"]) == ("passes", "obert")
    )  # fmt: skip
    columns = {name: task.columns[name] for name in ("passes", "recomputations", "gradients")}
    assert columns == dict(passes=2, recomputations=1, gradients=4)
    model, damp = copy.deepcopy(seed.upstream.model), task.columns["damp"]
    surgeon = seed.surgeon(task)
    loader = chain(surgeon._batches(0), surgeon._batches(1))
    prune(model, "obert", 0.9, loader, gradients=4, block_size=24, damp=damp, recomputations=1, dtype=DTYPE)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), seed.pruned(task).parameters()))


def rows(values, **more):
    """One row per (method, seed) of accuracy at 90 %."""
    columns = dict(experiment="no_weight_update", phase="one_shot", dataset="d", allocation="global", scope="all",
                   pattern="unstructured", sparsity_target=0.9, metric="top1", damp_rule="own") | more  # fmt: skip
    told = lambda m: dict(zip(("score", "update"), METHODS[m][:2])) if m in METHODS else {}
    return pd.DataFrame(
        [
            dict.fromkeys(COLUMNS, "") | columns | told(m) | dict(method=m, seed=s, value=v)
            for (m, s), v in values.items()
        ]
    )


FOUR = {"magnitude": (0.3, 0.4), "magnitude_joint": (0.5, 0.7), "ovit_mask_only": (0.2, 0.2), "ovit": (0.8, 0.8)}


def by_seed(methods):
    return {(m, s): v for m, both in methods.items() for s, v in enumerate(both)}


def test_attribution_by_hand():
    found = attribution(rows(by_seed(FOUR)))
    part = found[found.score_kind == "greedy"].set_index("part")
    assert part.loc["score", "mean"] == pytest.approx(-0.15)  # (-0.1 - 0.2) / 2
    assert part.loc["update", "mean"] == pytest.approx(0.25)
    assert part.loc["total", "mean"] == pytest.approx(0.45)
    assert part.loc["interaction", "mean"] == pytest.approx(0.35)
    assert part.loc["score_other", "mean"] == pytest.approx(0.2)
    assert part.loc["update_other", "mean"] == pytest.approx(0.6)
    assert part.loc["score_shapley", "mean"] + part.loc["update_shapley", "mean"] == pytest.approx(0.45)
    assert part.loc["score", "half"] == pytest.approx(interval([-0.1, -0.2]).half)
    both = found[found.part == "interaction"].score_kind
    assert set(both) == {"greedy"} and set(found.score_kind) == {"greedy", "diagonal", "static", "greedy_frozen"}
    assert set(found[found.score_kind == "diagonal"].part) == {"update"}  # of the other scores only magnitude's rows


def test_the_two_rules_of_lambda_are_never_mixed():
    """Under `shared` the mask alone is taken at oViT's lambda, under `own` at its own; oViT itself has one value."""
    shared = rows(by_seed({"ovit_mask_only": (0.6, 0.6), "magnitude_joint": (0.4, 0.5)}), damp_rule="shared")
    both = pd.concat([rows(by_seed(FOUR)), shared], ignore_index=True)
    update = lambda rule: attribution(both, rule).query("score_kind == 'greedy'").set_index("part")["mean"]
    assert update("own")["update_other"] == pytest.approx(0.6) and update("own")["update"] == pytest.approx(0.25)
    assert update("shared")["update_other"] == pytest.approx(0.2) and update("shared")["update"] == pytest.approx(0.1)
    assert update("shared")["total"] == update("own")["total"] == pytest.approx(0.45)
    wide = parts_table(both)
    assert wide.loc[("each its own", "interaction"), "90 %"].startswith("+35.0")
    assert wide.loc[("oViT's for all", "interaction"), "90 %"].startswith("+10.0")
    top1 = cells(both).set_index(["score", "update"])["mean"].to_dict()
    wanted = {m: sum(v) / 2 for m, v in FOUR.items()}
    assert top1 == pytest.approx({(METHODS[m].score, METHODS[m].update): v for m, v in wanted.items()})


def line(at, mean, half, p):
    resolved = "resolved" if p < 0.05 else "not resolved"
    return dict(sparsity_target=at, mean=mean, low=mean - half, high=mean + half, verdict=resolved, margin=0.01)


def test_what_score_and_update_are_to_each_other_may_turn_along_the_curve():
    lines = pd.DataFrame([line(0.5, 0.001, 0.02, 0.9), line(0.8, -0.1, 0.05, 0.01), line(0.95, 0.2, 0.1, 0.02)])
    said = relation(lines)
    assert said == (
        "substitutes at 80 % (−10.0 ± 5.0); complements at 95 % (+20.0 ± 10.0); not resolved at 50 % (+0.1 ± 2.0)"
    )
    assert relation(lines.assign(verdict="not run")) == ""
    small = pd.DataFrame([line(0.5, 0.001, 0.002, 0.9) | dict(verdict="same"), line(0.6, -0.005, 0.002, 0.01)])
    assert relation(small) == "substitutes at 60 % (−0.5 ± 0.2, within the margin); neither at 50 % (+0.1 ± 0.2)"


def test_comparisons_are_listed_from_parameters_alone_five_at_most_a_family():
    listed = {family.name: family for family in families(quick(NoWeightUpdate))}
    assert all(1 <= len(family.contrasts) <= 5 for family in listed.values())
    assert len(listed["interaction"].contrasts) == 3 and listed["interaction"].says is relation
    assert {one.rule for one in listed["interaction_shared"].contrasts} == {"shared"}
    for name in ("cross_entropy", "interaction_cross_entropy"):
        assert all(one.metric == "cross_entropy" for one in listed[name].contrasts)
    assert listed["interaction_cross_entropy"].contrasts[0].weights == listed["interaction"].contrasts[0].weights
    assert {one.rule for one in listed["update_90_trained"].contrasts} == {"shared"}
    short = [one.short.partition(",")[0] for one in listed["score_90_trained"].contrasts]
    assert short == ["ovit_mask_only"] * len(listed["update_90_trained"].contrasts)  # the diagonal's is not run
    assert {"ovit", "diagonal_joint"} in [{*one.weights} for one in listed["diagonal"].contrasts]
    assert "diagonal_uniform" not in listed
    assert not {"regime_uniform", "threshold"} & listed.keys()  # it is not run
    more = quick(NoWeightUpdate, "regimes=[global, uniform, 2:4]", "compute_passes=[4]", "sensitivity_gradients=[32]")
    listed = {family.name: family for family in families(more)}
    assert {"regime_uniform", "regime_2_4", "threshold", "compute", "sweep_gradients"} <= listed.keys()
    assert {"ovit@4", "ovit@1"} == {*listed["compute"].contrasts[0].weights}
    pairs = [[{*one.weights} for one in listed[name].contrasts] for name in ("diagonal", "diagonal_uniform")]
    assert (
        pairs[0] == pairs[1] and {"ovit_mask_only", "diag_fisher"} in pairs[1]
    )  # neither regime lacks what would tell
    few = {family.name for family in families(quick(NoWeightUpdate, "methods=[ovit, magnitude]"))}
    assert "interaction" not in few and "rivals" in few


def test_the_headline_says_what_the_interaction_is_on_another_scale():
    """Points say more than the sum, cross-entropy less: 2.0 of the 3.0 nats that the two parts bring alone."""
    values = dict(dense=0.9, magnitude=0.1, ovit_mask_only=0.2, magnitude_joint=0.2, ovit=0.5)
    losses = dict(magnitude=5.0, ovit_mask_only=3.5, magnitude_joint=3.5, ovit=3.0)
    spread = lambda of: {(m, s): v + 0.001 * s * (m == "ovit") for m, v in of.items() for s in range(3)}
    points, nats = rows(spread(values)), rows(spread(losses), metric="cross_entropy")
    both = pd.concat([points, nats], ignore_index=True)
    both.loc[both.method == "dense", ["sparsity_target", "damp_rule"]] = [0.0, ""]
    config = quick(NoWeightUpdate, "upstream=digits")
    results = Results(registry.get("no_weight_update"), config, both.assign(dataset="digits"))
    said = results.headline()
    assert "Beyond the sum of the two, which would give 30.0 %, both bring +20.1 ± 0.2 in points, " in said
    assert said.endswith(
        " +0.58 ± 0.01 in log-odds, +0.65 ± 0.01 in log-odds below dense, 1.00 ± 0.00 nats more of cross-entropy."
    )
    alone = Results(results.ablation, config, points.assign(dataset="digits"))
    assert "nats" not in alone.headline()
    # Another regime is told apart from other scales: there the parts add up in points.
    evenly = rows(spread(values | dict(ovit=0.3)), allocation="uniform")
    both_regimes = pd.concat([both, evenly[evenly.method != "dense"]], ignore_index=True).assign(dataset="digits")
    told = Results(
        results.ablation, quick(NoWeightUpdate, "upstream=digits", "regimes=[global, uniform]"), both_regimes
    )
    assert "both bring +20.1 ± 0.2 in points, +0.58 ± 0.01 in log-odds, " in told.headline()
    assert "; with uniform sparsity +0.1 ± 0.2 (no difference) in points, −0.27 ± 0.01 in log-odds, " in told.headline()
    beside = {text.get_text(): text.get_position()[1] for text in results.figure("finding", save=False).axes[0].texts}
    assert beside["sum\n30.0"] == pytest.approx(0.3, abs=0.02)
    hollow = [x.get_ydata() for x in results.figure("finding", save=False).axes[0].lines if x.get_mfc() == "white"]
    assert [y.tolist() for y in hollow] == [[pytest.approx(0.3)]]
    # Near dense the labels are moved, in their order, and stay below its line.
    near = both.assign(value=both.value.where(both.metric != "top1", both.method.map(
        dict(dense=0.9, magnitude=0.1, ovit_mask_only=0.5, magnitude_joint=0.45, ovit=0.884)) + 1e-4 * both.seed))  # fmt: skip
    fig = Results(results.ablation, config, near.assign(dataset="digits")).figure("finding", save=False)
    beside = {text.get_text().partition("\n± ")[0]: text.get_position()[1] for text in fig.axes[0].texts}
    assert beside["45.0"] < beside["sum\n85.0"] < beside["88.4"] < 0.9
    assert "(below 0: less of it)** (listed once first rows of the study had been seen)\n" in results.answers()


def test_what_is_beyond_the_sum_in_log_odds_and_where_the_sum_exceeds_dense():
    """The odds of both are those of each multiplied: complements in points, nothing in log-odds, with its interval."""
    odds = dict(magnitude=0.1, ovit_mask_only=0.3, magnitude_joint=0.2, ovit=0.6)
    change = {0: -0.02, 1: 0.0, 2: 0.02}  # of oViT's log-odds, so that the interval over seeds is known
    low = {(m, s): 1 / (1 + 1 / (o * np.exp(d * (m == "ovit")))) for m, o in odds.items() for s, d in change.items()}
    high = rows({(m, s): 0.3 for m in ("magnitude", "ovit") for s in change}).assign(sparsity_target=0.5)
    high = [high, rows({(m, s): 0.5 for m in ("ovit_mask_only", "magnitude_joint") for s in change})]
    known = pd.concat([rows(low), *(part.assign(sparsity_target=0.5) for part in high)])
    dense = rows({("dense", s): 0.6 for s in change}).assign(sparsity_target=0.0, damp_rule="")
    found = log_odds(known).set_index("sparsity_target")
    assert found["mean"].loc[0.9] == pytest.approx(0, abs=1e-9)
    assert found.half.loc[0.9] == pytest.approx(stats.t.ppf(0.975, 2) * 0.02 / 3**0.5, rel=1e-3)
    assert found["mean"].loc[0.5] == pytest.approx(2 * np.log(0.3 / 0.7)) and ceiling(known) == []
    assert ceiling(pd.concat([known, dense])) == [0.5]  # 0.5 + 0.5 - 0.3 > 0.6
    (said,) = scales.answer(known)
    assert " 0.00 ± 0.05 (not resolved) at 90 %" in said
    missing = known[(known.method != "magnitude") | (known.seed > 0)]
    assert set(log_odds(missing).sparsity_target) == {0.5, 0.9}  # of the seeds that all have
    nothing = known.assign(value=known.value.where((known.method != "magnitude") | (known.seed > 0), 0.0))
    assert log_odds(nothing).empty  # log-odds of nothing are none


def test_log_odds_below_dense_are_those_of_its_share_and_their_interval_knows_that_dense_varies():
    """The same odds of what each seed's dense model has: nothing beyond the sum there, whatever dense is, though something
    in log-odds up to 100 %; with dense so spread that levels alone would be as unsure as it is.
    """
    shares = {m: o / (1 + o) for m, o in dict(magnitude=0.1, ovit_mask_only=0.3, magnitude_joint=0.2, ovit=0.6).items()}
    ends = {0: 0.36, 1: 0.4, 2: 0.44}
    known = rows({(m, s): part * end for m, part in shares.items() for s, end in ends.items()})
    dense = rows({("dense", s): end for s, end in ends.items()}).assign(sparsity_target=0.0, damp_rule="")
    both = pd.concat([known, dense])
    (line,) = log_odds(both, "dense").itertuples()
    assert line.mean == pytest.approx(0, abs=1e-9) and line.half == pytest.approx(0, abs=1e-9)
    assert log_odds(both)["mean"].iloc[0] < -0.05 and log_odds(known, "dense").empty
    assert "0.00 ± 0.00" in scales.answer(both)[0].partition("with dense's accuracy as the end")[2]
    again = pd.concat([both, both[both.method == "magnitude"]])  # a sweep asks for it too
    assert log_odds(again, "dense")["mean"].iloc[0] == pytest.approx(line.mean)
    best = (0.3599, 0.33, 0.32)  # one seed a hundredth of a point below dense: its odds are far off
    near = rows(
        {("ovit", s): value for s, value in enumerate(best)}
        | {(m, s): 0.1 for m in shares if m != "ovit" for s in ends}
    )
    near = pd.concat([near, rows({("dense", s): 0.36 for s in ends}).assign(sparsity_target=0.0, damp_rule="")])
    (bent,) = log_odds(near, "dense").itertuples()
    each = [np.log(value / (0.36 - value)) for value in best]
    assert bent.half == pytest.approx(stats.t.ppf(0.975, 2) * np.std(each, ddof=1) / 3**0.5, rel=1e-6)
    better = both.assign(value=both.value.where((both.method != "ovit") | (both.seed > 0), 0.37))
    assert log_odds(better, "dense").empty  # where a seed's pruned model is better than its dense one


def test_a_setting_is_compared_between_its_values_seed_by_seed():
    """Whether the update matters more at B = 16: a difference of differences, from a sweep's rows and the study's own."""
    value = {("ovit", 0): 0.8, ("ovit", 1): 0.9, ("ovit_mask_only", 0): 0.5, ("ovit_mask_only", 1): 0.4}
    own = rows(value, block_size=64.0)
    swept = rows({k: v - 0.1 * (k[0] == "ovit") for k, v in value.items()}, experiment="sensitivity", block_size=16.0)
    swept = swept.assign(scope_name="block_size")
    other = swept.assign(scope_name="gradients", value=0.0)  # another sweep's rows do not count
    config = quick(NoWeightUpdate, "sensitivity_block_sizes=[16]")
    (family,) = (family for family in families(config) if family.name == "sweep_block_size")
    found = differences(pd.concat([own, swept, other], ignore_index=True), [family]).iloc[0]
    assert found.pair == "ovit@16 - ovit_mask_only@16 - ovit@64 + ovit_mask_only@64"
    assert found["mean"] == pytest.approx(-0.1) and found.n == 2


def test_in_another_block_the_update_alone_is_compared_with_the_score_alone_and_drawn_there_only():
    """Each part's worth at B = 16, where the study's own block is 64: the update alone is 0.1 ahead, or 0.2 behind."""
    value = {
        (m, s): v + 0.01 * s for m, v in dict(ovit=0.8, ovit_mask_only=0.5, magnitude_joint=0.3).items() for s in (0, 1)
    }
    own = rows(value, block_size=64.0, gradients=256.0)
    own = pd.concat([own, own[own.method == "magnitude_joint"].assign(damp_rule="shared")])
    swept = rows(
        {k: v + 0.3 * (k[0] == "magnitude_joint") for k, v in value.items()}, experiment="sensitivity", block_size=16.0
    )
    swept = swept.assign(scope_name="block_size", gradients=256.0)
    other = rows(
        {k: v for k, v in value.items() if k[0] != "magnitude_joint"}, experiment="sensitivity", gradients=32.0
    )
    other = other.assign(scope_name="gradients", block_size=64.0)
    known = pd.concat([own, swept, other], ignore_index=True)
    config = quick(NoWeightUpdate, "sensitivity_block_sizes=[16]", "block_size=64")
    (family,) = (family for family in families(config) if family.name == "alone_block_size")
    found = differences(known, [family]).set_index("pair")["mean"]
    assert found["magnitude_joint@16 - ovit_mask_only@16"] == pytest.approx(0.1)
    assert found["magnitude_joint@64 - ovit_mask_only@64"] == pytest.approx(-0.2)
    plain = rows({("magnitude", s): 0.2 + 0.01 * s for s in (0, 1)}, block_size=64.0, gradients=256.0)
    every = pd.concat([known, plain], ignore_index=True).assign(dataset="digits")
    told = Results(registry.get("no_weight_update"), config.replace(upstream="digits"), every).headline()
    assert " in blocks of 64, magnitude pruning keeps " in told
    assert " by the size of blocks, +10.0 (not resolved) at B = 16, −20.0 (not resolved) at B = 64." in told
    fig = (
        registry.get("no_weight_update")
        .figures["sensitivity"]
        .make(known.assign(dataset="d", upstream="d", profile="quick"))
    )
    drawn = [{one.get_label() for one in ax.containers} for ax in fig.axes]
    assert ["magnitude_joint" in names for names in drawn] == [True, False] and "ovit" in drawn[1]
    assert "magnitude_joint, fixed λ" not in drawn[0]  # a single point, at the study's own setting


def test_one_threshold_is_compared_with_uniform_sparsity_seed_by_seed():
    """Also where the two sides are different methods, of which one has no threshold for the model."""
    everywhere = rows({("ovit", 0): 0.8, ("ovit", 1): 0.9, ("magnitude", 0): 0.3, ("magnitude", 1): 0.5})
    evenly = {("ovit", 0): 0.7, ("ovit", 1): 0.6, ("obc", 0): 0.85, ("obc", 1): 0.85, ("magnitude", 0): 0.4}
    found = rows(evenly, allocation="uniform")
    pattern = rows({("ovit", 0): 0.1, ("ovit", 1): 0.1}, allocation="uniform", pattern="2:4", sparsity_target=0.5)
    config = quick(NoWeightUpdate, "regimes=[global, uniform]", "methods=[ovit, magnitude, obc]")
    (family,) = (family for family in families(config) if family.name == "threshold")
    told = differences(pd.concat([everywhere, found, pattern], ignore_index=True), [family]).set_index("pair")
    assert told["mean"]["ovit@global - ovit@uniform"] == pytest.approx(0.2)
    assert told["mean"]["ovit@global - obc@uniform"] == pytest.approx(0.0)
    assert told.n["magnitude@global - magnitude@uniform"] == 1  # a seed without its partner does not count


def test_the_dense_control_is_compared_with_itself_before_training():
    before = rows({("dense", 0): 0.8, ("dense", 1): 0.9}, sparsity_target=0.0, damp_rule="")
    after = rows(
        {("dense", 0): 0.81, ("dense", 1): 0.9}, sparsity_target=0.0, phase="recovered", epochs=5.0, damp_rule=""
    )
    short = after.assign(epochs=1.0, value=0.0)
    (family,) = (family for family in families(quick(NoWeightUpdate)) if family.name == "control")
    found = differences(pd.concat([before, after, short], ignore_index=True), [family]).iloc[0]
    assert found["mean"] == pytest.approx(0.005) and found.pair == "dense@recovered - dense@one_shot"


def test_sensitivity_pairs_by_seed():
    base = rows({("ovit", 0): 0.8, ("ovit", 1): 0.9, ("ovit_mask_only", 0): 0.5, ("ovit_mask_only", 1): 0.4})
    found = sensitivity(base.assign(experiment="sensitivity", scope_name="block_size", block_size=16))
    half = pytest.approx(interval([0.3, 0.5]).half)
    wanted = dict(column="block_size", rule="own", setting=16, mean=pytest.approx(0.4), half=half, seeds=2)
    assert found[list(wanted)].to_dict("records")[0] == wanted


def test_sensitivity_has_the_studys_own_setting_as_a_point_under_both_rules():
    value = {("ovit", 0): 0.8, ("ovit_mask_only", 0): 0.5}
    sweep = dict(experiment="sensitivity", block_size=16)
    varied = [rows(value, damp_rule=rule, **sweep).assign(scope_name="block_size") for rule in ("own", "shared")]
    own = rows({("ovit", 0): 0.9, ("ovit_mask_only", 0): 0.5}).assign(block_size=48)
    shared = rows({("ovit_mask_only", 0): 0.3}, damp_rule="shared").assign(block_size=48)
    found = sensitivity(pd.concat([*varied, own, shared], ignore_index=True)).set_index(["rule", "setting"])["mean"]
    assert found["own"].to_dict() == pytest.approx({16: 0.3, 48: 0.4})
    assert found["fixed"].to_dict() == pytest.approx({16: 0.3, 48: 0.6})


def test_what_was_chosen_and_what_lies_at_the_edge_of_its_list():
    common = dict(phase="lambda_search", metric="validation_top1", passes=1.0, block_size=64.0, gradients=256.0)
    common |= dict(gradient_batch=16.0)
    values = {1e-7: 0.80, 1e-6: 0.85, 1e-5: 0.70}
    tried = [rows({("ovit", s): v for s in (0, 1)}, damp=d, **common) for d, v in values.items()]
    tried += [rows({("obert", s): v for s in (0, 1)}, damp=d, **common) for d, v in zip(values, (0.5, 0.6, 0.6))]
    found = searched(pd.concat(tried, ignore_index=True), "damp").set_index("method")
    assert found.loc["ovit", "best"] == 1e-6 and found.loc["ovit", "second"] == 1e-7 and found.loc["ovit", "edge"] == ""
    assert found.loc["obert", "best"] == 1e-5 and found.loc["obert", "edge"] == "highest"  # of equals the larger
    assert edges(pd.concat(tried), "damp") == ["`obert` highest (1e-05, 0.00 above the next) at global 90 %"]
    other = [row.assign(block_size=16.0, damp=1e-9) for row in tried]  # a sweep's points
    point = [row.assign(block_size=16.0, value=row.value + 1e5 * row.damp) for row in tried[:3]]
    measured = rows({("ovit", 0): 0.9}, damp=1e-6, **common | dict(phase="one_shot", metric="top1"))
    said = edges(
        pd.concat([measured, *tried, *point], ignore_index=True), "damp"
    )  # the setting is told where it is another
    assert said[-1] == "`ovit` highest (1e-05, 75.00 above the next) at global 90 % with block size 16"
    trained = dict(phase="recovery_search", metric="validation_top1", passes=1.0)
    lines = [
        rows({("dense", 0): v}, lr=r, **trained).assign(sparsity_target=0.0) for r, v in ((1e-3, 0.9), (1e-2, 0.8))
    ]
    lines += [rows({("ovit", 0): v}, lr=r, **trained) for r, v in ((1e-3, 0.9), (1e-2, 0.8))]
    lines += [line.assign(phase="gradual_search") for line in lines[2:]]
    told = "lowest (0.001, 10.00 above the next) at"
    assert edges(pd.concat(lines, ignore_index=True), "lr") == [
        f"`dense` {told} recovery",
        f"`ovit` {told} recovery of global 90 %, gradual pruning of global 90 %",
    ]
    config = quick(NoWeightUpdate, "gradients=256", "gradient_batch=16")
    wide = lambda_table(pd.concat([*tried, *other], ignore_index=True), config)
    assert wide["global 90 %"].to_dict() == {"ovit": "1e-6", "obert": "1e-5*"}


def test_curves_of_sweeps_are_of_the_same_models_throughout():
    """Five seeds have the study's own setting, three the others."""
    gain = {s: 0.1 if s < 3 else 0.9 for s in range(5)}
    own = rows(
        {(m, s): 0.1 + (m == "ovit") * gain[s] for m in ("ovit", "ovit_mask_only") for s in gain}, block_size=48.0
    )
    sweep = dict(experiment="sensitivity", block_size=16.0)
    varied = rows({(m, s): 0.1 + (m == "ovit") * 0.1 for m in ("ovit", "ovit_mask_only") for s in range(3)}, **sweep)
    found = sensitivity(pd.concat([own, varied.assign(scope_name="block_size")], ignore_index=True))
    assert found["mean"].tolist() == pytest.approx([0.1, 0.1]) and set(found.seeds) == {3}


def test_what_it_costs_that_lambda_was_chosen_at_one_sparsity_is_told_in_points():
    common = dict(phase="lambda_search", metric="validation_top1", passes=1.0, block_size=64.0)
    at = lambda s, method, values: [
        rows({(method, seed): v for seed in (0, 1)}, damp=d, sparsity_target=s, **common) for d, v in values.items()
    ]
    tried = at(0.9, "ovit", {1e-7: 0.9, 1e-6: 0.8}) + at(0.95, "ovit", {1e-7: 0.7, 1e-6: 0.6})
    tried += at(0.9, "obert", {1e-7: 0.5, 1e-6: 0.6}) + at(0.95, "obert", {1e-7: 0.4, 1e-6: 0.312})
    taken = [rows({(m, s): 0.5 for s in (0, 1)}, damp=d, block_size=64.0) for m, d in (("ovit", 1e-7), ("obert", 1e-6))]
    first = [one.assign(pattern="2:4", sparsity_target=0.5) for one in tried[:1]]  # of another regime
    said = answers(pd.concat([*first, *tried, *taken], ignore_index=True))[-1]
    assert said == "λ was chosen at 90 %. By validation, at 95 % another λ would suit `obert` 8.8 points better."


def test_draws_of_images_are_told_from_dense_models():
    draw = np.random.default_rng(0)
    model, noise = draw.normal(0, 0.1, 400), lambda: draw.normal(0, 0.05, 400)
    both = [rows({("ovit", s): v for s, v in enumerate(model + noise())}) for _ in range(2)]
    both[1] = both[1].assign(experiment="sensitivity", scope_name="gradient_seed")
    both = pd.concat(both, ignore_index=True)
    said = answers(both.assign(dense_seed=both.seed))[-1]
    within, between = (float(word) for word in re.findall(r"\d+\.\d", said))
    assert within == pytest.approx(5, abs=0.4) and between == pytest.approx(10, abs=0.8)
    assert "dense models" not in answers(both.assign(dense_seed=0))[-1] and "test images" not in said
    each = np.repeat([0.0, 1.0], 50)  # of which the mean has a standard error of sqrt(0.5 * 0.5 / 99)
    seen = both.assign(
        value=0.5, each=[each] * len(both), labels=[np.zeros(100, int)] * len(both), dense_seed=both.seed
    )
    assert answers(seen)[-1].endswith("0.0 more between dense models, 5.0 of the mean from 100 test images.")


def test_the_half_length_test_is_told():
    common = dict(phase="dense_length", metric="validation_top1", sparsity_target=0.0)
    test = lambda half: answers(
        pd.concat([rows({("dense", 0): v}, epochs=e, **common) for e, v in ((3, half), (6, 0.9))], ignore_index=True)
    )
    assert test(0.895)[0].startswith("The dense model is trained long enough: with 6 epochs it has 90.0 %")
    assert test(0.885)[0].startswith("The dense model is not trained long enough")


def test_layers_stand_by_kind_and_depth_with_what_is_left_of_them():
    names = {
        "blocks.0.attn.qkv.weight": (0, "attn.qkv"),
        "blocks.11.mlp.fc2.weight": (11, "mlp.fc2"),
        "head": (0, "head"),
    }
    assert {name: place(name) for name in names} == names
    found = [
        rows({("ovit", seed): value}, metric="sparsity", scope="layer").assign(scope_name=name)
        for name, value in zip(names, (0.5, 0.9, 0.75)) for seed in (0, 1)
    ]  # fmt: skip
    fig = layers(pd.concat(found, ignore_index=True))
    top = fig.axes[:3]
    assert [ax.get_title() for ax in top] == ["attn.qkv", "mlp.fc2", "head"]
    drawn = [(bars.lines[0].get_xdata()[0], bars.lines[0].get_ydata()[0]) for ax in top for bars in ax.containers]
    assert drawn == [(0, pytest.approx(0.5)), (11, pytest.approx(0.1)), (0, pytest.approx(0.25))]


def test_masks_that_are_the_same_share_a_line():
    pairs = {("ovit", "magnitude"): 0.4, ("ovit", "magnitude_joint"): 0.4, ("magnitude", "magnitude_joint"): 1.0}
    found = [
        rows({(a, 0): value}, metric="mask_overlap", scope="method").assign(scope_name=b)
        for (a, b), value in pairs.items()
    ]
    fig = overlap(pd.concat(found, ignore_index=True))
    assert [tick.get_text() for tick in fig.axes[0].get_yticklabels()] == ["magnitude, magnitude_joint"]
    assert [text.get_text() for text in fig.axes[0].texts] == ["40"]


def test_what_masks_share_by_chance(monkeypatch):
    """Two random masks that keep a tenth each share 1 of the 19 hundredths that either keeps."""
    overlaps = rows({("ovit", 0): 0.4}, metric="mask_overlap", scope="method").assign(scope_name="magnitude")
    assert "(by chance 5 %, were all layers as sparse)" in overlap(overlaps).get_suptitle()


def test_what_was_not_run_is_listed():
    settings = ["methods=[ovit, magnitude]", "recovery_methods=[ovit]", "recovery_sparsities=[0.9]"]
    said = not_run(quick(NoWeightUpdate, *settings, "gradual_methods=[]", "seeds=[0, 1, 2, 3, 4]"))
    assert "one-shot: `ovit_mask_only`" in said and "the regimes uniform, 2:4" in said
    assert "after recovery: `magnitude` and 80 %, 95 %" in said
    assert "pruned gradually: `ovit`, `magnitude`;" in said and "sensitivity to block size" in said
    assert "anything trained after pruning for seeds 3, 4" in said


def test_a_pattern_that_does_not_divide_the_blocks_leaves_the_others_as_they_are(tiny):
    """Asking for 2:4 as well must not change the blocks, and so the rows, of unstructured pruning."""
    config = quick(NoWeightUpdate, "block_size=6", "gradients=2")
    surgeon = Surgeon(config, Upstream(tiny, load("digits"), 0), 0)
    assert set(surgeon.curvature("fisher").block_sizes.values()) == {6}
    assert set(surgeon.curvature("fisher", Pattern(2, 4)).block_sizes.values()) == {4}
    assert surgeon.curvature("fisher") is surgeon.curvature("fisher", Pattern(1, 3))  # 6 is a multiple of 3


def test_masks_that_are_all_the_same_are_no_figure():
    """Two methods at one lambda: an empty heat map would say "share nan to nan %"."""
    same = rows({("ovit", 0): 1.0}, metric="mask_overlap", scope="method").assign(scope_name="ovit_mask_only")
    assert overlap(same) is None


def test_the_longest_training_is_the_longest_in_whatever_order_lengths_are_listed():
    listed = lambda *lengths: {
        family.name: family.contrasts for family in families(quick(NoWeightUpdate).replace(recovery_epochs=lengths))
    }
    for name in ("score_90_trained", "update_90_trained"):
        assert listed(10, 3, 1)[name] == listed(1, 3, 10)[name], name
