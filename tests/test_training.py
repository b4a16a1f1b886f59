"""Training that is cut off goes on where it was; what decays, and when; the quick profile's model learns its letters."""

import copy
from typing import get_args

import numpy as np
import pytest
import timm
import torch
from conftest import TINY as MODEL
from conftest import quick

from ovit_core import masks, training
from ovit_core.ablations.transfer.parameters import Transfer
from ovit_core.data.batches import EVAL_BATCH, Batches, InMemoryImages, batches
from ovit_core.data.mixing import Mixed
from ovit_core.study import dense, identity, released
from ovit_core.study.identity import dense_path


def test_training_resumes_at_the_epoch_it_was_cut_off(tiny, tmp_path):
    g = torch.Generator().manual_seed(0)
    split = InMemoryImages(
        torch.randint(0, 256, (64, 3, 32, 32), generator=g, dtype=torch.uint8), torch.randint(10, (64,), generator=g)
    )
    whole, cut = copy.deepcopy(tiny), copy.deepcopy(tiny)
    training.train(whole, batches(split, 16, seed=1), epochs=4, lr=1e-3)

    class Cut(Batches):
        def __iter__(self):
            if self.epoch == 2:
                raise KeyboardInterrupt
            return super().__iter__()

    path = tmp_path / "resume.pt"
    with pytest.raises(KeyboardInterrupt):
        training.train(cut, Cut(split, 16, seed=1), epochs=4, lr=1e-3, checkpoint=path)
    resumed = training.train(copy.deepcopy(tiny), batches(split, 16, seed=1), epochs=4, lr=1e-3, checkpoint=path)
    assert training.epochs_done(path) == 4  # whoever keeps the model removes it
    for a, b in zip(whole.parameters(), resumed.parameters()):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("name", "model_args", "tokens"),
    [
        ("vit_tiny_patch16_224", {}, {"cls_token", "pos_embed"}),
        ("deit_tiny_distilled_patch16_224", {}, {"cls_token", "dist_token", "pos_embed"}),
        ("vit_tiny_patch16_224", {"reg_tokens": 2}, {"cls_token", "reg_token", "pos_embed"}),
        ("swin_tiny_patch4_window7_224", {"window_size": 4}, set()),
    ],
)
def test_weight_decay_is_for_matrices_and_not_for_tokens(monkeypatch, name, model_args, tokens):
    size = {"img_size": 32, "depths": (1, 1)} if name.startswith("swin") else {"img_size": 32, "depth": 1}
    model = timm.create_model(name, num_classes=10, **size, **model_args)
    made, create = [], training.create_optimizer_v2
    monkeypatch.setattr(training, "create_optimizer_v2", lambda *a, **k: made.append(create(*a, **k)) or made[-1])
    training.train(model, [], epochs=0, lr=1e-3, weight_decay=0.07)

    names = {p: n for n, p in model.named_parameters()}
    decay = {names[p]: group["weight_decay"] for group in made[0].param_groups for p in group["params"]}
    assert decay.keys() == set(names.values())
    for n, p in model.named_parameters():
        free = p.ndim == 1 or n in tokens or "relative_position_bias_table" in n  # biases and norms are vectors
        assert decay[n] == (0 if free else 0.07), n
    assert tokens <= {n for n, w in decay.items() if w == 0}


@pytest.mark.parametrize("decay", training.DECAYS)
def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_end(tiny, monkeypatch, decay):
    """100 steps: 10 of warm-up, the peak, then the half-way value of both curves, and `final_lr` at the end."""
    rates, create = [], training.create_optimizer_v2

    def made(*args, **kwargs):
        optimizer = create(*args, **kwargs)
        optimizer.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
        return optimizer

    monkeypatch.setattr(training, "create_optimizer_v2", made)
    loader = [(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))] * 100
    training.train(tiny, loader, epochs=1, lr=1e-3, warmup=0.1, final_lr=1e-5, decay=decay)
    assert len(rates) == 100 and rates.index(max(rates)) == 10
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) == pytest.approx(1e-3) and rates[55] == pytest.approx((1e-3 + 1e-5) / 2)
    assert 1e-5 <= rates[-1] <= 1e-5 + 1e-3 / 90  # at most one step of the line away


def test_mixed_precision_learns_the_same_with_weights_and_masks_in_single_precision(tiny):
    g = torch.Generator().manual_seed(0)
    images, labels = torch.randn(32, 3, 32, 32, generator=g), torch.arange(32) % 10
    weight = tiny.blocks[0].mlp.fc1.weight
    masks.attach(tiny, {"blocks.0.mlp.fc1.weight": torch.rand(weight.shape, generator=g) < 0.5})
    losses = {}
    for amp_dtype in training.AMP_DTYPES:
        model, seen = copy.deepcopy(tiny), {True: set(), False: set()}
        model.blocks[0].mlp.fc1.register_forward_hook(lambda layer, __, out: seen[layer.training].add(out.dtype))
        before = training.evaluate(model, [(images, labels)]).loss.mean()
        training.train(model, [(images, labels)] * 150, epochs=1, lr=1e-3, amp_dtype=amp_dtype)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        (mask,) = masks.of(model).values()
        assert not model.blocks[0].mlp.fc1.weight[~mask].any() and (model.blocks[0].mlp.fc1.weight[mask] != 0).all()
        losses[amp_dtype] = training.evaluate(model, [(images, labels)]).loss.mean()
        assert losses[amp_dtype] < before / 2
        assert seen == {True: {getattr(torch, amp_dtype or "float32")}, False: {torch.float32}}
    assert losses["bfloat16"] == pytest.approx(losses[""], rel=0.02) and losses["bfloat16"] != losses[""]
    assert get_args(Transfer.model_fields["amp_dtype"].annotation) == training.AMP_DTYPES
    with pytest.raises(ValueError, match="amp_dtype='float16'"):
        training.train(tiny, [], epochs=0, lr=1e-3, amp_dtype="float16")


@pytest.mark.slow
def test_the_quick_dense_model_reads_letters_of_unseen_families(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    monkeypatch.setattr(released, "find", lambda *_: None)  # it is trained here
    up = dense.upstream(quick(Transfer), seed=0)
    assert training.evaluate(up.model, batches(up.data.test, 500)).accuracy >= 0.90


SPLIT = InMemoryImages(
    torch.randint(0, 256, (64, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8),
    torch.arange(64) % 4,
)


def mixed(**how):
    return Mixed(batches(SPLIT, 16, seed=1), 4, **dict(mixup=0.0, cutmix=0.0, prob=1.0, smoothing=0.0) | how)


def test_mixed_batches_have_the_labels_of_what_is_mixed():
    plain = list(batches(SPLIT, 16, seed=1))
    for (x, y), (images, labels) in zip(plain, mixed(smoothing=0.2)):
        torch.testing.assert_close(images, x)  # smoothing alone leaves images as they are
        torch.testing.assert_close(labels, torch.nn.functional.one_hot(y, 4) * 0.8 + 0.05)
    for (x, y), (images, labels) in zip(plain, mixed(mixup=0.8)):
        share = ((images - x.flip(0)) / (x - x.flip(0))).nanmedian()  # of the image itself
        hot = torch.nn.functional.one_hot(y, 4)
        torch.testing.assert_close(labels, share * hot + (1 - share) * hot.flip(0), atol=1e-4, rtol=0)
    for (x, y), (images, labels) in zip(plain, mixed(cutmix=1.0)):
        own = (images == x).all(1).float().mean((1, 2))  # pixels that are the image's own
        pairs = y != y.flip(0)  # else both labels are one
        assert pairs.any()
        torch.testing.assert_close(labels[torch.arange(16), y][pairs], own[pairs], atol=1e-3, rtol=0)


def test_mixing_is_repeatable_by_epoch_and_leaves_random_numbers_alone():
    loader = mixed(mixup=0.8, cutmix=1.0, prob=0.5)
    np.random.seed(3)
    expected = np.random.RandomState(3).rand(8)  # as if nothing had been drawn
    found, drawn = [], []
    for _ in range(2):
        for images, _ in loader:
            found.append(images)
            drawn.append(np.random.rand())
    np.testing.assert_array_equal(drawn, expected)
    second = mixed(mixup=0.8, cutmix=1.0, prob=0.5)
    second.epoch += 1  # as training that is taken up sets it
    torch.testing.assert_close(
        torch.stack(list(dict(enumerate(i for i, _ in second)).values())), torch.stack(found[4:])
    )
    assert len(loader) == 4 and loader.epoch == 2
    assert not torch.equal(found[0], found[4])


def test_a_recipe_names_another_dense_model_and_an_older_one_keeps_its_name():
    recipe = ("epochs=3", "lr=1.0e-3", "weight_decay=0.1", "batch_size=32", "augment=[]", "threads=1")
    plain = quick(Transfer, "upstream=digits", "model=vit_tiny_patch16_224", f"model_args={MODEL}", *recipe)
    older = dense_path(plain, 0, "print")
    assert older.name == "dense-digits-717c93050940.safetensors"  # by RECIPE 3
    for more in (dict(mixup=0.8), dict(cutmix=1.0), dict(smoothing=0.1), dict(mixup=0.8, mixup_prob=0.5)):
        names = {dense_path(plain.replace(**more), 0, "print") for more in (more, {})}
        assert len(names) == 2
    assert dense_path(plain.replace(mixup_prob=0.5), 0, "print") == older  # of nothing
    assert dense_path(plain.replace(amp_dtype="bfloat16"), 0, "print") != older


def test_a_dense_models_curve_is_noted_and_goes_on_after_a_cut(tmp_path):
    config = quick(Transfer, "upstream=digits", "epochs=3", f"model_args={MODEL}", "mixup=0.8", "smoothing=0.1")
    data, path = dense.read(config, "digits"), tmp_path / "dense-test.safetensors"
    assert dense.train(config, data, 0, path, at_most=2) is None
    assert list(identity.curve(path)) == [1]  # what two epochs give is told before the third
    model = dense.train(config, data, 0, path)
    curve = identity.curve(path)
    assert list(curve) == [1, 2, 3]
    assert curve[3] == training.evaluate(model, batches(data.val, EVAL_BATCH)).accuracy
