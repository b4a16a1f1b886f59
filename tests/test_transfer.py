"""The linear probe against scikit-learn on the same features; finetuning keeps masks exact."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ovit_core import data, dense, masks, training, transfer
from ovit_core.batches import batches
from ovit_core.config import Transfer, from_parameters
from ovit_core.pruning import prune
from ovit_core.study import read_profile


def test_probe_equals_scikit_learn_on_the_same_features(tiny):
    d = data.load("digits")
    (x, y), (x_val, y_val), (x_test, y_test) = (transfer.extract(tiny, part) for part in (d.train, d.val, d.test))
    assert x.shape == (len(d.train), 24)
    scale = StandardScaler().fit(x)
    scores = {C: LogisticRegression(C=C, max_iter=1000, tol=1e-5).fit(scale.transform(x), y) for C in (0.001, 1.0)}
    best = max(scores, key=lambda C: scores[C].score(scale.transform(x_val), y_val))
    correct, chosen = transfer.probe(lambda part: transfer.extract(tiny, part), d, [0.001, 1.0])
    assert chosen["C"] == best
    assert np.array_equal(correct, scores[best].predict(scale.transform(x_test)) == y_test)


def test_probe_is_the_converged_one_where_classes_are_many():
    """A hundred classes make the mean loss's gradient small before anything is fitted."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(100, 32)) @ np.diag(np.linspace(1, 0.05, 32))  # badly conditioned, as features are
    y = np.repeat(np.arange(100), 20)
    parts = [(centres[y] + 0.5 * generator.normal(size=(len(y), 32)), y) for _ in range(3)]
    split = SimpleNamespace(train=0, val=1, test=2, classes=range(100))
    correct, chosen = transfer.probe(lambda part: parts[part], split, [10.0])
    scale = StandardScaler().fit(parts[0][0])
    tight = LogisticRegression(C=10.0, max_iter=5000, tol=1e-8).fit(scale.transform(parts[0][0]), y)
    assert abs(correct.mean() - tight.score(scale.transform(parts[2][0]), y)) <= 0.002 and chosen == dict(C=10.0)


def test_finetuning_replaces_the_head_and_keeps_masks(tiny):
    prune(tiny, "magnitude", 0.9)
    tiny.reset_classifier(26)
    before = {n: m.clone() for n, m in masks.of(tiny).items()}
    config = from_parameters(Transfer, read_profile("quick", ["full_steps=6", "full_lrs=[1.0e-3, 3.0e-3]"]))
    model, correct, chosen = transfer.finetune(tiny, data.load("digits"), config, 0, "test")
    assert model.head.out_features == 10 and len(correct) == 539 and chosen["lr"] in (1e-3, 3e-3)
    for name, mask in before.items():
        assert torch.equal(masks.of(model)[name], mask)
        assert torch.equal(model.get_parameter(name) == 0, ~mask)


@pytest.mark.slow
def test_the_quick_dense_model_reads_letters_of_unseen_families(tmp_path, monkeypatch):
    monkeypatch.setattr(dense, "CACHE", tmp_path)
    up = dense.upstream(from_parameters(Transfer, read_profile("quick", [])), seed=0)
    assert training.evaluate(up.model, batches(up.data.test, 500))[0].mean() >= 0.90
