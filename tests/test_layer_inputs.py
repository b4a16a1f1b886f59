"""Layer-wise statistics are those of what a weight is multiplied with, however it is applied; or an error says so."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import TINY
from torch import nn

from ovit_core import models
from ovit_core.curvature import estimate
from ovit_core.pruning import prune

# Families whose attention hands its weights to F.linear, families of convolutions, and some that call their layers.
FAMILIES = {
    "beit_base_patch16_224": dict(img_size=32, patch_size=16, embed_dim=24, depth=2, num_heads=2),
    "eva02_tiny_patch14_224": dict(img_size=28, embed_dim=24, depth=2, num_heads=2),
    "swinv2_tiny_window8_256": dict(img_size=64, embed_dim=24, depths=(1, 1), num_heads=(2, 2), window_size=4),
    "vit_small_patch16_dinov3": dict(img_size=32, embed_dim=24, depth=2, num_heads=2),
    "convnext_atto": dict(depths=(1, 1, 1, 1), dims=(8, 16, 16, 32)),
    "levit_128s": dict(img_size=64),
    "vit_tiny_patch16_224": TINY,
}


def images(size, batches=3):
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 3, size, size, generator=g), torch.randint(10, (4,), generator=g)) for _ in range(batches)]


def small(name, **changes):
    torch.manual_seed(0)
    args = FAMILIES[name] | changes
    return timm.create_model(name, num_classes=10, **args), images(args.get("img_size", 64))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_prunable_weight_of_a_family_is_seen(name):
    model, loader = small(name)
    weights = models.prunable(model)
    hessian = estimate(model, weights, loader, 3, kind="inputs", block_size=8)
    assert all(hessian.count.values())
    report = prune(model, "wanda", 0.5, loader, gradients=3, block_size=8)
    assert report.sparsity == pytest.approx(0.5, abs=0.01)
    for name, mask in report.masks.items():  # every row gives half of itself, and not its first half
        rows = mask.flatten(1).float()
        assert (rows.mean(1) - 0.5).abs().max() < 0.2, name
        first = rows[:, : rows.shape[1] // 2].mean()
        assert 0.2 < first < 0.8, name


def test_a_weight_given_to_f_linear_has_the_statistics_of_the_called_layer():
    """BEiT's qkv against the same input by hand."""
    model, loader = small("beit_base_patch16_224")
    name, seen = "blocks.0.attn.qkv.weight", []
    handle = model.blocks[0].attn.register_forward_pre_hook(lambda _, x: seen.append(x[0].flatten(0, -2)))
    model.eval()
    for x, _ in loader:
        model(x)
    handle.remove()
    X = torch.cat(seen).double()  # (tokens, 24)
    hessian = estimate(model, models.prunable(model), loader, 3, kind="inputs", block_size=24, dtype=torch.float64)
    mean = X.T @ X / len(X)
    want = torch.linalg.inv(mean + 0.01 * mean.diagonal().mean() * torch.eye(24))
    torch.testing.assert_close(hessian.inverse(name)[0], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Conv2d(3, 4, (2, 3), dilation=(1, 2)), nn.Conv1d(3, 4, 3)]
)
def test_the_inputs_of_a_convolution_are_its_patches(layer):
    x = torch.randn(6, 3, 16) if isinstance(layer, nn.Conv1d) else torch.randn(6, 3, 12, 16)
    model = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(10))
    model(x)
    weights = {"0.weight": layer.weight}
    hessian = estimate(
        model, weights, [(x, torch.randint(10, (6,)))], 1, kind="inputs", block_size=64, dtype=torch.float64
    )
    # The layer is linear in each weight, so the Jacobian of one output channel holds the patches.
    row = layer.weight[0].numel()
    basis = torch.eye(row).reshape(row, *layer.weight.shape[1:])
    kwargs = dict(stride=layer.stride, padding=layer.padding, dilation=layer.dilation)
    patches = (F.conv1d if x.ndim == 3 else F.conv2d)(x, basis, **kwargs).flatten(2).transpose(1, 2).reshape(-1, row)
    mean = (patches.double().T @ patches.double()) / len(patches)
    got = torch.linalg.inv(hessian.inverse("0.weight", damp=1e-6)[0])
    torch.testing.assert_close(got, mean, rtol=1e-3, atol=1e-4)


class Attention(nn.Module):
    """torch's own attention, whose query, key and value share one parameter."""

    def __init__(self):
        super().__init__()
        self.embed, self.attend = nn.Linear(48, 24), nn.MultiheadAttention(24, 2, batch_first=True)
        self.out = nn.Linear(24, 10)

    def forward(self, x):
        z = self.embed(x.reshape(len(x), -1, 48))
        return self.out(self.attend(z, z, z)[0].mean(1))


def test_torchs_own_attention_is_looked_into():
    torch.manual_seed(0)
    model, loader = Attention(), images(16)
    weights = {
        "attend.in_proj_weight": model.attend.in_proj_weight,
        "attend.out_proj.weight": model.attend.out_proj.weight,
    }
    hessian = estimate(model, weights, loader, 3, kind="inputs", block_size=24)
    assert hessian.count == {"attend.in_proj_weight": 3 * 4 * 16, "attend.out_proj.weight": 3 * 4 * 16}
    fast = torch.backends.mha.get_fastpath_enabled()
    report = prune(model, "obc", 0.5, loader, gradients=3, block_size=24, prunable="attend")
    assert report.masks.keys() == weights.keys() and torch.backends.mha.get_fastpath_enabled() == fast


class CrossAttention(Attention):
    """The same weights used on one input, which can be seen, and on two, which cannot."""

    def forward(self, x):
        z = self.embed(x.reshape(len(x), -1, 48))
        return self.out((self.attend(z, z, z)[0] + self.attend(z, z + 1, z + 1)[0]).mean(1))


@pytest.mark.parametrize("method", ["obc", "wanda"])
def test_torchs_own_attention_between_two_inputs_is_refused(method):
    model = CrossAttention()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"attend\.in_proj_weight: layer-wise methods take one weight"):
        prune(model, method, 0.5, images(16), gradients=3, block_size=24, prunable="attend")
    assert all(torch.equal(model.state_dict()[k], before[k]) for k in before)


@pytest.mark.parametrize("wrap", ["compiled", "checkpointed", "parallel"])
def test_wrapped_models_have_the_same_statistics(wrap):
    model, loader = small("vit_tiny_patch16_224")
    plain = estimate(model, models.prunable(model), loader, 3, kind="inputs", block_size=24)
    if wrap == "checkpointed":
        model.set_grad_checkpointing(True)
        other = model
    else:
        other = torch.compile(model, backend="eager") if wrap == "compiled" else nn.DataParallel(model)
    weights = models.prunable(other)
    found = estimate(other, weights, loader, 3, kind="inputs", block_size=24)
    for name, twin in zip(plain.shapes, weights):
        assert torch.equal(plain.squares(name), found.squares(twin))
    estimate(other, weights, loader, 3, block_size=24)  # and its gradients are there


class Experts(nn.Module):
    """Two experts, of which no image reaches the second; the first is called twice in a pass."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(48, 48), nn.Linear(48, 48), nn.Linear(48, 10)

    def forward(self, x):
        z = x.flatten(1)[:, :48]
        return self.out(self.first(self.first(z).relu()))


def test_a_layer_that_is_called_twice_counts_twice_and_one_that_is_not_is_named():
    model, loader = Experts(), images(16)
    weights = {"first.weight": model.first.weight}
    assert estimate(model, weights, loader, 3, kind="inputs", block_size=24).count["first.weight"] == 2 * 3 * 4
    for method in ("wanda", "obc", "ovit"):
        before = {n: p.clone() for n, p in model.named_parameters()}
        with pytest.raises(ValueError, match=r"second\.weight"):
            prune(model, method, 0.5, loader, gradients=3, block_size=24)
        assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_grouped_convolutions_are_refused_by_name():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.LazyLinear(10))
    x = torch.randn(2, 4, 8, 8)
    model(x)
    with pytest.raises(ValueError, match=r"0\.weight: layer-wise methods take convolutions of one group"):
        prune(model, "wanda", 0.5, [(x, torch.tensor([0, 1]))], gradients=1, block_size=4, prunable=r"^0\.weight")
