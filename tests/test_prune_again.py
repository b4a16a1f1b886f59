"""What a mask removed stays removed, by every method and pattern; sparse checkpoints without masks; failures."""

import copy

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_layer_inputs import FAMILIES

from ovit_core import masks, models
from ovit_core.pruning import METHODS, prune

OPTIONS = dict(gradients=8, block_size=12)


def damp(method):
    return {} if METHODS[method].curvature == "inputs" else dict(damp=1e-4)


def pairs():
    """Every method with the allocations it can have."""
    return [(m, a) for m in METHODS for a in ("global", "uniform") if a == "uniform" or not METHODS[m].sequential]


def removed_again(model, before):
    """Whether all that was removed before still is, in the masks and in the weights."""
    now = masks.of(model)
    return all((now[n] <= m).all() and not model.get_parameter(n)[~m].any() for n, m in before.items())


def snapshot(model):
    return {name: mask.clone() for name, mask in masks.of(model).items()}


@pytest.mark.parametrize("method, allocation", pairs())
def test_a_second_pruning_adds_to_the_first_exactly(tiny, tiny_batches, method, allocation):
    prune(tiny, "magnitude", 0.5, allocation=allocation)
    before = snapshot(tiny)
    report = prune(tiny, method, 0.8, tiny_batches, allocation=allocation, **OPTIONS, **damp(method))
    assert removed_again(tiny, before)
    total = sum(m.numel() for m in before.values())
    wanted = [round(0.8 * m.numel()) for m in before.values()] if allocation == "uniform" else [round(0.8 * total)]
    assert round(report.sparsity * total) == sum(wanted)


@pytest.mark.parametrize("method", METHODS)
def test_a_pattern_on_top_of_a_mask_keeps_n_of_what_is_left(tiny, tiny_batches, method):
    prune(tiny, "ovit", 0.7, tiny_batches, damp=1e-4, **OPTIONS)
    with torch.no_grad():  # kept weights that are zero by chance must not take the place of removed ones
        for name in masks.of(tiny):
            tiny.get_parameter(name).view(-1)[::7] = 0
    before = snapshot(tiny)
    report = prune(tiny, method, 0.0, tiny_batches, pattern="2:4", **OPTIONS, **damp(method))
    assert removed_again(tiny, before)
    for name, mask in report.masks.items():
        left = before[name].reshape(-1, 4).sum(1)
        assert torch.equal(mask.reshape(-1, 4).sum(1), left.clamp(max=2)), name


@pytest.mark.parametrize("allocation, where", [("global", ""), ("uniform", " of blocks.0.attn.qkv.weight")])
def test_less_than_what_is_gone_is_an_error_before_any_work(tiny, allocation, where):
    prune(tiny, "magnitude", 0.9, allocation="uniform")
    with pytest.raises(ValueError, match=rf"sparsity 0.5 is below the 0.[89]\d*{where} that masks already removed"):
        prune(tiny, "ovit", 0.5, iter(()), allocation=allocation)
    assert masks.sparsity(tiny) == pytest.approx(0.9, abs=1e-3)


def test_recomputations_go_on_from_what_is_gone(tiny, tiny_batches):
    prune(tiny, "magnitude", 0.6)
    before = snapshot(tiny)
    report = prune(tiny, "ovit", 0.8, tiny_batches, recomputations=2, damp=1e-4, **OPTIONS)
    assert removed_again(tiny, before) and report.sparsity == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].needs_curvature])
def test_recomputations_work_for_every_method(tiny, tiny_batches, method):
    prune(tiny, "magnitude", 0.3, allocation="uniform")
    before = snapshot(tiny)
    options = dict(allocation="uniform", recomputations=2) | OPTIONS | damp(method)
    report = prune(tiny, method, 0.8, tiny_batches, **options)
    assert removed_again(tiny, before)
    assert all(layer["sparsity"] == pytest.approx(0.8, abs=1e-3) for layer in report.layers)


@pytest.mark.parametrize("form, whole", [("ovit_mask_only", "ovit"), ("obc_mask_only", "obc")])
def test_a_mask_in_several_steps_is_the_whole_methods_elimination_of_weights_never_moved(
    tiny, tiny_batches, form, whole
):
    """The first ablation in steps: each step eliminates as the whole method does, on its own weights as they are by
    then, the accumulated loss with the update included; only the mask is taken.
    """
    dense, options = copy.deepcopy(tiny), dict(loader=tiny_batches, allocation="uniform") | OPTIONS | damp(form)
    prune(tiny, form, 0.8, recomputations=1, **options)
    by_hand = copy.deepcopy(dense)
    for at in (0.4, 0.8):
        report = prune(copy.deepcopy(by_hand), whole, at, **options)
        masks.attach(by_hand, report.masks)
    for name, mask in masks.of(by_hand).items():
        assert torch.equal(mask, masks.of(tiny)[name]), name
        assert torch.equal(tiny.get_parameter(name), dense.get_parameter(name) * mask)


def test_the_update_is_the_closed_form_for_what_goes_now(tiny, tiny_batches):
    """After a first pruning the joint update moves the kept weights by F_KK^-1 F_KS w_S, S the newly removed."""
    from ovit_core.curvature import estimate

    prune(tiny, "magnitude", 0.4)
    name, options = "blocks.1.mlp.fc1.weight", dict(block_size=12, damp=1e-4, dtype=torch.float64)
    first, before = masks.of(tiny)[name].clone(), tiny.get_parameter(name).detach().double().reshape(-1, 12).clone()
    fisher = estimate(tiny, models.prunable(tiny), tiny_batches, 8, **options)
    report = prune(tiny, "ovit", 0.7, tiny_batches, gradients=8, dtype=torch.float64, block_size=12, damp=1e-4)
    after, mask = tiny.get_parameter(name).detach().double().reshape(-1, 12), report.masks[name].reshape(-1, 12)
    F = torch.linalg.inv(fisher.inverse(name))
    for b in range(0, len(F), 11):
        K, S = mask[b].nonzero().squeeze(1), (~mask[b]).nonzero().squeeze(1)
        want = before[b, K] + torch.linalg.solve(F[b][K][:, K], F[b][K][:, S] @ before[b, S])
        torch.testing.assert_close(after[b, K], want, rtol=1e-4, atol=1e-6)
    assert (report.masks[name] <= first).all()


def test_zeros_without_a_mask_are_told_apart_and_taken_only_when_asked(tiny):
    weights = models.prunable(tiny)
    with torch.no_grad():  # somebody else's sparse checkpoint
        for weight in weights.values():
            weight[torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.3] = 0
    share = masks.zeros(weights)
    assert masks.sparsity(tiny) == 0 and 0.29 < share < 0.31
    other = copy.deepcopy(tiny)
    report = prune(other, "magnitude", 0.1)
    assert report.sparsity == pytest.approx(0.1, abs=1e-4) and report.zeros == pytest.approx(share, abs=1e-4)
    masks.from_zeros(tiny, weights)
    assert masks.sparsity(tiny) == share
    report = prune(tiny, "magnitude", 0.5)
    assert report.sparsity == pytest.approx(0.5, abs=1e-4) == pytest.approx(report.zeros, abs=1e-4)


class Fails:
    """A loader or a loss that fails at its n-th use."""

    def __init__(self, after, error):
        self.left, self.error = after, error

    def __call__(self, model, batch):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("out of memory"), FloatingPointError])
@pytest.mark.parametrize("after", [0, 5, 12, 20])
@pytest.mark.parametrize("pruned_before", [False, True])
def test_whatever_fails_leaves_the_model_as_it_was(tiny, tiny_batches, error, after, pruned_before):
    if pruned_before:
        prune(tiny, "magnitude", 0.2)
    tiny.train()
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    grads = [p.requires_grad for p in tiny.parameters()]
    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        loss = Fails(after, error)
        prune(tiny, "ovit", 0.8, tiny_batches, loss=loss, recomputations=2, damp=1e-4, **OPTIONS)
    after = tiny.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(v, before[k]) for k, v in after.items())
    assert tiny.training and grads == [p.requires_grad for p in tiny.parameters()]


@pytest.mark.parametrize("method", ["magnitude", "ovit"])
def test_weights_that_are_not_finite_are_named(tiny, tiny_batches, method):
    with torch.no_grad():
        tiny.blocks[1].mlp.fc1.weight[3, 3] = float("nan")
    with pytest.raises(FloatingPointError, match=r"not finite cannot be ranked: blocks\.1\.mlp\.fc1\.weight"):
        prune(tiny, method, 0.5, tiny_batches, **OPTIONS)


def test_a_lambda_too_small_leaves_the_model_as_it_was(tiny, tiny_batches):
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    with pytest.raises(torch.linalg.LinAlgError, match="not positive definite"):
        prune(tiny, "ovit", 0.5, tiny_batches, damp=1e-30, dtype=torch.float32, **OPTIONS)
    assert all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items())


PRUNING = st.tuples(
    st.sampled_from(sorted({method for method, allocation in pairs() if allocation == "global"})),
    st.floats(0, 1),
    st.sampled_from(["unstructured", "2:4"]),
    st.sampled_from([None, torch.float32, torch.float64]),
)
STEPS = st.lists(st.one_of(PRUNING, st.sampled_from(["train", "copy", "save", "cast"])), min_size=2, max_size=5)
NAMES = ["vit_tiny_patch16_224", "beit_base_patch16_224", "swinv2_tiny_window8_256", "convnext_atto"]


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(NAMES), steps=STEPS, seed=st.integers(0, 99))
def test_over_any_history_zeros_never_come_back_and_the_report_is_true(name, steps, seed, tmp_path_factory):
    torch.manual_seed(seed)
    size, folder = FAMILIES[name].get("img_size", 32), tmp_path_factory.mktemp("history")
    fresh = lambda: timm.create_model(name, num_classes=10, **FAMILIES[name])
    model, before = fresh(), {}
    batches = [(torch.randn(4, 3, size, size), torch.randint(10, (4,))) for _ in range(2)]
    total = sum(w.numel() for w in models.prunable(model).values())
    for step in steps:
        if step == "train":
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
            masks.hold(model, optimizer)
            for x, y in batches:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
        elif step == "copy":
            model = copy.deepcopy(model)
        elif step == "save":
            masks.save(model, folder / "model.safetensors")
            model = masks.load(fresh(), folder / "model.safetensors")
        elif step == "cast":
            model = model.bfloat16().float()
        else:
            method, sparsity, pattern, dtype = step
            gone = masks.sparsity(model)
            options = dict(gradients=2, block_size=8, pattern=pattern, dtype=dtype)
            options |= {} if METHODS[method].curvature == "inputs" else dict(damp=1e-2)
            if pattern == "unstructured" and round(sparsity * total) < round(gone * total):
                with pytest.raises(ValueError, match="that masks already removed"):
                    prune(model, method, sparsity, batches, **options)
            else:
                report = prune(model, method, sparsity, batches, **options)
                assert report.sparsity == masks.sparsity(model) <= report.zeros
                if pattern == "unstructured":
                    assert round(report.sparsity * total) == round(sparsity * total)
        assert removed_again(model, before)
        before = snapshot(model)


@pytest.mark.parametrize("method", ["ovit", "obc"])
def test_curvature_does_not_see_what_came_back_without_hold(tiny, tiny_batches, method):
    prune(tiny, "magnitude", 0.5)
    clean = copy.deepcopy(tiny)
    with torch.no_grad():
        for name, mask in masks.of(tiny).items():
            tiny.get_parameter(name).add_(0.05 * torch.randn(mask.shape) * ~mask)
    for model in (tiny, clean):
        prune(model, method, 0.8, tiny_batches, **OPTIONS, **damp(method))
    for name, mask in masks.of(clean).items():
        assert torch.equal(mask, masks.of(tiny)[name]), name
        torch.testing.assert_close(tiny.get_parameter(name), clean.get_parameter(name), rtol=0, atol=0)


def test_the_report_is_of_what_was_pruned_and_not_of_other_masks(tiny):
    prune(tiny, "magnitude", 0.9, prunable="fc1")
    report = prune(tiny, "magnitude", 0.5, prunable="fc2")
    assert report.sparsity == report.zeros == 0.5 and masks.sparsity(tiny) == pytest.approx(0.7, abs=1e-4)


def test_uniform_recomputations_go_on_from_the_layer_that_lost_most(tiny, tiny_batches):
    with torch.no_grad():
        tiny.get_parameter("blocks.0.mlp.fc1.weight").mul_(0.3)
    prune(tiny, "magnitude", 0.5)  # one threshold: that layer loses far more than half
    before = snapshot(tiny)
    report = prune(tiny, "ovit", 0.97, tiny_batches, allocation="uniform", recomputations=4, damp=1e-4, **OPTIONS)
    assert removed_again(tiny, before)
    assert all(layer["sparsity"] == pytest.approx(0.97, abs=1e-3) for layer in report.layers)


def test_magnitude_leaves_the_kept_weights_of_a_float64_model_as_they_were(tiny):
    tiny.double()
    before = {name: p.clone() for name, p in models.prunable(tiny).items()}
    report = prune(tiny, "magnitude", 0.5)
    for name, mask in report.masks.items():
        assert torch.equal(tiny.get_parameter(name), before[name] * mask)
