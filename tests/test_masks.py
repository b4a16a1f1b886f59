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


def test_a_mask_is_the_models_own(pruned):
    """One tensor for two weights, or for two models, must not tie them together."""
    same = torch.rand(24, 24) > 0.5
    names = [f"blocks.{i}.attn.proj.weight" for i in (0, 1)]
    masks.attach(pruned, dict.fromkeys(names, same))
    assert not any(pruned.get_parameter(n)[~same].any() for n in names) and set(names) <= set(masks.of(pruned))
    other = masks.attach(timm.create_model("vit_tiny_patch16_224", num_classes=10, **TINY), masks.of(pruned))
    for mask in masks.of(other).values():
        mask.fill_(True)
    assert not any(mask.all() for mask in masks.of(pruned).values())


def test_masks_made_in_inference_mode_can_be_loaded_into(tiny):
    with torch.inference_mode():
        prune(tiny, "magnitude", 0.5)
    tiny.load_state_dict(copy.deepcopy(tiny.state_dict()))
    assert masks.sparsity(tiny) == 0.5


def test_an_optimizer_of_the_head_alone_keeps_its_state(pruned, tiny_batches):
    optimizer = torch.optim.AdamW(pruned.head.parameters(), lr=1e-2)
    masks.hold(pruned, optimizer)
    pruned(tiny_batches[0][0]).sum().backward()
    optimizer.step()
    assert set(optimizer.state_dict()["state"]) == {0, 1} and masks.sparsity(pruned) == 0.75


def test_a_file_that_does_not_fit_leaves_the_model_as_it_was(pruned, tmp_path):
    masks.save(timm.create_model("vit_tiny_patch16_224", num_classes=7, **TINY), tmp_path / "other.safetensors")
    before = copy.deepcopy(pruned.state_dict())
    with pytest.raises(RuntimeError, match=r"head\.weight"):
        masks.load(pruned, tmp_path / "other.safetensors")
    after = pruned.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)


def test_an_optimizer_of_another_copy_is_refused(pruned):
    """Made before the model was copied: it would train the copy's twin, and nothing would hold."""
    optimizer = torch.optim.SGD(copy.deepcopy(pruned).parameters(), lr=0.1)
    with pytest.raises(ValueError, match="trains no parameter of this model: make it of"):
        masks.hold(pruned, optimizer)
