"""Methods and the global threshold: exact sparsity, whole prefixes, and what each method must have in common."""

import copy

import pytest
import torch

from ovit_core import masks, models
from ovit_core.pruning import METHODS, Plan, count_removed, estimate_fisher, get_method, needs_fisher, prune


@pytest.fixture
def solved(tiny, tiny_batches):
    """Weights and Fisher of the tiny model, and a function that solves a method for them."""
    fisher = estimate_fisher(tiny, tiny_batches, gradients=40, block_size=12, damp=1e-4)
    weights = models.prunable(tiny)
    return weights, fisher, lambda name: Plan(weights, get_method(name), fisher, seed=3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sparsity", [0, 0.37, 0.9, 1])
def test_global_sparsity_is_exact(solved, method, sparsity):
    pruned = solved[2](method).at(sparsity)
    total = sum(m.numel() for m in pruned.masks.values())
    assert sum(int((~m).sum()) for m in pruned.masks.values()) == round(sparsity * total)
    for name, weight in pruned.weights.items():
        assert torch.equal(weight == 0, ~pruned.masks[name]) and weight.shape == solved[0][name].shape


@pytest.mark.parametrize("method", ["ovit", "magnitude"])
def test_uniform_sparsity_is_exact_in_every_weight(solved, method):
    for mask in solved[2](method).at(0.63, "uniform").masks.values():
        assert int((~mask).sum()) == round(0.63 * mask.numel())


def test_threshold_breaks_ties_by_step_then_block():
    losses = [torch.tensor([[0.0, 1, 1], [0, 1, 2]]), torch.tensor([[1.0, 1, 1]])]
    for total in range(10):
        counts = count_removed(losses, total)
        assert sum(int(c.sum()) for c in counts) == total
    assert [c.tolist() for c in count_removed(losses, 3)] == [[1, 1], [1]]  # step 0 of the second tensor goes first
    assert [c.tolist() for c in count_removed(losses, 5)] == [[2, 2], [1]]
    assert [c.tolist() for c in count_removed(losses, 0)] == [[0, 0], [0]]


@pytest.mark.parametrize(
    "one, other",
    [
        ("ovit", "ovit_mask_only"),
        ("magnitude", "magnitude_joint"),
        ("obert", "obert_mask_only"),
        ("obert", "obert_joint"),
    ],
)
def test_methods_with_the_same_score_have_the_same_mask(solved, one, other):
    a, b = solved[2](one).at(0.8), solved[2](other).at(0.8)
    assert all(torch.equal(a.masks[n], b.masks[n]) for n in a.masks)
    assert any(not torch.equal(a.weights[n], b.weights[n]) for n in a.masks)


def test_mask_only_leaves_kept_weights_alone(solved):
    for method in ("ovit_mask_only", "ovit_no_update", "magnitude"):
        pruned = solved[2](method).at(0.7)
        for name, weight in solved[0].items():
            assert torch.equal(pruned.weights[name], weight * pruned.masks[name])


def test_joint_update_never_predicts_more_loss_than_none_or_independent(solved):
    """On the quadratic model itself, w -> (w' - w)^T F (w' - w) / 2, the joint update is the best for its mask."""
    weights, fisher, solve = solved

    def quadratic(pruned):
        total = 0.0
        for name, weight in weights.items():
            F = torch.linalg.inv(fisher.inverse(name).double())
            d = (pruned.weights[name] - weight.detach()).double().reshape(len(F), -1)
            total += float(torch.einsum("ni,nij,nj->", d, F, d)) / 2
        return total

    for family in (
        ("ovit", "ovit_mask_only"),
        ("magnitude_joint", "magnitude"),
        ("obert_joint", "obert", "obert_mask_only"),
    ):
        values = [quadratic(solve(m).at(0.6)) for m in family]
        assert values[0] == min(values) and values[0] < values[1]
    pruned = solve("ovit").at(0.6)
    assert quadratic(pruned) == pytest.approx(pruned.loss, rel=1e-3)  # the accumulated loss is that prediction


def test_diag_fisher_is_blocks_of_one(tiny, tiny_batches, solved):
    single = estimate_fisher(tiny, tiny_batches, gradients=40, block_size=1, damp=1e-4)
    a = solved[2]("diag_fisher").at(0.5)
    b = Plan(solved[0], get_method("obert_mask_only"), single).at(0.5)
    assert all((a.masks[n] == b.masks[n]).float().mean() > 0.9999 for n in a.masks)


def test_prune_reports_and_attaches(tiny, tiny_batches):
    report = prune(tiny, "ovit", 0.9, tiny_batches, gradients=16, block_size=64, damp=1e-5)
    total = sum(m.numel() for m in report.masks.values())
    assert report.sparsity == round(0.9 * total) / total == masks.sparsity(tiny)
    assert {l["name"]: l["block_size"] for l in report.layers}["blocks.0.mlp.fc2.weight"] == 48
    assert report.sparsity_model < report.sparsity
    assert report.dense["head.weight"] == "classifier head" and report.dense["patch_embed.proj.weight"] == "embedding"


def test_every_gradient_counts_as_one_and_needs_no_training_mode(tiny, tiny_batches):
    tiny.train()
    assert estimate_fisher(tiny, tiny_batches, gradients=19, block_size=8).count == 19
    assert tiny.training


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(method="ovti"), "unknown method 'ovti'; one of ovit"),
        (dict(sparsity=1.2), r"sparsity must lie in \[0, 1\], not 1.2"),
        (dict(prunable="nothing"), "no weight matches 'nothing'"),
        (dict(loader=None), "needs a loader"),
        (dict(loader=[]), "loader is empty"),
        (dict(gradients=0), "gradients must be at least 1"),
        (dict(allocation="local"), "unknown allocation"),
    ],
)
def test_bad_arguments_are_named_and_change_nothing(tiny, tiny_batches, change, message):
    before = copy.deepcopy(tiny.state_dict())
    with pytest.raises(ValueError, match=message):
        prune(
            tiny,
            **(dict(method="ovit", sparsity=0.5, loader=tiny_batches, gradients=2, block_size=8, damp=1e-3) | change),
        )
    assert all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items())


def test_every_method_is_score_times_update():
    assert {m.update for m in METHODS.values()} == {"joint", "independent", "none"}
    assert not needs_fisher(METHODS["magnitude"]) and needs_fisher(METHODS["magnitude_joint"])
