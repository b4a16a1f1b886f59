"""Batches, labels, models and surroundings of every kind: the right curvature, or one error before or at the first batch."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F

from ovit_core import models
from ovit_core.curvature import cross_entropy, default_loss, estimate, output_sketch
from ovit_core.pruning import prune

OPTIONS = dict(gradients=8, block_size=12, damp=1e-4)


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_a_loss_of_ones_own_takes_any_batch(tiny, tiny_batches):
    dicts = [dict(pixels=x, meta=dict(label=y)) for x, y in tiny_batches]
    loss = lambda model, batch: F.cross_entropy(model(batch["pixels"]), batch["meta"]["label"])
    a, b = copy.deepcopy(tiny), copy.deepcopy(tiny)
    prune(a, "ovit", 0.5, tiny_batches, **OPTIONS)
    prune(b, "ovit", 0.5, dicts, loss=loss, **OPTIONS)
    assert same(a, b)
    singles = estimate(tiny, models.prunable(tiny), dicts, 12, loss=loss, per_sample=True, block_size=12)
    plain = estimate(tiny, models.prunable(tiny), tiny_batches, 12, per_sample=True, block_size=12)
    assert torch.equal(singles.diagonal("blocks.0.mlp.fc1.weight"), plain.diagonal("blocks.0.mlp.fc1.weight"))


def test_soft_labels_of_one_class_are_hard_labels(tiny, tiny_batches):
    soft = [(x, F.one_hot(y, 10).float()) for x, y in tiny_batches]
    found = [estimate(tiny, models.prunable(tiny), loader, 8, block_size=12) for loader in (tiny_batches, soft)]
    a, b = (fisher.diagonal("blocks.0.attn.qkv.weight") for fisher in found)
    torch.testing.assert_close(a, b)


def test_distillation_from_a_teacher(tiny, tiny_batches):
    teacher = copy.deepcopy(tiny).eval()
    loss = lambda model, batch: F.kl_div(
        model(batch[0]).log_softmax(1), (teacher(batch[0]) * 2).softmax(1), reduction="batchmean"
    )
    prune(tiny, "ovit", 0.5, tiny_batches, loss=loss, **OPTIONS)


@pytest.fixture
def headless():
    torch.manual_seed(0)
    args = dict(img_size=28, embed_dim=24, depth=2, num_heads=2)
    return timm.create_model("vit_small_patch14_dinov2", num_classes=0, **args)


@pytest.mark.parametrize("method", ["ovit", "wanda"])
def test_a_model_without_a_head_needs_no_labels(headless, method):
    images = [torch.randn(4, 3, 28, 28) for _ in range(3)]
    damp = dict(damp=0.01) if method == "wanda" else dict(damp=1e-4)
    report = prune(headless, method, 0.5, images, gradients=6, block_size=12, **damp)
    assert default_loss(headless) is default_loss(torch.nn.DataParallel(headless)) is output_sketch
    assert report.sparsity == pytest.approx(0.5, abs=1e-4)


def test_the_sketch_is_the_gauss_newton_matrix():
    """Its gradients' second moment against mean_i J_i^T J_i by hand, for a linear map: mean of x x^T for every row."""
    torch.manual_seed(0)
    model, x = torch.nn.Linear(6, 3, bias=False).double(), torch.randn(8, 6, dtype=torch.float64)
    weights = {"weight": model.weight}
    fisher = estimate(model, weights, [x], 6000, loss=output_sketch, block_size=6, damp=1e-9, dtype=torch.float64)
    got, want = torch.linalg.inv(fisher.inverse("weight")), x.T @ x / len(x)
    for row in got:
        torch.testing.assert_close(row, want, rtol=0.15, atol=0.1)


def test_a_headless_models_cross_entropy_is_never_taken_unasked(headless):
    """Pruned by a cross-entropy over its features, it would be pruned by nonsense."""
    labelled = [(torch.randn(4, 3, 28, 28), torch.randint(24, (4,)))]
    a, b = copy.deepcopy(headless), copy.deepcopy(headless)
    torch.manual_seed(1)
    prune(a, "ovit", 0.5, labelled, **OPTIONS)
    prune(b, "ovit", 0.5, labelled, loss=cross_entropy, **OPTIONS)
    assert not same(a, b)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda x, y: dict(x=x, y=y), TypeError, r"takes batches of \(images, labels\), not dict; give loss="),
        (lambda x, y: (x, y, y), TypeError, r"takes batches of \(images, labels\)"),
        (lambda x, y: (x, y + 5), ValueError, "labels reach from .* but the model knows 10 classes"),
        (lambda x, y: (x, -1 - y), ValueError, "labels reach from -"),
        (lambda x, y: (x * float("nan"), y), FloatingPointError, "the loss of batch 0 is nan: images"),
        (lambda x, y: (x * float("inf"), y), FloatingPointError, "the loss of batch 0 is nan: images"),
    ],
)
def test_batches_that_do_not_fit_are_one_error_at_the_first(tiny, tiny_batches, change, error, message):
    before = copy.deepcopy(tiny)
    with pytest.raises(error, match=message):
        prune(tiny, "ovit", 0.5, [change(x, y) for x, y in tiny_batches], **OPTIONS)
    assert same(tiny, before)


def test_several_outputs_say_what_to_do(tiny, tiny_batches):
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny

        def forward(self, x):
            return self.inner(x), self.inner(x)

    with pytest.raises(TypeError, match=r"models that return \(b, classes\); give loss="):
        prune(Two(), "ovit", 0.5, tiny_batches, **OPTIONS)


@pytest.mark.parametrize("surrounding", [torch.no_grad, torch.inference_mode])
def test_no_grad_around_it_does_not_matter(tiny, tiny_batches, surrounding):
    a, b = copy.deepcopy(tiny), copy.deepcopy(tiny)
    prune(a, "ovit", 0.5, tiny_batches, **OPTIONS)
    with surrounding():
        prune(b, "ovit", 0.5, tiny_batches, **OPTIONS)
    assert same(a, b)


def test_a_frozen_model_is_pruned_and_stays_frozen(tiny, tiny_batches):
    other = copy.deepcopy(tiny).requires_grad_(False)
    prune(tiny, "ovit", 0.5, tiny_batches, **OPTIONS)
    prune(other, "ovit", 0.5, tiny_batches, **OPTIONS)
    assert same(tiny, other) and not any(p.requires_grad for p in other.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", ["ovit", "obert", "magnitude", "wanda"])
def test_weights_of_other_precision(tiny, tiny_batches, dtype, method):
    tiny.to(dtype)
    damp = dict(damp=0.01) if method == "wanda" else dict(damp=1e-3)
    report = prune(tiny, method, 0.5, tiny_batches, gradients=8, block_size=12, **damp)
    assert {p.dtype for p in tiny.parameters()} == {dtype} and report.sparsity == pytest.approx(0.5, abs=1e-4)


def test_parts_that_are_frozen_in_eval_mode_stay_so(tiny, tiny_batches):
    tiny.train()
    tiny.blocks[0].eval()
    modes = [module.training for module in tiny.modules()]
    prune(tiny, "ovit", 0.5, tiny_batches, gradients=2, block_size=12, damp=1e-4)
    assert [module.training for module in tiny.modules()] == modes


@pytest.mark.parametrize("method", ["ovit", "obc"])
@pytest.mark.parametrize(
    "loss, error, message",
    [
        (
            lambda model, batch: model(batch[0]).mean(1),
            ValueError,
            "one number, not a tensor of shape .*: take its mean",
        ),
        (lambda model, batch: model(batch[0]).sum().item(), TypeError, "a tensor of one number, not float"),
    ],
)
def test_a_loss_that_is_not_one_number_is_named(tiny, tiny_batches, method, loss, error, message):
    before = copy.deepcopy(tiny)
    with pytest.raises(error, match=message):
        prune(tiny, method, 0.5, tiny_batches, loss=loss, allocation="uniform", **OPTIONS)
    assert same(tiny, before)


def test_a_loss_without_a_gradient_is_named(tiny, tiny_batches):
    with pytest.raises(ValueError, match="no gradient: it is detached"):
        prune(tiny, "ovit", 0.5, tiny_batches, loss=lambda model, batch: model(batch[0]).sum().detach(), **OPTIONS)


def test_a_fisher_that_is_nothing_beside_damp_is_said_to_rank_by_size(tiny, tiny_batches, caplog):
    """A student compared with itself: the mistake that `output_sketch` is there to avoid."""
    plain, itself = copy.deepcopy(tiny), lambda model, batch: F.mse_loss(model(batch[0]), model(batch[0]).detach())
    prune(tiny, "ovit", loader=tiny_batches, loss=itself, pattern="2:4", **OPTIONS)
    assert "gradients are nothing beside damp=0.0001" in caplog.text
    prune(plain, "magnitude", pattern="2:4")
    assert same(tiny, plain)


def test_a_fisher_beside_damp_says_nothing(tiny, tiny_batches, caplog):
    prune(tiny, "ovit", 0.5, tiny_batches, **OPTIONS)
    assert "nothing beside" not in caplog.text
