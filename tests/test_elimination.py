"""The elimination against explicit OBS with matrix downdates and against the closed form, in float64."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovit_core.elimination import eliminate

BACKENDS = ("reference", "cpu")


def problem(n, B, seed=0, dtype=torch.float64, damp=1e-2):
    """Weights (n, B), H (n, B, B) and F = H^-1 of random gradients."""
    g = torch.Generator().manual_seed(seed)
    G = torch.randn(n, 2 * B, B, generator=g, dtype=torch.float64)
    F = G.transpose(1, 2) @ G / (2 * B) + damp * torch.eye(B, dtype=torch.float64)
    w = torch.randn(n, B, generator=g, dtype=torch.float64)
    return w.to(dtype), torch.linalg.inv(F).to(dtype), F


def explicit_obs(w, H, update, order=None):
    """oViT's loop as the paper writes it, one block, H downdated in full: loss by weight, order, weights by step."""
    w, H, score_w = w.clone(), H.clone(), w.clone()
    left, loss, sequence, trace, total = list(range(len(w))), torch.zeros_like(w), [], [w.clone()], 0.0
    for k in range(len(w)):
        v = w if update else score_w
        p = int(order[k]) if order is not None else min(left, key=lambda i: float(v[i] ** 2 / (2 * H[i, i])))
        total += float(v[p] ** 2 / (2 * H[p, p]))
        loss[p] = total
        w = w - w[p] / H[p, p] * H[:, p]
        H = H - torch.outer(H[:, p], H[p, :]) / H[p, p]
        left.remove(p)
        gone = [i for i in range(len(w)) if i not in left]
        w[gone] = 0.0
        sequence.append(p)
        trace.append(w.clone())
    return loss, torch.tensor(sequence), torch.stack(trace)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("update", [True, False])
@pytest.mark.parametrize("B", [1, 2, 7, 12])
def test_equals_explicit_downdating(backend, update, B):
    w, H, _ = problem(8, B, seed=B)
    e = eliminate(w, H.clone(), update=update, backend=backend)
    for b in range(8):
        loss, order, trace = explicit_obs(w[b], H[b], update)
        assert torch.equal(e.order[b], order)
        torch.testing.assert_close(e.loss[b], loss)
        for k in range(B + 1):
            got = e.weights_at(torch.full((8,), k), update=True)[b]
            torch.testing.assert_close(got, trace[k], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_given_order_equals_explicit_downdating(backend):
    w, H, _ = problem(5, 9)
    order = torch.stack([torch.randperm(9, generator=torch.Generator().manual_seed(b)) for b in range(5)])
    e = eliminate(w, H.clone(), order=order, backend=backend)
    for b in range(5):
        loss, _, trace = explicit_obs(w[b], H[b], True, order[b])
        assert torch.equal(e.order[b], order[b])
        torch.testing.assert_close(e.loss[b], loss)
        torch.testing.assert_close(e.weights_at(torch.full((5,), 4))[b], trace[4], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("B", [3, 64, 100])
def test_any_prefix_equals_the_closed_form(backend, B):
    """The kept weights move by F_KK^-1 F_KS w_S, the removed set S being the first `removed` of the order."""
    w, H, F = problem(6, B, seed=1)
    e = eliminate(w, H.clone(), backend=backend)
    counts = torch.randint(0, B + 1, (4, 6), generator=torch.Generator().manual_seed(2))
    got = e.weights_at(counts)
    for k, b in itertools.product(range(4), range(6)):
        S, K = e.order[b, : counts[k, b]], e.order[b, counts[k, b] :]
        want = w[b].clone()
        want[S] = 0
        want[K] += torch.linalg.solve(F[b][K][:, K], F[b][K][:, S] @ w[b][S])
        torch.testing.assert_close(got[k, b], want, rtol=1e-8, atol=1e-8)


def test_no_update_never_touches_the_weights():
    w, H, _ = problem(4, 16)
    e = eliminate(w, H, update=False)
    kept = e.weights_at(torch.full((4,), 10))
    assert torch.equal(kept[kept != 0], w[kept != 0])
    assert ((kept == 0).sum(1) == 10).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_backends_agree(dtype):
    w, H, _ = problem(40, 48, dtype=dtype)
    a, b = (eliminate(w, H.clone(), backend=backend) for backend in BACKENDS)
    assert (a.order == b.order).all(1).float().mean() >= 0.95  # float32 may swap near-equal scores
    same = (a.order == b.order).all(1)
    torch.testing.assert_close(a.loss[same], b.loss[same], rtol=1e-3, atol=1e-5)


def test_ill_conditioned_float32_blocks_fall_back_and_are_counted():
    g = torch.Generator().manual_seed(0)
    G = torch.randn(6, 8, 32, generator=g, dtype=torch.float64)  # 8 gradients for 32 weights: rank deficient
    F = G.transpose(1, 2) @ G + 1e-7 * torch.eye(32, dtype=torch.float64)
    w, H = torch.randn(6, 32, generator=g), torch.linalg.inv(F).float()
    e = eliminate(w, H, backend="cpu", floor=F.diagonal(dim1=1, dim2=2).reciprocal().float())
    assert e.fallbacks > 0
    assert torch.isfinite(e.loss).all() and torch.isfinite(e.weights_at(torch.full((6,), 20))).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("group", [(2, 4), (1, 4), (4, 8)])
def test_groups_keep_exactly_n_of_every_m(backend, group):
    N, M = group
    w, H, _ = problem(10, 24)
    e = eliminate(w, H, group=group, backend=backend)
    kept = e.weights_at(torch.full((10,), 24 // M * (M - N))) != 0
    assert (kept.view(10, -1, M).sum(2) == N).all()
    assert torch.equal(torch.isinf(e.loss), kept)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(0, 10_000), st.sampled_from(BACKENDS), st.booleans())
def test_properties(B, seed, backend, update):
    w, H, _ = problem(5, B, seed=seed)
    w[0, : B // 2] = 0  # zero weights and duplicates must not become NaN
    w[1] = 1.0
    e = eliminate(w, H.clone(), update=update, backend=backend)
    along = e.loss.gather(1, e.order)
    assert torch.isfinite(e.loss).all() and (along.diff(dim=1) >= 0).all()
    assert torch.equal(e.order.sort(1).values, torch.arange(B).expand(5, B))
    removed = torch.full((5,), B // 2)
    zeros = e.weights_at(removed) == 0
    assert zeros.gather(1, e.order)[:, : B // 2].all()
    flipped = eliminate(w.flip(0), H.flip(0).contiguous(), update=update, backend=backend)
    assert torch.equal(flipped.order.flip(0), e.order)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(H=torch.zeros(2, 3, 4)), "H must be"),
        (dict(H=torch.zeros(2, 3, 3)), "float32 or both float64"),
        (dict(order=torch.zeros(2, 3, dtype=torch.int64)), "permutation"),
        (dict(group=(2, 4)), "must divide"),
        (dict(backend="abacus"), "unknown backend"),
    ],
)
def test_bad_arguments_are_named(change, message):
    w, H, _ = problem(2, 3)
    with pytest.raises(ValueError, match=message):
        eliminate(**(dict(weights=w, H=H) | change))
