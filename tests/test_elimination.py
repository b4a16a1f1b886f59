"""The elimination against explicit OBS with matrix downdates and against the closed form, in float64."""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovit_core.elimination import choose_backend, eliminate
from ovit_core.study.paths import ROOT

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
def test_orders_are_permutations_losses_never_fall_and_blocks_stand_alone(B, seed, backend, update):
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


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 24), st.integers(0, 10_000), st.integers(-20, 20), st.sampled_from(BACKENDS))
def test_scaling_gradients_changes_no_order(B, seed, k, backend):
    """Gradients times 2^k with lambda times 4^k give F times 4^k, H times 4^-k: exact in binary, the same order."""
    w, H, _ = problem(4, B, seed=seed, dtype=torch.float32)
    a, b = eliminate(w, H.clone(), backend=backend), eliminate(w, H * 4.0**-k, backend=backend)
    assert torch.equal(a.order, b.order)
    assert torch.equal(a.weights_at(torch.full((4,), B // 2)), b.weights_at(torch.full((4,), B // 2)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_blocks_of_one_equal_the_diagonal_formula(backend):
    w, H, F = problem(50, 1)
    e = eliminate(w, H.clone(), backend=backend)
    torch.testing.assert_close(e.loss, w.square() * F[:, :, 0] / 2)
    assert (e.weights_at(torch.ones(50, dtype=torch.int64)) == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_prefix_has_exactly_its_zeros(backend):
    w, H, _ = problem(6, 70)  # longer than two squeezes of the compiled backend
    e = eliminate(w, H, backend=backend)
    for k in (0, 1, 31, 32, 33, 64, 70):
        zeros = e.weights_at(torch.full((6,), k)) == 0
        assert (zeros.sum(1) == k).all() and zeros.gather(1, e.order[:, :k]).all()


def test_numbers_that_are_not_finite_are_an_error():
    w, H, _ = problem(3, 8, dtype=torch.float32)
    w[1, 4] = float("nan")
    with pytest.raises(FloatingPointError, match="block 1 of 3"):
        eliminate(w, H, backend="cpu")


def test_backends_that_cannot_run_say_why(caplog, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="takes tensors on a GPU, not on cpu"):
        choose_backend("gpu", torch.device("cpu"), 64)
    with pytest.raises(ValueError, match="takes tensors on the CPU, not on cuda"):
        choose_backend("cpu", torch.device("cuda"), 64)
    assert choose_backend("auto", torch.device("cpu"), 4096) == "cpu"
    assert choose_backend("auto", torch.device("cuda"), 192) == "gpu"
    assert choose_backend("auto", torch.device("cuda"), 4096) == "reference"
    assert "falls back to the plain torch backend: it takes blocks of at most 1024" in caplog.text


@pytest.mark.notebook
def test_leaves_torch_as_it_was():
    """One OpenMP runtime may serve torch and numba: torch's threads, and its batched LU, must survive numba's."""
    threads = """
import torch
from ovit_core.elimination import eliminate
torch.set_num_threads(1)
eliminate(torch.randn(64, 32), torch.eye(32).repeat(64, 1, 1))
assert torch.get_num_threads() == 1, torch.get_num_threads()
"""
    batched_lu = """
import torch
from ovit_core.elimination import eliminate
eliminate(torch.randn(64, 32), torch.eye(32).repeat(64, 1, 1))
A = torch.randn(64, 192, 192) + 30 * torch.eye(192)
assert (torch.linalg.inv(A) @ A - torch.eye(192)).abs().max() < 1e-3
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    options = dict(cwd=ROOT, env=environment)
    running = [subprocess.Popen([sys.executable, "-c", code], **options) for code in (threads, batched_lu)]
    assert [process.wait() for process in running] == [0, 0]


@pytest.mark.notebook
def test_gpu_kernel_in_tritons_interpreter():
    """The kernel a GPU runs, interpreted on the CPU, against the reference; also through its float64 fallback."""
    pytest.importorskip("triton")
    code = """
import sys; sys.path.insert(0, "tests")
import torch
from test_elimination import problem
from ovit_core.elimination import eliminate
for B in (1, 5, 24, 33):
    for options in (dict(), dict(update=False), dict(order=torch.rand(3, B).argsort(1)), dict(group=(1, 3))):
        if "group" in options and B % 3:
            continue
        for dtype in (torch.float32, torch.float64):
            w, H, _ = problem(3, B, seed=B, dtype=dtype)
            a, b = (eliminate(w, H.clone(), backend=backend, **options) for backend in ("gpu", "reference"))
            assert torch.equal(a.order, b.order), (B, options, dtype)
            torch.testing.assert_close(a.loss, b.loss)
            removed = torch.full((3,), int(torch.isfinite(a.loss[0]).sum()) * 2 // 3)
            torch.testing.assert_close(a.weights_at(removed), b.weights_at(removed), rtol=1e-4, atol=1e-5)
G = torch.randn(4, 4, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
F = G.mT @ G + 1e-7 * torch.eye(16)
w, H, floor = torch.randn(4, 16), torch.linalg.inv(F).float(), F.diagonal(dim1=1, dim2=2).reciprocal().float()
a, b = (eliminate(w, H.clone(), backend=backend, floor=floor) for backend in ("gpu", "cpu"))
assert a.fallbacks == b.fallbacks > 0 and torch.isfinite(a.loss).all(), (a.fallbacks, b.fallbacks)
print("agrees")
"""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert found.stdout.strip().endswith("agrees"), found.stderr[-2000:]
