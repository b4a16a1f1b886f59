"""OBC over whole rows against its definition, written out in numpy: explicit downdates of one inverse a row."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ovit_core import masks
from ovit_core.curvature import estimate
from ovit_core.elimination import eliminate
from ovit_core.inputs import InputHessian
from ovit_core.methods import METHODS, Method
from ovit_core.pattern import UNSTRUCTURED, Pattern
from ovit_core.plan import solve
from ovit_core.pruning import choose_dtype, gigabytes, prune, split_groups
from ovit_core.rows import Rows, eliminate_rows

ROWS, B, DAMP = 9, 24, 1e-2


def problem(rows=ROWS, B=B, seed=0, dtype=torch.float64, masks=None, tokens=60):
    """A layer's weights, its inputs (tokens, B) and their Hessian, watched."""
    g = torch.Generator().manual_seed(seed)
    weight = nn.Parameter(torch.randn(rows, B, generator=g, dtype=torch.float64))
    X = torch.randn(tokens, B, generator=g, dtype=torch.float64) @ torch.randn(B, B, generator=g, dtype=torch.float64)
    inputs = InputHessian({"w": weight}, DAMP, dtype, masks=masks)
    with inputs:
        nn.functional.linear(X, weight)
    return weight, X, inputs


def hessian(X):
    """(B, B) in numpy, lambda included."""
    F = X.T.numpy() @ X.numpy() / len(X)
    return F + DAMP * np.diag(F).mean() * np.eye(len(F))


def obc(w, F, N=0, M=0, at=range(B)):
    """OBC's loop for one row as its paper has it (Frantar & Alistarh 2022, algorithm 1), H downdated in full: the order
    with accumulated losses, and the weights after each step. With N:M groups are closed once N weights are left;
    `at` are the places of the weights in their row.
    """
    w, H, left, total = w.copy(), np.linalg.inv(F), list(range(len(w))), 0.0
    order, losses, trace = [], [], [w.copy()]
    while left:
        free = [i for i in left if not M or sum(at[j] // M == at[i] // M for j in left) > N]
        if not free:
            break
        p = min(free, key=lambda i: w[i] ** 2 / H[i, i])
        total += w[p] ** 2 / H[p, p] / 2
        w -= w[p] / H[p, p] * H[:, p]
        H = H - np.outer(H[:, p], H[p]) / H[p, p]
        left.remove(p)
        w[[i for i in range(len(w)) if i not in left]] = 0
        order.append(p)
        losses.append(total)
        trace.append(w.copy())
    return order, losses, trace


def closed_form(w, F, gone):
    """The kept weights move by F_KK^-1 F_KS w_S."""
    K, S = np.flatnonzero(~gone), np.flatnonzero(gone)
    out = np.zeros_like(w)
    out[K] = w[K] + np.linalg.solve(F[np.ix_(K, K)], F[np.ix_(K, S)] @ w[S])
    return out


def test_whole_rows_are_obc_step_by_step():
    weight, X, inputs = problem()
    layer, F = solve({"w": weight}, METHODS["obc"], inputs).layers["w"], hessian(X)
    assert layer.order.shape == (ROWS, B)
    for r in range(ROWS):
        order, losses, trace = obc(weight[r].detach().numpy(), F)
        assert layer.order[r].tolist() == order
        np.testing.assert_allclose(layer.loss[r], losses, rtol=1e-8)
        for k in (0, 1, 7, B - 1, B):
            got = layer.rows.weights_at(torch.full((ROWS,), k))[r]
            np.testing.assert_allclose(got, trace[k], rtol=1e-7, atol=1e-9)
            assert (got == 0).sum() == k


@pytest.mark.parametrize("allocation", ["global", "uniform"])
@pytest.mark.parametrize("sparsity", [0, 0.03, 0.5, 0.77, 0.97, 1])
def test_any_sparsity_is_exact_and_the_closed_form_of_each_row(sparsity, allocation):
    weight, X, inputs = problem()
    point = solve({"w": weight}, METHODS["obc"], inputs).at(sparsity, allocation)
    mask, F = point.masks["w"].numpy(), hessian(X)
    assert (~mask).sum() == round(sparsity * weight.numel())
    for r, row in enumerate(mask):
        want = closed_form(weight[r].detach().numpy(), F, ~row)
        np.testing.assert_allclose(point.weights["w"][r], want, rtol=1e-8, atol=1e-10)
    assert point.loss is None  # errors of outputs are no increase of the loss


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8"])
def test_patterns_are_obcs_own(pattern):
    N, M = map(int, pattern.split(":"))
    weight, X, inputs = problem()
    point = solve({"w": weight}, METHODS["obc"], inputs, pattern=Pattern.parse(pattern)).at()
    assert (point.masks["w"].view(-1, M).sum(1) == N).all()
    for r in range(ROWS):
        order, _, trace = obc(weight[r].detach().numpy(), hessian(X), N, M)
        assert set(order) == set(np.flatnonzero(~point.masks["w"][r].numpy()))
        np.testing.assert_allclose(point.weights["w"][r], trace[-1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_rows_with_masks_are_judged_without_what_is_gone(pattern):
    """Each row as a smaller problem of its own: only the weights that its mask keeps exist."""
    rows = 60  # enough for choices that what is gone would change
    kept = torch.rand(rows, B, generator=torch.Generator().manual_seed(1)) > 0.4
    kept[0] = True
    kept[1, :4] = False  # a group of which nothing is left
    weight, X, inputs = problem(rows, masks={"w": kept})
    with torch.no_grad():
        weight.mul_(kept)
    shape, F = Pattern.parse(pattern), hessian(X)
    plan = solve({"w": weight}, METHODS["obc"], inputs, pattern=shape, masks={"w": kept})
    point = plan.at(0.8, "uniform")
    assert not (point.masks["w"] & ~kept).any()
    for r in range(rows):
        K = np.flatnonzero(kept[r])
        w, gone = weight[r].detach().numpy(), ~point.masks["w"][r].numpy()
        want = np.zeros(B)
        want[K] = closed_form(w[K], F[np.ix_(K, K)], gone[K])
        np.testing.assert_allclose(point.weights["w"][r], want, rtol=1e-8, atol=1e-10)
        order, losses, _ = obc(w[K], F[np.ix_(K, K)], shape.kept, shape.of, K)
        assert shape == UNSTRUCTURED or set(K[order]) == set(np.flatnonzero(gone)) & set(K)
        if shape == UNSTRUCTURED:  # the smaller problem's order, after what was gone
            assert plan.layers["w"].order[r, B - len(K) :].tolist() == K[order].tolist()
            np.testing.assert_allclose(plan.layers["w"].loss[r, B - len(K) :], losses, rtol=1e-8)


def test_wanda_is_its_definition_whatever_lambda():
    """Smallest abs(w) * norm(x) of each row first (Sun et al. 2023)."""
    weight, X, inputs = problem()
    product = weight.detach().abs() * X.norm(dim=0)
    for damp in (None, 1e-6, 100.0):
        layer = solve({"w": weight}, METHODS["wanda"], inputs, damp=damp).layers["w"]
        assert torch.equal(layer.order, product.argsort(1))


def test_a_full_mask_changes_nothing():
    weight, _, inputs = problem()
    _, _, masked = problem(masks={"w": torch.ones(ROWS, B, dtype=torch.bool)})
    a, b = (solve({"w": weight}, METHODS["obc"], one).at(0.6) for one in (inputs, masked))
    assert torch.equal(a.masks["w"], b.masks["w"])
    torch.testing.assert_close(a.weights["w"], b.weights["w"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_a_stream_of_few_rows_is_all_rows_at_once(chunk, dtype):
    """The order and losses to the bit; and both are what `eliminate` does with a copy of H for every row."""
    weight, _, inputs = problem(dtype=dtype)
    w, H = weight.detach().to(dtype), lambda rows: inputs.inverse("w", rows=rows)
    whole, parts = (eliminate_rows(w, H, chunk=size) for size in (ROWS, chunk))
    assert torch.equal(whole.loss, parts.loss) and torch.equal(whole.order, parts.order)
    old = eliminate(w, inputs.inverse("w").clone(memory_format=torch.contiguous_format))
    assert torch.equal(old.loss, whole.loss) and torch.equal(old.order, whole.order)
    rows, removed = Rows(inputs.matrix("w"), w, whole.order), torch.arange(ROWS) * 2 + 3
    at_once, streamed = rows.weights_at(removed, chunk=ROWS), rows.weights_at(removed, chunk=chunk)
    tight = dict(rtol=1e-10, atol=1e-10) if dtype == torch.float64 else dict(rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(at_once, streamed, **tight)
    torch.testing.assert_close(at_once, rows.weights_at(removed), **tight)
    torch.testing.assert_close(at_once, old.weights_at(removed), **tight)


def test_h_is_kept_once_and_asking_for_rows_does_not_wear_it_out():
    weight, _, inputs = problem(rows=500)
    H = inputs.inverse("w")
    assert H.shape == (500, B, B) and H.untyped_storage().nbytes() == 8 * B * B
    before = H[0].clone()
    solve({"w": weight}, METHODS["obc"], inputs)
    assert torch.equal(inputs.inverse("w", rows=slice(3, 4))[0], before)


@pytest.mark.parametrize("update, score", [("joint", "magnitude"), ("joint", "greedy_frozen"), ("none", "diagonal")])
def test_other_scores_take_whole_rows_too(update, score):
    weight, X, inputs = problem()
    point = solve({"w": weight}, Method(score, update, "", "inputs"), inputs).at(0.5)
    mask, w = point.masks["w"].numpy(), weight.detach().numpy()
    for r in range(ROWS):
        want = closed_form(w[r], hessian(X), ~mask[r]) if update == "joint" else w[r] * mask[r]
        np.testing.assert_allclose(point.weights["w"][r], want, rtol=1e-8, atol=1e-10)
    if score == "magnitude":
        assert np.abs(w)[~mask].max() <= np.abs(w)[mask].min()


@pytest.mark.parametrize(
    "method, message",
    [
        (Method("static", "none", "", "inputs"), "not for layer inputs"),
        (Method("magnitude", "independent", "", "inputs"), "not for layer inputs"),
        (METHODS["obc_sequential"], "for one sparsity, layer by layer"),
    ],
)
def test_what_rows_cannot_do_is_refused(method, message):
    weight, _, inputs = problem()
    with pytest.raises(ValueError, match=message):
        solve({"w": weight}, method, inputs)


def test_rows_that_no_group_divides_are_refused(tiny, tiny_batches):
    weight, _, inputs = problem()
    with pytest.raises(ValueError, match="w: blocks of 24 weights are no multiple of 5"):
        solve({"w": weight}, METHODS["obc"], inputs, pattern=Pattern.parse("1:5"))
    with pytest.raises(ValueError, match="rows of 24 weights have no block size"):
        prune(tiny, "obc", 0, tiny_batches, pattern="1:5")


def test_a_lambda_too_small_proposes_one_in_the_users_unit():
    weight, _, _ = problem()
    inputs = InputHessian({"w": weight}, 1e-30, torch.float32)
    with inputs:
        nn.functional.linear(1e3 * torch.ones(4, B, dtype=torch.float64), weight)  # of rank 1
    with pytest.raises(torch.linalg.LinAlgError, match=r"with damp=1e-30; damp=(\S+) would work") as error:
        inputs.inverse("w")
    proposed = float(str(error.value).split("damp=")[-1].split()[0])
    assert proposed < 1e-3 and torch.isfinite(inputs.inverse("w", damp=proposed)).all()


def test_memory_counts_one_matrix_a_layer(tiny, tiny_batches):
    shapes = {"wide": (192, 768), "tall": (768, 192)}
    weights = {name: nn.Parameter(torch.empty(shape)) for name, shape in shapes.items()}
    obc, ovit = METHODS["obc"], METHODS["ovit"]
    one = lambda name, method: gigabytes(weights[name], method, 192, UNSTRUCTURED, torch.float64)
    assert one("wide", obc) == 2 * 8 * 768**2 / 1e9 and one("tall", obc) == 2 * 8 * 192**2 / 1e9
    assert one("wide", ovit) == one("tall", ovit) > 20 * one("wide", obc)
    assert choose_dtype(weights, obc, 192, UNSTRUCTURED, 0.02) == torch.float64
    assert choose_dtype(weights, ovit, 192, UNSTRUCTURED, 0.02) == torch.float32
    assert split_groups(weights, obc, 192, UNSTRUCTURED, 0.01, torch.float64) == [["wide"], ["tall"]]
    report = prune(tiny, "obc", 0.7, tiny_batches, gradients=8, allocation="uniform", memory=1e-4)
    assert report.groups > 1 and report.dtype == torch.float32
    assert all(layer["sparsity"] == pytest.approx(0.7, abs=1e-3) for layer in report.layers)


def test_groups_of_layers_give_the_weights_of_one_pass(tiny, tiny_batches):
    other, options = copy.deepcopy(tiny), dict(gradients=8, allocation="uniform", dtype=torch.float64)
    prune(tiny, "obc", 0.7, tiny_batches, **options)
    report = prune(other, "obc", 0.7, tiny_batches, memory=2e-4, **options)
    assert report.groups > 1 and all(torch.equal(p, q) for p, q in zip(tiny.parameters(), other.parameters()))


def test_a_layer_that_sees_only_zeros_loses_its_smallest_weights():
    layer = nn.Sequential(nn.Flatten(), nn.Linear(12, 5, bias=False), nn.Linear(5, 3))
    loader = [(torch.zeros(2, 3, 2, 2), torch.tensor([0, 1]))]
    inputs = estimate(layer, {"1.weight": layer[1].weight}, loader, 1, kind="inputs")
    point = solve({"1.weight": layer[1].weight}, METHODS["obc"], inputs).at(0.5)
    w, mask = layer[1].weight.detach().abs(), point.masks["1.weight"]
    assert w[~mask].max() <= w[mask].min()
    assert torch.equal(point.weights["1.weight"], layer[1].weight.detach() * mask)


def test_convolutions_are_rows_of_patches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(5 * 64, 4))
    x, y = torch.randn(6, 3, 8, 8), torch.randint(4, (6,))
    w = model[0].weight.detach().double().flatten(1).clone()
    X = nn.functional.unfold(x, 3, padding=1).transpose(1, 2).reshape(-1, 27).double()
    report = prune(
        model, "obc", 0.6, [(x, y)], gradients=1, prunable=r"^0\.", allocation="uniform", dtype=torch.float64, damp=DAMP
    )
    mask = masks.of(model)["0.weight"].flatten(1).numpy()
    assert report.layers[0]["block_size"] == 27
    for r in range(5):
        want = closed_form(w[r].numpy(), hessian(X), ~mask[r])
        np.testing.assert_allclose(model[0].weight[r].detach().flatten(), want, rtol=1e-4, atol=1e-6)
