"""Methods and the global threshold: exact sparsity, whole prefixes, and what each method must have in common."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from conftest import WEIGHTS, random_batches, tiny_model

from ovit_core import masks, models
from ovit_core.curvature import estimate
from ovit_core.methods import METHODS, get_method
from ovit_core.pattern import Pattern
from ovit_core.plan import count_removed, solve
from ovit_core.pruning import prune

AT_ONCE = [name for name, method in METHODS.items() if not method.sequential]  # solved once for all sparsities


@pytest.fixture(scope="module")
def solved():
    """Weights and Fisher of the tiny model, and a function that solves a method for them."""
    model, loader = tiny_model(), random_batches()
    weights = models.prunable(model)
    fisher = estimate(model, weights, loader, 40, block_size=12, damp=1e-4)
    inputs = estimate(model, weights, loader, 8, kind="inputs", block_size=12)

    @cache
    def solve_method(name, pattern="unstructured"):
        curvature = inputs if get_method(name).curvature == "inputs" else fisher
        return solve(weights, get_method(name), curvature, pattern=Pattern.parse(pattern), seed=3)

    return weights, fisher, solve_method


@pytest.mark.parametrize("method", AT_ONCE)
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
        ("diag_fisher", "diagonal_joint"),
        ("obc", "obc_mask_only"),
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
    weights, fisher, solve_method = solved

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
        ("diagonal_joint", "diag_fisher"),
        ("obert_joint", "obert", "obert_mask_only"),
    ):
        values = [quadratic(solve_method(m).at(0.6)) for m in family]
        assert values[0] == min(values) and values[0] < values[1]
    pruned = solve_method("ovit").at(0.6)
    assert quadratic(pruned) == pytest.approx(pruned.loss, rel=1e-3)  # the accumulated loss is that prediction


def test_diag_fisher_is_blocks_of_one(tiny, tiny_batches, solved):
    single = estimate(tiny, models.prunable(tiny), tiny_batches, 40, block_size=1, damp=1e-4)
    a = solved[2]("diag_fisher").at(0.5)
    b = solve(solved[0], get_method("obert_mask_only"), single).at(0.5)
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
    assert estimate(tiny, models.prunable(tiny), tiny_batches, 19, block_size=8).count == 19
    assert tiny.training


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(method="ovti"), "unknown method 'ovti' \\(did you mean 'ovit'\\?\\); one of ovit"),
        (dict(sparsity=1.2), r"sparsity must lie in \[0, 1\], not 1.2"),
        (dict(prunable="nothing"), "no weight matches 'nothing'"),
        (dict(loader=None), "needs a loader"),
        (dict(loader=[]), "loader is empty"),
        (
            dict(loader=iter([(torch.randn(2, 3, 32, 32), torch.zeros(2).long())])),
            "only once: it gave 1 of . gradients",
        ),
        (dict(gradients=0), "gradients must be at least 1"),
        (dict(gradients=2.5), "gradients an integer"),
        (dict(dtype=torch.float16), "dtype must be float32 or float64"),
        (dict(backend="abacus"), "unknown backend 'abacus'"),
        (dict(damp=0.0), "damp must be positive"),
        (dict(prunable="("), r"'\(' is no regular expression"),
        (dict(allocation="local"), "unknown allocation"),
        (dict(pattern="4:2"), 'pattern must be "unstructured" or "N:M"'),
        (dict(pattern="1:5"), "no block size of at most 8 that is a multiple of 5"),
        (dict(recomputations=1, pattern="2:4"), "recomputations must be 0 with an N:M pattern"),
        (dict(memory=1e-6), "memory=1e-06 GB is too little: blocks.0.attn.qkv.weight alone needs"),
        (dict(block_size=0), "block_size must be at least 1, not 0"),
        (dict(recomputations=-1), "recomputations must be at least 0, not -1"),
    ],
)
def test_bad_arguments_are_named_and_change_nothing(tiny, tiny_batches, change, message, error=ValueError):
    before = copy.deepcopy(tiny.state_dict())
    with pytest.raises(error, match=message):
        prune(
            tiny,
            **(dict(method="ovit", sparsity=0.5, loader=tiny_batches, gradients=2, block_size=8, damp=1e-3) | change),
        )
    assert all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items())


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(sparsity="0.9"), "sparsity must be a number, not '0.9'"),
        (dict(sparsity=None), "sparsity must be a number, not None"),
        (dict(sparsity=True), "sparsity must be a number, not True"),
        (dict(sparsity=np.bool_(True)), "sparsity must be a number, not .*True"),
        (dict(sparsity=torch.tensor(True)), r"sparsity must be a number, not tensor\(True\)"),
        (dict(sparsity=np.str_("0.5")), "sparsity must be a number, not .*0.5"),
        (dict(damp="1e-7"), "damp must be a number, not '1e-7'"),  # as YAML reads 1e-7
        (dict(memory="8"), "memory must be a number, not '8'"),
        (dict(block_size=16.5), "block_size must be an integer, not 16.5"),
        (dict(seed=1.5), "seed must be an integer, not 1.5"),
        (dict(recomputations="1"), "recomputations must be an integer, not '1'"),
        (dict(method=METHODS["ovit"]), "method must be text, not Method"),
        (dict(pattern=(2, 4)), r"pattern must be text, not \(2, 4\)"),
        (dict(per_sample="no"), "per_sample must be True or False, not 'no'"),
        (dict(loss="cross_entropy"), "loss must be a function, not 'cross_entropy'"),
    ],
)
def test_arguments_of_another_kind_are_named_before_any_work(tiny, tiny_batches, change, message):
    test_bad_arguments_are_named_and_change_nothing(tiny, tiny_batches, change, message, TypeError)


def test_numbers_of_numpy_and_torch_are_numbers(tiny, tiny_batches):
    options = dict(sparsity=np.float32(0.5), block_size=np.int64(8), damp=torch.tensor(1e-3))
    assert prune(tiny, "ovit", loader=tiny_batches, gradients=2, **options).sparsity == pytest.approx(0.5, abs=1e-3)


def test_every_method_is_score_times_update():
    assert {m.update for m in METHODS.values()} == {"joint", "independent", "none"}
    assert not METHODS["magnitude"].needs_curvature and METHODS["magnitude_joint"].needs_curvature
    fisher = {(m.score, m.update) for m in METHODS.values() if m.curvature == "fisher"}
    scores = ("magnitude", "diagonal", "static", "greedy_frozen", "greedy")
    assert fisher >= {(score, update) for score in scores for update in ("none", "joint")}
    assert {name for name, m in METHODS.items() if not m.needs_damp} == {"magnitude", "random", "wanda"}


@pytest.mark.parametrize("method", AT_ONCE)
@pytest.mark.parametrize("pattern", ["2:4", "1:4", "2:6"])
def test_patterns_keep_exactly_n_of_every_m_inputs(solved, method, pattern):
    N, M = map(int, pattern.split(":"))
    for mask in solved[2](method, pattern).at().masks.values():
        assert (mask.view(-1, M).sum(1) == N).all()


def test_pattern_joint_update_is_the_closed_form(solved):
    """Every kept weight of `ovit` at 2:4 is moved by F_KK^-1 F_KS w_S."""
    weights, fisher, solve_method = solved
    pruned, name = solve_method("ovit", "2:4").at(), "blocks.0.mlp.fc1.weight"
    w, got = weights[name].detach().double().reshape(-1, 12), pruned.weights[name].double().reshape(-1, 12)
    mask, F = pruned.masks[name].reshape(-1, 12), torch.linalg.inv(fisher.inverse(name).double())
    for b in range(0, len(w), 17):
        K, S = mask[b].nonzero().squeeze(1), (~mask[b]).nonzero().squeeze(1)
        want = w[b, K] + torch.linalg.solve(F[b][K][:, K], F[b][K][:, S] @ w[b, S])
        torch.testing.assert_close(got[b, K], want, rtol=1e-3, atol=1e-5)


def test_wanda_prunes_every_row_alike_and_matches_its_definition(tiny, tiny_batches, solved):
    mask = solved[2]("wanda").at(0.5).masks["blocks.0.attn.qkv.weight"]
    assert (mask.sum(1) == 12).all()
    seen = []
    handle = tiny.blocks[0].attn.qkv.register_forward_pre_hook(lambda _, x: seen.append(x[0].flatten(0, -2)))
    tiny.eval()
    for images, _ in tiny_batches:
        tiny(images)
    handle.remove()
    product = tiny.blocks[0].attn.qkv.weight.abs() * torch.cat(seen).norm(dim=0)
    lowest = product.argsort(dim=1)[:, :12]
    assert (~mask).gather(1, lowest).all()


@pytest.mark.parametrize("damp", [None, 1e-6, 1.0])
def test_wanda_knows_no_lambda(tiny, tiny_batches, damp):
    other = copy.deepcopy(tiny)
    report = prune(tiny, "wanda", 0.5, tiny_batches, gradients=8, damp=damp)
    assert report.damp is None
    twin = prune(other, "wanda", 0.5, tiny_batches, gradients=8)
    assert all(torch.equal(report.masks[name], twin.masks[name]) for name in twin.masks)


@pytest.mark.parametrize("method", ["obc", "obc_mask_only", "obc_sequential", "wanda", "ovit"])
def test_the_report_tells_whole_rows(tiny, tiny_batches, method, caplog):
    uniform = dict(allocation="uniform", gradients=8, block_size=12, damp=1e-2)
    report = prune(tiny, method, 0.5, tiny_batches, **uniform)
    rows = {name: weight[0].numel() for name, weight in models.prunable(tiny).items()}
    blocks = {layer["name"]: layer["block_size"] for layer in report.layers}
    assert blocks == (dict.fromkeys(rows, 12) if method == "ovit" else rows)
    assert "not comparable" not in caplog.text


@pytest.mark.parametrize("method, warned", [("obc", 1), ("obc_mask_only", 1), ("wanda", 0), ("ovit", 0)])
def test_a_global_threshold_over_losses_of_layers_is_warned_of_once(tiny, tiny_batches, method, warned, caplog):
    prune(tiny, method, 0.5, tiny_batches, gradients=8, block_size=12, damp=1e-2)
    assert caplog.text.count("not comparable between layers: allocation='uniform' suits it better") == warned


def test_groups_of_layers_give_the_masks_of_one_pass(tiny, tiny_batches):
    def run(**options):
        model, options = copy.deepcopy(tiny), options | dict(block_size=24, damp=1e-4, dtype=torch.float32)
        return prune(model, "ovit", 0.8, tiny_batches, gradients=20, **options), model

    (whole, a), (parts, b) = run(), run(memory=6e-4)
    assert whole.groups == 1 and parts.groups > 3
    assert all(torch.equal(whole.masks[n], parts.masks[n]) for n in whole.masks)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    assert whole.predicted_loss == pytest.approx(parts.predicted_loss)


def test_groups_see_the_same_batches_or_stop(tiny, tiny_batches):
    images, labels = torch.cat([x for x, _ in tiny_batches]), torch.cat([y for _, y in tiny_batches])
    data = torch.utils.data.TensorDataset(images, labels)
    loader = torch.utils.data.DataLoader(data, 4, shuffle=True)
    options = dict(gradients=8, block_size=24, damp=1e-4, memory=6e-4)
    prune(copy.deepcopy(tiny), "ovit", 0.5, loader, **options)

    class Forgetful:
        def __iter__(self):
            order = torch.randperm(len(labels), generator=g)
            return iter([(images[i], labels[i]) for i in order.split(4)])

    g = torch.Generator().manual_seed(0)
    with pytest.raises(RuntimeError, match="other batches to another group"):
        prune(tiny, "ovit", 0.5, Forgetful(), **options)


@pytest.mark.parametrize("method", ["ovit", "ovit_mask_only", "obert", "magnitude", "random", "wanda"])
def test_recomputations_keep_zeros_and_end_exact(tiny, tiny_batches, method):
    options = dict(loader=tiny_batches, gradients=8, block_size=24, damp=1e-4)
    first = prune(tiny, method, 0.4, **options)
    second = prune(tiny, method, 0.8, **options)  # the model's own masks: what is gone stays gone
    assert all((second.masks[n] <= first.masks[n]).all() for n in first.masks)
    total = sum(m.numel() for m in second.masks.values())
    assert second.sparsity == round(0.8 * total) / total


def test_recomputations_are_steps_of_prune(tiny, tiny_batches):
    options = dict(loader=tiny_batches, gradients=8, block_size=24, damp=1e-4)
    a, b = copy.deepcopy(tiny), copy.deepcopy(tiny)
    prune(a, "ovit", 0.8, recomputations=1, **options)
    prune(b, "ovit", 0.4, **options)
    prune(b, "ovit", 0.8, **options)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    prune(tiny, "ovit", 0.8, **options)
    assert any(not torch.equal(p, q) for p, q in zip(a.parameters(), tiny.parameters()))


def test_per_sample_gradients_are_batches_of_one(tiny, tiny_batches):
    single = [(x[i : i + 1], y[i : i + 1]) for x, y in tiny_batches for i in range(len(y))]
    weights = models.prunable(tiny)
    a = estimate(tiny, weights, tiny_batches, 30, block_size=12, per_sample=True)
    b = estimate(tiny, weights, single, 30, block_size=12)
    assert a.count == b.count == 30
    assert torch.equal(a.diagonal("blocks.0.attn.proj.weight"), b.diagonal("blocks.0.attn.proj.weight"))


@pytest.mark.parametrize(
    "name, args, matched, prunable",
    [
        ("deit_tiny_patch16_224", dict(img_size=32, depth=1), 4, None),
        ("swin_tiny_patch4_window7_224", dict(img_size=64, embed_dim=24, depths=(1, 1), num_heads=(2, 2)), 9, None),
        ("xcit_nano_12_p16_224", dict(img_size=32, depth=1, embed_dim=32, num_heads=2, cls_attn_layers=1), 10, None),
        ("convnext_atto", dict(depths=(1, 1, 1, 1), dims=(8, 16, 16, 32)), 8, None),
        ("convnext_atto", dict(depths=(1, 1, 1, 1), dims=(8, 16, 16, 32)), 1, r"stages\.1\.downsample\.1\.weight"),
    ],
)
def test_timms_families_are_pruned_exactly_and_every_matrix_is_listed(name, args, matched, prunable):
    torch.manual_seed(0)
    model = models.create(name, 5, **args)
    size = models.input_config(model)["input_size"][1] if "img_size" in args else 64
    batches = [(torch.randn(2, 3, size, size), torch.randint(5, (2,)))] * 2
    report = prune(model, "ovit", 0.7, batches, gradients=4, block_size=16, damp=1e-3, prunable=prunable)
    names = [layer["name"] for layer in report.layers]
    assert len(names) == matched and not any("head" in n or "norm" in n for n in names)
    total = sum(layer["weights"] for layer in report.layers)
    assert report.sparsity == round(0.7 * total) / total
    every = {n for n, p in model.named_parameters() if p.squeeze().ndim >= 2}
    assert every - set(names) == set(report.dense)  # each other matrix has its reason


def test_a_printed_report_is_a_few_lines(tiny, tiny_batches):
    report = prune(tiny, "ovit", sparsity=0.5, loader=tiny_batches, gradients=8, block_size=24, damp=1e-5)
    lines = str(report).splitlines()
    assert lines == repr(report).splitlines() and len(lines) == 4 and max(map(len, lines)) < 120
    assert lines[0].startswith(f"ovit, unstructured: 50.00 % of {WEIGHTS:,} prunable weights removed")
    assert lines[1].startswith("λ = 1e-05, blocks of 24, float64, loss expected to rise by ")
    least, most = (order(layer["sparsity"] for layer in report.layers) for order in (min, max))
    assert f"least {100 * least:.1f} % of " in lines[2] and f"most {100 * most:.1f} % of " in lines[2]
    plain = str(prune(tiny, "magnitude", sparsity=0.6)).splitlines()
    assert len(plain) == 3 and "None" not in "".join(plain)
