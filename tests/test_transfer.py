"""Ablation B: what is read out of features, against scikit-learn and by hand; finetuning that keeps masks exact; which
images each step sees; sources that are the very models of ablation A.
"""

from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ALL, TINY, quick
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ovit_core import masks
from ovit_core.ablations.no_weight_update.parameters import NoWeightUpdate
from ovit_core.ablations.transfer import readout, run, tasks
from ovit_core.ablations.transfer.parameters import Transfer
from ovit_core.ablations.transfer.similarity import cka
from ovit_core.ablations.transfer.tasks import DENSE, RATES, Model, models
from ovit_core.data.files import ImageFiles
from ovit_core.data.loading import load
from ovit_core.pruning import prune
from ovit_core.study import grid, paths, registry
from ovit_core.study.store import Store
from ovit_core.study.tasks import HELD_OUT, VALIDATION, World


def clouds(classes, each, width=32, seed=0, noise=0.5):
    """Labelled features: a cloud per class, badly conditioned, as features are."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, width)) @ np.diag(np.linspace(1, 0.05, width))
    y = np.repeat(np.arange(classes), each)
    return (centres[y] + noise * generator.normal(size=(len(y), width))).astype(np.float32), y


def by_hand(features, C):
    scale = StandardScaler().fit(features[0])
    fit = LogisticRegression(C=C, max_iter=1000, tol=1e-5).fit(scale.transform(features[0]), features[1])
    return lambda x: fit.predict_proba(scale.transform(x))


def test_probe_equals_scikit_learn_on_the_same_features(tiny):
    d = load("digits")
    train, val, test = (run.extract(tiny, part) for part in (d.train, d.val, d.test))
    assert train[0].shape == (len(d.train), 24)
    tried, chosen, fit = readout.choose(train, val, [0.001, 1.0])
    right = lambda C, part: by_hand(train, C)(part[0]).argmax(1) == part[1]
    assert tried == {C: right(C, val).mean() for C in (0.001, 1.0)} and chosen == max(tried, key=tried.get)
    found, odds = readout.told(fit, test), by_hand(train, chosen)(test[0])
    assert np.array_equal(found.correct, right(chosen, test))
    np.testing.assert_allclose(found.loss, -np.log(odds[np.arange(len(test[1])), test[1]]), rtol=1e-5)
    np.testing.assert_allclose(found.top, odds.max(1), rtol=1e-5)


def test_probe_is_the_converged_one_where_classes_are_many():
    """A hundred classes make the mean loss's gradient small before anything is fitted."""
    train, test = clouds(100, 20), clouds(100, 20, seed=1)
    scale = StandardScaler().fit(train[0])
    tight = LogisticRegression(C=10.0, max_iter=5000, tol=1e-8).fit(scale.transform(train[0]), train[1])
    found = readout.told(readout.probe(train, 10.0), test)
    assert abs(found.correct.mean() - tight.score(scale.transform(test[0]), test[1])) <= 0.002


def test_a_class_that_was_never_seen_is_never_right():
    train, test = clouds(5, 30), clouds(5, 4)
    known = train[1] != 2
    found = readout.told(readout.probe((train[0][known], train[1][known]), 1.0), test)
    assert not found.correct[test[1] == 2].any() and found.loss[test[1] == 2].min() > 100
    assert found.correct[test[1] == 4].mean() > 0.5


def test_neighbours_equal_brute_force():
    (x, y), (queries, truth) = clouds(4, 25, noise=2), clouds(4, 10, seed=1, noise=2)
    unit = lambda z: z / np.linalg.norm(z, axis=1, keepdims=True)
    nearest = np.argsort(-(unit(queries) @ unit(x).T), axis=1)[:, :20]  # (40, 20)
    votes = np.stack([np.bincount(y[of], minlength=4) for of in nearest])  # (40, 4)
    found = readout.told(readout.neighbours((x, y)), (queries, truth))
    assert np.array_equal(found.correct, votes.argmax(1) == truth)
    np.testing.assert_allclose(found.top, votes.max(1) / 20)
    assert 0.3 < found.correct.mean() < 1  # not all alike
    assert readout.neighbours(clouds(2, 3)).n_neighbors == 6  # all, where there are fewer


def test_draws_of_few_images_are_nested_and_take_what_a_class_has():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [50, 3, 12]))
    five, twenty = (readout.few(labels, shots, seed=4) for shots in (5, 20))
    assert np.bincount(labels[five]).tolist() == [5, 3, 5] and np.bincount(labels[twenty]).tolist() == [20, 3, 12]
    assert set(five) < set(twenty) and len(set(twenty)) == len(twenty)
    assert set(readout.few(labels, 5, seed=5)) != set(five)
    assert set(readout.some(100, 10, 4)) < set(readout.some(100, 30, 4)) and len(readout.some(7, 30, 4)) == 7


def seen(monkeypatch, task, train, val, test, Cs=(0.01, 1.0)):
    """What a stand-in for a seed measures of features, and the labelled images that each fit saw."""
    fits, one = [], SimpleNamespace(config=SimpleNamespace(probe_Cs=Cs), seed=0)
    for name in ("probe", "neighbours"):
        make = getattr(readout, name)
        monkeypatch.setattr(readout, name, lambda features, *C, make=make: fits.append(features) or make(features, *C))
    one.features = lambda _, part: dict(train=train, val=val, test=test)[part]
    one.model = lambda _: torch.nn.Linear(1, 1)
    one.data = lambda _: SimpleNamespace(labels=lambda _: test[1], metric="top1", classes=range(5))
    one.held_out = lambda *given: run.Seed.held_out(one, *given)
    one.told = lambda *given: run.Seed.told(one, *given)
    return list(getattr(run.Seed, task.columns["phase"])(one, task)), fits


def a_task(phase, shots=""):
    return SimpleNamespace(columns=dict(phase=phase, shots=shots), metrics=(("top1", "all"), (HELD_OUT, "all")))


def test_validation_images_are_given_back_before_the_final_fit(monkeypatch):
    train, val, test = clouds(5, 20), clouds(5, 8, seed=1), clouds(5, 10, seed=2)
    measured, fits = seen(monkeypatch, a_task("linear"), train, val, test)
    assert [len(y) for _, y in fits] == [100, 100, 140]  # each C on train, the best on both
    value = {m.row["metric"]: m.row["value"] for m in measured}
    tried = {m.row["C"]: m.row["value"] for m in measured if m.row["metric"] == VALIDATION}
    best = max(tried, key=tried.get)
    both = np.concatenate([train[0], val[0]]), np.concatenate([train[1], val[1]])
    assert value["top1"] == (by_hand(both, best)(test[0]).argmax(1) == test[1]).mean()
    assert value[HELD_OUT] == (by_hand(train, best)(val[0]).argmax(1) == val[1]).mean()  # not on what it has learnt
    assert [len(m.images.correct) for m in measured if m.images] == [40, 50]
    measured, fits = seen(monkeypatch, a_task("knn"), train, val, test)
    assert [len(y) for _, y in fits][-2:] == [100, 140] and [m.row["metric"] for m in measured] == [HELD_OUT, "top1"]


def test_a_few_images_stay_few_and_so_do_those_that_C_is_chosen_by(monkeypatch):
    train, val, test = clouds(5, 20), clouds(5, 8, seed=1), clouds(5, 10, seed=2)
    scored, score = [], readout.choose
    monkeypatch.setattr(readout, "choose", lambda few, some, Cs: scored.append((few, some)) or score(few, some, Cs))
    measured, fits = seen(monkeypatch, a_task("linear", 5), train, val, test)
    assert [len(y) for _, y in fits] == [25, 25]  # one for each C, and none anew
    assert len(scored[0][1][1]) == 25  # of 40
    assert [len(m.images.correct) for m in measured if m.images] == [40, 50]  # whether the set tells: on all of them


def test_full_finetuning_sees_the_validation_images_in_the_end():
    for data in (load("digits"), as_files(load("digits"))):
        both = run.whole(data)
        assert len(both) == len(data.train) + len(data.val)
        labels = np.concatenate([np.asarray(part.labels) for part in (data.train, data.val)])
        assert np.array_equal(np.asarray(both.labels), labels)
    images = run.whole(load("digits")).at(ALL)
    assert torch.equal(images[-len(load("digits").val) :], load("digits").val.at(ALL))


def test_what_starts_from_scratch_has_a_length_of_its_own_of_which_the_half_is_tried(tiny, monkeypatch):
    tiny.reset_classifier(10)
    small = "upstream=digits", f"model_args={TINY}", "epochs=0", "full_steps=6", "scratch_steps=10"
    one, data, asked = run.Seed(quick(Transfer, *small), 0), load("digits"), []
    monkeypatch.setattr(one, "model", lambda _: tiny)
    monkeypatch.setattr(one, "data", lambda _: data)
    monkeypatch.setattr(run, "finetune", lambda _, images, *others: asked.append((others[3], len(images))) or tiny)
    for method in ("dense", "from_scratch"):
        task = SimpleNamespace(columns=dict(method=method, lr=1e-3), metrics=((HELD_OUT, "all"), ("top1", "all")))
        assert all([*measure(task)] for measure in (one.rate, one.full_length, one.full))
    train, both = len(data.train), len(data.train) + len(data.val)
    assert asked == [(3, train), (6, train), (6, both), (5, train), (10, train), (10, both)]


def test_a_list_of_rates_grows_twice_where_the_best_lies_at_its_edge():
    """By the mean over seeds, once all have tried the list; what was found best then is what finetuning takes."""
    config = quick(Transfer, "datasets=[digits]", "full_datasets=[digits]", "full_lrs=[1.0e-3, 3.0e-4, 3.0e-3]")
    model, world = Model("ovit", 0.9, "one_shot"), World({"glyph_letters": "", "digits": ""}, {0: ""})
    assert model in models(config, 0, world, "full")
    where = dict(phase=RATES, metric=VALIDATION, method="ovit", sparsity_target=0.9, source_phase="one_shot")
    made = lambda values, seeds=(0, 1): [
        dict(where, dataset="digits", damp_rule="", lr=lr, value=value + 0.01 * seed, seed=seed)
        for lr, value in values.items() for seed in seeds
    ]  # fmt: skip
    known = {3e-4: 0.1, 1e-3: 0.2, 3e-3: 0.3}
    asked = lambda found, stage: [
        t.columns["lr"] for t in stage(config, 0, world, found)
        if (t.columns["method"], t.columns["source_phase"]) == ("ovit", "one_shot")
    ]  # fmt: skip
    assert asked([], tasks.rates) == [3e-4, 1e-3, 3e-3] and asked([], tasks.wider) == []
    assert asked(made(known)[:-1], tasks.wider) == []  # a seed is still at it
    assert asked(made(known), tasks.wider) == [9e-3] and asked(made(known), tasks.widest) == []
    assert tasks.rate(config, made(known), model, "digits") == ""  # before the search is over
    for more, then, best in ((0.2, [], 3e-3), (0.4, [2.7e-2], "")):
        found = made(known | {9e-3: more})
        assert asked(found, tasks.widest) == then and tasks.rate(config, found, model, "digits") == best
    assert (
        tasks.rate(config, made(known | {9e-3: 0.4, 2.7e-2: 0.5}), model, "digits") == 2.7e-2
    )  # an edge, which is told
    assert asked(made({3e-4: 0.3, 1e-3: 0.2, 3e-3: 0.1}), tasks.wider) == [9e-5]
    assert asked(made({3e-4: 0.2, 1e-3: 0.3, 3e-3: 0.1}), tasks.wider) == []
    alone = config.replace(full_lrs=(1e-3,))
    assert tasks.rate(alone, [], model, "digits") == 1e-3 and not tasks.wider(alone, 0, world, [])


def as_files(data):
    """The same data as images that are opened one by one."""
    parts = {name: getattr(data, name) for name in ("train", "val")}
    made = {n: ImageFiles(p.at(ALL), np.asarray(p.labels), lambda x: x) for n, p in parts.items()}
    return SimpleNamespace(**made)


def test_finetuning_replaces_the_head_and_keeps_masks(tiny):
    prune(tiny, "magnitude", 0.9)
    tiny.reset_classifier(26)
    before = {n: m.clone() for n, m in masks.of(tiny).items()}
    model = run.finetune(tiny, load("digits").train, 10, quick(Transfer), 1e-3, 6, 0, "test")
    assert model.head.out_features == 10 and tiny.head.out_features == 26  # a copy
    for name, mask in before.items():
        assert torch.equal(masks.of(model)[name], mask)
        assert torch.equal(model.get_parameter(name) == 0, ~mask)


def test_finetuning_augments_as_the_dense_model_was(tiny):
    data = load("digits")
    made = lambda *settings: (
        run.finetune(tiny, data.train, 10, quick(Transfer, *settings), 1e-3, 3, 0, "test").head.weight
    )
    plain = made("augment=[]")
    assert torch.equal(plain, made("augment=[]")) and not torch.equal(plain, made("augment=[shift]"))


def test_mean_per_class_by_hand():
    # class 0: 3 of 4 right; class 1: 0 of 1 -> (0.75 + 0) / 2, not 3 of 5
    assert run.mean_per_class(np.array([1, 1, 1, 0, 0], bool), np.array([0, 0, 0, 0, 1])) == 0.375


def test_cka_is_the_u_statistic_over_all_quadruples():
    """Song et al., theorem 2: the mean over quadruples of different images."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(7, 3)), generator.normal(size=(7, 5))
    y[:, :2] += x[:, :2]

    def hsic(K, L):
        each = [K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q]) for i, j, q, r in permutations(range(len(K)), 4)]
        return np.mean(each)

    K, L = x @ x.T, y @ y.T
    assert cka(x, y) == pytest.approx(hsic(K, L) / np.sqrt(hsic(K, K) * hsic(L, L)), rel=1e-9)


def test_cka_knows_rotation_scale_and_shift_and_nothing_in_common():
    generator = np.random.default_rng(1)
    x = generator.normal(size=(200, 16))
    turn = np.linalg.qr(generator.normal(size=(16, 16)))[0]
    assert cka(x, 3 * x @ turn + 7) == pytest.approx(1) == cka(x, x)
    assert cka(x, 1e-4 * x) == pytest.approx(1)
    wide = [cka(generator.normal(size=(60, 500)), generator.normal(size=(60, 500))) for _ in range(20)]
    assert abs(np.mean(wide)) < 0.02  # the biased one would give some .9
    assert cka(x, np.full((200, 4), 0.1, np.float32)) == 0.0
    with pytest.raises(ValueError, match="the same images"):
        cka(x, x[:-1])


SMALL = [
    "profile=tiny", "upstream=digits", "epochs=1", f"model_args={TINY}", "seeds=[0, 1]", "finetune_seeds=[0]",
    "source_seeds=[0]", "gradients=8", "batch_size=32", "damps=[1.0e-5]", "datasets=[digits]", "protocols=[linear]", "few_shots=[]",
    "transfer_methods=[ovit]", "transfer_sparsities=[0.9]", "recovery_images=100", "recovery_lrs=[1.0e-3]", "source_epochs=1",
    "probe_Cs=[0.1]", "workers=1", "methods=[ovit]", "sparsities=[0.9]", "damp_checks=[]", "recovery_methods=[ovit]",
    "recovery_epochs=[1]", "gradual_methods=[]", "sensitivity_damps=[]", "sensitivity_draws=[]",
]  # fmt: skip


def test_a_recovered_source_is_the_model_of_ablation_a_and_trained_once(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    grid.run(registry.get("no_weight_update"), quick(NoWeightUpdate, *SMALL))
    kept = lambda: {file.name: file.stat().st_mtime_ns for file in paths.cache().glob("recovered-*")}
    before = kept()
    b = grid.run(registry.get("transfer"), quick(Transfer, *SMALL)).rows
    assert len(before) == 2 and kept() == before  # ablation A's, and the dense control
    linear = b[(b.phase == "linear") & (b.metric == "top1") & (b.scope == "all") & (b.method == "ovit")]
    assert set(map(tuple, linear[["source_phase", "seed"]].values)) == {
        ("one_shot", 0), ("one_shot", 1), ("recovered", 0)
    }  # fmt: skip
    ablation, config = registry.get("transfer"), quick(Transfer, *SMALL)
    seed = ablation.seed(config, 0)
    world = World({"digits": seed.upstream.data.fingerprint}, {0: seed.upstream.identity})
    (task,) = [
        t for t in ablation.stages[-1](config, 0, world, Store("tiny").rows())
        if t.kind == "linear" and t.columns["source_phase"] == "recovered" and t.columns["method"] == "ovit"
    ]  # fmt: skip
    one, anew = seed.model(task), seed.trained(task.source)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), anew.state_dict().values()))
    one_shot = seed.pruned(task.source)
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), one_shot.parameters()))
    assert masks.sparsity(one) == pytest.approx(0.9, abs=1e-4)


def test_every_protocol_measures_dense_itself_and_its_floors():
    config = quick(Transfer, "full_sources=[recovered]", "transfer_sources=[recovered]")
    for protocol in config.protocols:
        found = models(config, 0, World(), protocol)
        assert found[0] == DENSE and Model("dense", 0.0, "recovered") in found
        assert [m.method for m in found if m.decides][1:] == [m.method for m in found if not m.source]
    assert not [m for m in models(config, 0, World(headless=True), "linear") if m.source == "recovered"]
    few = quick(Transfer, "finetune_seeds=[1]", "source_seeds=[0, 1]")
    assert models(few, 0, World(), "full") == [] and models(few, 1, World(), "full")
    sources = [{m.source for m in models(few, seed, World(), "knn")} for seed in (0, 2)]
    assert sources == [{"one_shot", "recovered", ""}, {"one_shot", ""}]  # read for more seeds than it is searched for


@pytest.mark.parametrize(
    "settings, said",
    [
        (["transfer_methods=[ovit, obc]"], "transfer_methods must be judged with one threshold"),
        (["full_methods=[wanda]"], "full_methods must be judged with one threshold"),
        (["full_datasets=[glyph_typefaces]"], "full_datasets must be some of the datasets"),
        (["full_datasets=[]"], "full finetuning needs full_datasets"),
        (["scratch_steps=1"], "full_steps and scratch_steps above 1"),
        (["source_sparsities=[]"], "source_sparsities must be a list of at least one"),
        (["finetune_seeds=[7]"], "finetune_seeds must hold one of the seeds"),
        (["source_seeds=[7]"], "source_seeds must hold one of the seeds"),
    ],
)
def test_what_does_not_fit_together_is_one_error(settings, said):
    with pytest.raises(ValueError, match=said) as error:
        quick(Transfer, *settings)
    assert "\n" not in str(error.value)
