"""Masks in other people's training loops: wrappers, mixed precision, accumulation, copies, processes, hand-over."""

import copy
import multiprocessing

import pytest
import timm
import torch
from conftest import TINY
from timm.utils import ModelEmaV3

from ovit_core import masks
from ovit_core.pruning import prune


@pytest.fixture
def pruned(tiny):
    prune(tiny, "magnitude", 0.75)
    return tiny


def steps(model, batches, optimizer=None, scaler=None, accumulate=1):
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    masks.hold(model, optimizer)
    for i, (x, y) in enumerate(batches):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        (scaler.scale(loss) if scaler else loss).backward()
        if (i + 1) % accumulate == 0:
            scaler.step(optimizer) if scaler else optimizer.step()
            if scaler:
                scaler.update()
            optimizer.zero_grad()


def holds(model, before):
    return masks.sparsity(model) == 0.75 and all(
        torch.equal(m, before[masks.bare(n)]) for n, m in masks.of(model).items()
    )


@pytest.fixture
def before(pruned):
    return {n: m.clone() for n, m in masks.of(pruned).items()}


@pytest.fixture
def alone():
    """A process group of one."""
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("wrap", ["compiled", "parallel", "distributed", "both"])
def test_wrapped_models(pruned, before, tiny_batches, tmp_path, wrap, alone):
    model = pruned
    if wrap != "compiled":
        parallel = torch.nn.parallel.DistributedDataParallel if wrap == "distributed" else torch.nn.DataParallel
        model = parallel(pruned)
    model = torch.compile(model, backend="eager") if wrap in ("compiled", "both") else model
    steps(model, tiny_batches)
    assert holds(model, before) and holds(pruned, before)
    masks.save(model, tmp_path / "wrapped.safetensors")
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=10, **TINY)
    assert holds(masks.load(plain, tmp_path / "wrapped.safetensors"), before)
    masks.save(plain, tmp_path / "plain.safetensors")
    assert holds(masks.load(model, tmp_path / "plain.safetensors"), before)


def test_pruned_after_wrapping(tiny, tiny_batches):
    model = torch.compile(torch.nn.DataParallel(tiny), backend="eager")
    report = prune(model, "ovit", 0.75, tiny_batches, gradients=4, block_size=12, damp=1e-4)
    assert masks.sparsity(tiny) == 0.75 and all(n.startswith("_orig_mod.module.blocks") for n in report.masks)


def test_gradient_scaling_that_skips_steps(pruned, before, tiny_batches):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    bad = [(tiny_batches[0][0] * 1e30, tiny_batches[0][1])]  # infinite gradients: the step is skipped
    steps(pruned, [*tiny_batches[:2], *bad, *tiny_batches[2:]], scaler=scaler)
    assert holds(pruned, before) and all(torch.isfinite(p).all() for p in pruned.parameters())


def test_a_gradient_that_is_not_finite_does_not_bring_weights_back(pruned):
    optimizer = torch.optim.SGD(pruned.parameters(), lr=1e-2, momentum=0.9)
    masks.hold(pruned, optimizer)
    for parameter in pruned.parameters():
        parameter.grad = torch.full_like(parameter, float("inf"))
    optimizer.step()
    for name, mask in masks.of(pruned).items():
        assert (pruned.get_parameter(name)[~mask] == 0).all()


def test_accumulation_and_groups_added_later(pruned, before, tiny_batches):
    optimizer = torch.optim.AdamW(pruned.head.parameters(), lr=1e-2)
    masks.hold(pruned, optimizer)
    optimizer.add_param_group(dict(params=pruned.blocks.parameters(), weight_decay=0.3))
    steps(pruned, tiny_batches, optimizer, accumulate=2)
    assert holds(pruned, before)


def test_masks_attached_after_the_optimizer_is_held(tiny, tiny_batches):
    optimizer = torch.optim.AdamW(tiny.parameters(), lr=1e-2)
    masks.hold(tiny, optimizer)
    prune(tiny, "magnitude", 0.75)
    for x, y in tiny_batches:
        torch.nn.functional.cross_entropy(tiny(x), y).backward()
        optimizer.step()
    assert masks.sparsity(tiny) == 0.75


def test_an_average_of_a_pruned_model_is_pruned(pruned, before, tiny_batches):
    average = ModelEmaV3(pruned, decay=0.5)
    steps(pruned, tiny_batches)
    average.update(pruned)
    assert holds(average.module, before)


def test_an_average_made_before_pruning_is_refused_until_it_has_masks(tiny, tiny_batches):
    average = ModelEmaV3(tiny, decay=0.5)
    prune(tiny, "magnitude", 0.75)
    with pytest.raises(RuntimeError, match="must match the size"):  # timm goes through both models' tensors in turn
        average.update(tiny)
    masks.attach(average.module, masks.of(tiny))
    average.update(tiny)
    assert masks.sparsity(average.module) == 0.75


def test_copies_casts_and_whole_modules(pruned, before, tmp_path):
    torch.save(pruned, tmp_path / "whole.pt")
    for model in (
        copy.deepcopy(pruned), copy.deepcopy(pruned).half(), copy.deepcopy(pruned).bfloat16().float(),
        torch.load(tmp_path / "whole.pt", weights_only=False),
    ):  # fmt: skip
        assert holds(model, before)


def test_a_state_dict_goes_round(pruned, before):
    other = timm.create_model("vit_tiny_patch16_224", num_classes=10, **TINY)
    with pytest.raises(RuntimeError, match="weight_mask"):  # torch says so: a dense model has no place for masks
        other.load_state_dict(pruned.state_dict())
    masks.attach(other, {n: torch.ones_like(m) for n, m in before.items()})
    other.load_state_dict(pruned.state_dict())
    assert holds(other, before)


def sparsity_there(model, queue):
    queue.put(masks.sparsity(model))


@pytest.mark.notebook
def test_in_another_process(pruned):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=sparsity_there, args=(pruned, queue))
    process.start()
    assert queue.get(timeout=120) == 0.75
    process.join()


def test_tied_weights(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x).relu())

    model, data = Tied(), [(torch.randn(4, 8), torch.randint(8, (4,))) for _ in range(4)]
    prune(model, "ovit", 0.5, data, gradients=4, block_size=8, damp=1e-3)
    steps(model, data)
    assert masks.sparsity(model) == 0.5 and model.a.weight is model.b.weight
    masks.save(model, tmp_path / "tied.safetensors")
    other = masks.load(Tied(), tmp_path / "tied.safetensors")
    assert masks.sparsity(other) == 0.5 and torch.equal(other.b.weight, model.b.weight)


def test_weights_that_are_not_called_weight(tmp_path):
    model = torch.nn.MultiheadAttention(24, 2, batch_first=True)
    data = [torch.randn(4, 5, 24) for _ in range(3)]
    loss = lambda m, x: m(x, x, x)[0].square().mean()
    report = prune(model, "ovit", 0.5, data, loss=loss, gradients=3, block_size=12, damp=1e-4)
    assert set(report.masks) == {"in_proj_weight", "out_proj.weight"} and masks.sparsity(model) == 0.5
    masks.save(model, tmp_path / "a.safetensors")
    other = masks.load(torch.nn.MultiheadAttention(24, 2, batch_first=True), tmp_path / "a.safetensors")
    assert torch.equal(other.in_proj_weight, model.in_proj_weight) and masks.sparsity(other) == 0.5


def test_a_loop_that_lets_weights_come_back_is_found_out(pruned, tiny_batches):
    optimizer = torch.optim.AdamW(pruned.parameters(), lr=1e-2)
    x, y = tiny_batches[0]
    torch.nn.functional.cross_entropy(pruned(x), y).backward()
    optimizer.step()
    with pytest.raises(
        RuntimeError,
        match=r"removed weights of blocks\.0\.attn\.qkv\.weight are no longer zero: train with masks\.hold",
    ):
        masks.sparsity(pruned)


def test_handing_a_model_on(pruned):
    zeros = {n: pruned.get_parameter(n) == 0 for n in masks.of(pruned)}
    masks.detach(pruned)
    assert not masks.of(pruned) and not [k for k in pruned.state_dict() if k.endswith("_mask")]
    assert all(torch.equal(pruned.get_parameter(n) == 0, z) for n, z in zeros.items())
    timm.create_model("vit_tiny_patch16_224", num_classes=10, **TINY).load_state_dict(pruned.state_dict())
