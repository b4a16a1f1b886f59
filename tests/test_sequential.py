"""`obc_sequential`: each layer on the inputs that the layers pruned before it give."""

import copy

import pytest
import torch
from conftest import quick
from torch import nn

from ovit_core import masks, models
from ovit_core.ablations.no_weight_update.parameters import NoWeightUpdate
from ovit_core.methods import METHODS
from ovit_core.pattern import UNSTRUCTURED, Pattern
from ovit_core.pruning import prune
from ovit_core.sequential import prune_in_turn
from ovit_core.study import dense
from ovit_core.study.surgeon import DTYPE, Surgeon

OPTIONS = dict(gradients=8, allocation="uniform", dtype=torch.float64)
METHOD = METHODS["obc_sequential"]


class Backwards(nn.Module):
    """Two layers, registered in the other order than they are used."""

    def __init__(self):
        super().__init__()
        self.second, self.first = nn.Linear(20, 6), nn.Linear(12, 20)

    def forward(self, x):
        return self.second(self.first(x.flatten(1)).relu())


def toy():
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(1)
    return Backwards(), [
        (torch.randn(30, 3, 2, 2, generator=g), torch.randint(6, (30,), generator=g)) for _ in range(4)
    ]


def equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_it_equals_pruning_one_layer_after_the_other_by_hand():
    model, loader = toy()
    by_hand, at_once = copy.deepcopy(model), copy.deepcopy(model)
    report = prune(model, "obc_sequential", 0.7, loader, **OPTIONS)
    for name in ("first", "second"):
        prune(by_hand, "obc", 0.7, loader, prunable=f"^{name}", **OPTIONS)
    assert equal(model, by_hand)
    prune(at_once, "obc", 0.7, loader, **OPTIONS)
    assert torch.equal(at_once.first.weight, model.first.weight)  # nothing is before it
    assert not torch.equal(at_once.second.weight, model.second.weight)
    assert list(report.masks) == ["second.weight", "first.weight"]  # in the model's own order
    assert report.groups == 2 and report.damp == 0.01 and report.predicted_loss is None


@torch.no_grad()
def test_the_second_layer_is_the_best_answer_to_what_now_reaches_it():
    """Its kept weights minimise the error of its outputs, lambda included, on the inputs of the pruned first layer."""
    model, loader = toy()
    before = model.second.weight.double().clone()
    report = prune(model, "obc_sequential", 0.5, loader, damp=1e-3, **OPTIONS)
    X = torch.cat([model.first(x.flatten(1)).relu() for x, _ in loader]).double()
    F = X.T @ X / len(X)
    F += 1e-3 * F.diagonal().mean() * torch.eye(20)
    for row, w, mask in zip(model.second.weight.double(), before, report.masks["second.weight"]):
        want = w[mask] + torch.linalg.solve(F[mask][:, mask], F[mask][:, ~mask] @ w[~mask])
        torch.testing.assert_close(row[mask], want, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_each_layers_error_on_its_own_inputs_is_not_worse_than_that_of_the_dense_models_update():
    """What must hold exactly, given the mask: of all values for its kept weights, those that it has are the best for the
    inputs that reach the layer in the pruned model; those that the dense model's inputs ask for are not.
    """
    model, loader = toy()
    dense_model = copy.deepcopy(model)
    prune(model, "obc_sequential", 0.6, loader, damp=1e-6, **OPTIONS)
    X = torch.cat([model.first(x.flatten(1)).relu() for x, _ in loader]).double()
    old = torch.cat([dense_model.first(x.flatten(1)).relu() for x, _ in loader]).double()
    w, mask = dense_model.second.weight.double(), masks.of(model)["second.weight"]

    def answer(X):
        F, out = X.T @ X / len(X), torch.zeros_like(w)
        for r, k in enumerate(mask):
            out[r, k] = w[r, k] + torch.linalg.solve(F[k][:, k], F[k][:, ~k] @ w[r, ~k])
        return out

    error = lambda weight: float((X @ (weight - w).T).square().sum())
    assert error(model.second.weight.double()) <= error(answer(X)) * (1 + 1e-4) < error(answer(old))


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 1.0])
def test_sparsity_is_exact_in_every_layer(tiny, tiny_batches, sparsity):
    report = prune(tiny, "obc_sequential", sparsity, tiny_batches, **OPTIONS)
    for layer in report.layers:
        assert round(layer["sparsity"] * layer["weights"]) == round(sparsity * layer["weights"])


def test_patterns_need_no_threshold(tiny, tiny_batches):
    report = prune(tiny, "obc_sequential", loader=tiny_batches, pattern="2:4", gradients=8)
    assert all((mask.view(-1, 4).sum(1) == 2).all() for mask in report.masks.values())


def test_a_global_threshold_is_refused_before_any_work(tiny):
    with pytest.raises(ValueError, match="give allocation='uniform'"):
        prune(tiny, "obc_sequential", 0.5, iter(()), gradients=8)
    with pytest.raises(ValueError, match="give allocation='uniform'"):
        prune_in_turn(tiny, models.prunable(tiny), METHOD, iter(()), 8, 0.5, allocation="global")


def test_what_fails_halfway_leaves_the_model_as_it_was(tiny, tiny_batches):
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    seen = iter(range(40))

    def loss(model, batch):
        if next(seen) == 30:
            raise RuntimeError("out of memory")
        return model(batch[0]).sum()

    with pytest.raises(RuntimeError, match="out of memory"):
        prune(tiny, "obc_sequential", 0.5, tiny_batches, loss=loss, **OPTIONS)
    assert before.keys() == tiny.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())


def test_every_layer_sees_the_same_batches():
    model, loader = toy()
    images, labels = torch.cat([x for x, _ in loader]), torch.cat([y for _, y in loader])
    data, seen = torch.utils.data.TensorDataset(images, labels), []

    def loss(model, batch):
        seen.append(batch[0].clone())
        return model(batch[0]).sum()

    shuffled = torch.utils.data.DataLoader(data, 30, shuffle=True, generator=torch.Generator().manual_seed(0))
    prune(model, "obc_sequential", 0.5, shuffled, loss=loss, gradients=3, allocation="uniform")
    assert len(seen) == 3 * 3 and not torch.equal(seen[0], seen[1])
    assert all(torch.equal(seen[i], seen[i % 3]) for i in range(9))


@pytest.fixture(scope="module")
def surgeon():
    config = quick(NoWeightUpdate, "upstream=digits", "epochs=4", "gradients=16", "block_size=24", "seeds=[0]",
                   "model_args={img_size: 32, patch_size: 16, embed_dim: 24, depth: 2, num_heads: 2}")  # fmt: skip
    return Surgeon(config, dense.upstream(config, 0), 0)


@pytest.mark.parametrize("regime", [("uniform", UNSTRUCTURED), ("global", Pattern.parse("2:4"))])
def test_the_study_takes_the_same_road(surgeon, regime):
    found = surgeon.pruned("obc_sequential", 0.6, 1e-3, regime)
    model, (allocation, pattern) = copy.deepcopy(surgeon.upstream.model), regime
    options = dict(gradients=16, damp=1e-3, dtype=DTYPE, allocation=allocation, pattern=str(pattern))
    prune(model, "obc_sequential", 0.6, surgeon._batches(), **options)
    assert equal(found, model) and not masks.of(surgeon.upstream.model)
    with pytest.raises(ValueError, match="give allocation='uniform'"):
        surgeon.pruned("obc_sequential", 0.6, 1e-3)


@pytest.mark.parametrize("method", [name for name in METHODS if not METHODS[name].sequential])
def test_the_study_prunes_again_by_every_method(surgeon, method):
    model = surgeon.pruned("magnitude", 0.5)
    before = {name: mask.clone() for name, mask in masks.of(model).items()}
    damp = None if not METHODS[method].needs_damp else 0.01 if METHODS[method].curvature == "inputs" else 1e-5
    surgeon.prune_again(model, method, 0.8, damp, step=1)
    assert masks.sparsity(model) == pytest.approx(0.8, abs=1e-3)
    for name, mask in masks.of(model).items():
        assert not (mask & ~before[name]).any()
        if METHODS[method].update == "none":
            assert torch.equal(model.get_parameter(name), surgeon.weights[name] * mask)


def test_the_study_does_not_prune_again_layer_by_layer_under_one_threshold(surgeon):
    with pytest.raises(ValueError, match="give allocation='uniform'"):
        surgeon.prune_again(surgeon.pruned("magnitude", 0.5), "obc_sequential", 0.8, 0.01, step=1)
