"""Masks through optimizer steps, copies and checkpoints."""

import copy

import pytest
import timm
import torch
from conftest import TINY

from ovit_core import masks, models, training
from ovit_core.pruning import prune


@pytest.fixture
def pruned(tiny):
    prune(tiny, "magnitude", 0.75)
    return tiny


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_zeros_stay_through_momentum_and_weight_decay(pruned, tiny_batches, optimizer):
    kept = {n: m.clone() for n, m in masks.of(pruned).items()}
    before = {n: p.clone() for n, p in models.prunable(pruned).items()}
    training.train(pruned, tiny_batches, epochs=3, lr=1e-2, weight_decay=0.1, optimizer=optimizer)
    for name, weight in models.prunable(pruned).items():
        assert torch.equal(weight == 0, ~kept[name]), name
        assert not torch.equal(weight, before[name])
    assert masks.sparsity(pruned) == 0.75


def test_optimizer_moments_are_masked_too(pruned, tiny_batches):
    optimizer = torch.optim.AdamW(pruned.parameters(), lr=1e-2)
    masks.hold(pruned, optimizer)
    images, labels = tiny_batches[0]
    for _ in range(2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(pruned(images), labels).backward()
        optimizer.step()
    for name, mask in masks.of(pruned).items():
        for key in ("exp_avg", "exp_avg_sq"):
            assert (optimizer.state[pruned.get_parameter(name)][key][~mask] == 0).all()


def test_masks_follow_copies_and_checkpoints(pruned, tmp_path):
    wanted = {n: m.clone() for n, m in masks.of(pruned).items()}
    twin = copy.deepcopy(pruned)
    masks.save(pruned, tmp_path / "pruned.safetensors")
    fresh = timm.create_model("vit_tiny_patch16_224", num_classes=10, **TINY)
    masks.load(fresh, tmp_path / "pruned.safetensors")
    for model in (twin, fresh):
        assert masks.of(model).keys() == wanted.keys()
        assert all(torch.equal(m, wanted[n]) for n, m in masks.of(model).items())
        for a, b in zip(model.parameters(), pruned.parameters(), strict=True):
            assert torch.equal(a, b)


def test_masks_are_not_inferred_from_zeros(pruned, tiny_batches, tmp_path):
    """A kept weight that happens to be zero stays kept through a checkpoint, and can move again."""
    name, mask = next(iter(masks.of(pruned).items()))
    row, column = mask.nonzero()[0].tolist()
    with torch.no_grad():
        pruned.get_parameter(name)[row, column] = 0
    masks.save(pruned, tmp_path / "zero.safetensors")
    loaded = masks.load(copy.deepcopy(pruned), tmp_path / "zero.safetensors")
    assert masks.of(loaded)[name][row, column]
    training.train(loaded, tiny_batches, epochs=1, lr=1e-2)
    assert loaded.get_parameter(name)[row, column] != 0


def test_a_mask_of_no_parameter_is_named(tiny):
    for model in (tiny, torch.compile(tiny, backend="eager")):
        with pytest.raises(AttributeError, match=r"the model has no parameter blocks\.9\.weight"):
            masks.attach(model, {"blocks.9.weight": torch.ones(3, 3, dtype=torch.bool)})


def test_a_mask_of_the_wrong_shape_is_named(tiny):
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.qkv\.weight has shape"):
        masks.attach(tiny, {"blocks.0.attn.qkv.weight": torch.ones(3, 3, dtype=torch.bool)})
