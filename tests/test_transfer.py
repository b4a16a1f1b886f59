"""Ablation B: the linear probe against scikit-learn, finetuning that keeps masks exact, and what its rows say."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import quick
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ovit_core import masks
from ovit_core.ablations.transfer import analysis, run
from ovit_core.ablations.transfer.parameters import FLOORS, Transfer
from ovit_core.data.loading import load
from ovit_core.pruning import prune
from ovit_core.study.tasks import COLUMNS


def test_probe_equals_scikit_learn_on_the_same_features(tiny):
    d = load("digits")
    (x, y), (x_val, y_val), (x_test, y_test) = (run.extract(tiny, part) for part in (d.train, d.val, d.test))
    assert x.shape == (len(d.train), 24)
    scale = StandardScaler().fit(x)
    scores = {C: LogisticRegression(C=C, max_iter=1000, tol=1e-5).fit(scale.transform(x), y) for C in (0.001, 1.0)}
    best = max(scores, key=lambda C: scores[C].score(scale.transform(x_val), y_val))
    tried, chosen, found = run.probe(lambda part: run.extract(tiny, part), d, [0.001, 1.0])
    assert chosen == best and tried == {C: fit.score(scale.transform(x_val), y_val) for C, fit in scores.items()}
    assert np.array_equal(found.correct, scores[best].predict(scale.transform(x_test)) == y_test)
    odds = scores[best].predict_proba(scale.transform(x_test))
    np.testing.assert_allclose(found.loss, -np.log(odds[np.arange(len(y_test)), y_test]), rtol=1e-5)  # float32
    np.testing.assert_allclose(found.top, odds.max(1), rtol=1e-5)


def test_probe_is_the_converged_one_where_classes_are_many():
    """A hundred classes make the mean loss's gradient small before anything is fitted."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(100, 32)) @ np.diag(np.linspace(1, 0.05, 32))  # badly conditioned, as features are
    y = np.repeat(np.arange(100), 20)
    parts = [(centres[y] + 0.5 * generator.normal(size=(len(y), 32)), y) for _ in range(3)]
    split = SimpleNamespace(train=0, val=1, test=2, classes=range(100))
    _, chosen, found = run.probe(lambda part: parts[part], split, [10.0])
    scale = StandardScaler().fit(parts[0][0])
    tight = LogisticRegression(C=10.0, max_iter=5000, tol=1e-8).fit(scale.transform(parts[0][0]), y)
    assert abs(found.correct.mean() - tight.score(scale.transform(parts[2][0]), y)) <= 0.002 and chosen == 10.0


def test_finetuning_replaces_the_head_and_keeps_masks(tiny):
    prune(tiny, "magnitude", 0.9)
    tiny.reset_classifier(26)
    before = {n: m.clone() for n, m in masks.of(tiny).items()}
    model = run.finetune(tiny, load("digits"), quick(Transfer), 1e-3, 6, 0, "test")
    assert model.head.out_features == 10 and tiny.head.out_features == 26  # a copy
    for name, mask in before.items():
        assert torch.equal(masks.of(model)[name], mask)
        assert torch.equal(model.get_parameter(name) == 0, ~mask)


def test_mean_per_class_by_hand():
    # class 0: 3 of 4 right; class 1: 0 of 1 -> (0.75 + 0) / 2, not 3 of 5
    assert run.mean_per_class(np.array([1, 1, 1, 0, 0], bool), np.array([0, 0, 0, 0, 1])) == 0.375


FIXED = dict.fromkeys(COLUMNS, "") | dict(
    experiment="transfer", allocation="global", pattern="unstructured", scope="all", scope_name="", metric="top1"
)


def rows(values, **columns):
    """(phase, dataset, method, sparsity, seed) -> accuracy, as rows."""
    names = ("phase", "dataset", "method", "sparsity_target", "seed")
    return pd.DataFrame([FIXED | dict(zip(names, k)) | dict(value=v) | columns for k, v in values.items()])


def linear(dataset, dense, floor, **pruned):
    """Two seeds: dense and its floors, and pruned methods at 90 % (a value per seed)."""
    out = {("linear", dataset, "dense", 0.0, k): dense for k in range(2)}
    out |= {("linear", dataset, f, 0.0, k): floor for f in FLOORS["linear"] for k in range(2)}
    return out | {("linear", dataset, m, 0.9, k): v for m, both in pruned.items() for k, v in enumerate(both)}


def test_no_claim_where_dense_barely_beats_a_floor():
    (sentence,) = analysis.answers(rows(linear("a", 0.50, 0.47, ovit=(0.2, 0.2))))
    assert "nothing is claimed" in sentence and "47.0 %" in sentence


def test_error_increase_averages_the_telling_datasets_within_a_seed():
    values = linear("a", 0.9, 0.1, ovit=(0.8, 0.9)) | linear("b", 0.5, 0.1, ovit=(0.25, 0.5))
    values |= linear("c", 0.5, 0.49, ovit=(0.0, 0.0))  # cannot tell, so it does not count
    (found,) = analysis.error_increase(rows(values)).to_dict("records")
    # seed 0: errors 0.1 -> 0.2 (+100 %) and 0.5 -> 0.75 (+50 %), mean +75 %; seed 1: none
    assert found["mean"] == pytest.approx(0.375) and (found["datasets"], found["seeds"]) == (2, 2)
    said = analysis.answers(rows(values))
    assert any("errors relative to dense over the 2 datasets that can tell: `ovit` +38 ±" in s for s in said)


def test_sentences_compare_with_dense_and_with_both_forms_without_update():
    values = linear("a", 0.9, 0.1, ovit=(0.801, 0.799), ovit_mask_only=(0.5, 0.5), ovit_no_update=(0.6, 0.6))
    said = analysis.answers(rows(values))
    for text in (
        "`ovit` is below `dense` by -10.0",
        "above `ovit_mask_only` by +30.0",
        "above `ovit_no_update` by +20.0",
    ):
        assert any(text in s for s in said), text


def test_correlation_with_upstream_is_by_rank_and_by_seed():
    accuracy = dict(ovit=0.9, obert=0.8, magnitude=0.7, ovit_mask_only=0.6, ovit_no_update=0.5)
    values = linear("a", 0.95, 0.1, **{m: (v, 1 - v) for m, v in accuracy.items()})
    top1 = {("one_shot", "up", m, 0.9, k): v**2 for m, v in accuracy.items() for k in range(2)}
    (found,) = analysis.correlation(rows(values | top1)).to_dict("records")
    assert found["mean"] == pytest.approx(0) and found["models"] == 5  # +1 in one seed, -1 in the other
    said = analysis.answers(rows(values | top1))
    assert any(
        "no relation of upstream top-1 and transfer accuracy is resolved (rank correlation +0.00" in s for s in said
    )
    assert analysis.correlation(rows(linear("a", 0.9, 0.1, ovit=(0.8, 0.8)) | top1)).empty  # too few models
