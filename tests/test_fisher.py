"""The Fisher against its definition and against per-gradient Sherman-Morrison updates."""

import pytest
import torch

from ovit_core.fisher import COMPILED, BlockFisher, _all_finite, fit_block_size, invert


def gradients(shape, count, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 31, 32, 70])
def test_inverse_equals_the_definition_and_sherman_morrison(count):
    shape, B, damp = (6, 20), 5, 0.05
    fisher = BlockFisher({"w": shape}, block_size=B, damp=damp)
    seen = gradients(shape, count)
    for g in seen:
        fisher.add({"w": g})
    G = torch.stack(seen).double().reshape(count, -1, B)
    F = torch.einsum("mni,mnj->nij", G, G) / count + damp * torch.eye(B)
    H = torch.eye(B, dtype=torch.float64).expand(24, B, B) / damp
    for g in G:  # (n, B): one rank-one update of every inverse block per gradient, as the paper's code does it
        Hg = torch.einsum("nij,nj->ni", H, g)
        H = H - torch.einsum("ni,nj->nij", Hg, Hg) / (count + torch.einsum("ni,ni->n", g, Hg))[:, None, None]
    got = fisher.inverse("w").double()
    torch.testing.assert_close(got, torch.linalg.inv(F), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got, H, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fisher.diagonal("w").double(), F.diagonal(dim1=1, dim2=2), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fisher.inverse("w", consume=True).double(), got)


def test_one_sum_serves_several_lambdas():
    fisher = BlockFisher({"w": (2, 8)}, block_size=8)
    for g in gradients((2, 8), 20):
        fisher.add({"w": g})
    first = fisher.inverse("w", damp=1e-2)
    fisher.inverse("w", damp=1.0)
    assert torch.equal(first, fisher.inverse("w", damp=1e-2))


@pytest.mark.parametrize(
    "row, wanted, got", [(192, 192, 192), (768, 192, 192), (100, 64, 50), (7, 192, 7), (13, 5, 1), (96, 64, 48)]
)
def test_blocks_never_straddle_a_row(row, wanted, got):
    assert fit_block_size(row, wanted) == got


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="damp must be positive"):
        BlockFisher({"w": (2, 2)}, damp=0)
    with pytest.raises(ValueError, match="block_size"):
        BlockFisher({"w": (2, 2)}, block_size=0)
    fisher = BlockFisher({"layer.weight": (4, 6)}, block_size=3)
    with pytest.raises(ValueError, match=r"layer\.weight has shape"):
        fisher.add({"layer.weight": torch.zeros(6, 4)})
    bad = torch.zeros(4, 6)
    bad[1, 4] = float("nan")
    with pytest.raises(FloatingPointError, match=r"layer\.weight is not finite in block 3"):
        fisher.add({"layer.weight": bad})


def test_what_is_not_finite_is_told_before_it_reaches_the_sum():
    """The number of the gradient, the weight and its block; the sum stays as it was, and adding goes on."""
    fisher = BlockFisher({"a": (4, 6), "b": (4, 6)}, block_size=3, damp=0.1)
    first, second = gradients((4, 6), 2)
    fisher.add({"a": first, "b": second})
    for value in (float("nan"), float("inf"), -float("inf")):
        bad = second.clone()
        bad[3, 5] = value
        with pytest.raises(FloatingPointError, match="gradient 1 of b is not finite in block 7"):
            fisher.add({"a": first, "b": bad})
    fisher.add({"a": second, "b": first})
    want = (first.square() + second.square()).reshape(8, 3) / 2 + 0.1
    for name in "ab":
        torch.testing.assert_close(fisher.diagonal(name), want)


def test_a_sum_that_overflows_is_no_error():
    """Finite numbers whose sum is not: the check is of the numbers."""
    fisher = BlockFisher({"w": (2, 4)}, block_size=4, damp=0.1, dtype=torch.float64)
    large = torch.full((2, 4), 1.5e308, dtype=torch.float64)
    fisher.add({"w": large})
    assert fisher.count == 1


def test_sums_on_a_gpu_are_judged_together():
    sums = [torch.tensor(1.0), torch.tensor(2.0)]
    assert _all_finite(sums) and not _all_finite([*sums, torch.tensor(float("nan"))])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("given", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_gradients_of_any_dtype_and_layout(given, dtype):
    shape = (6, 4, 5)
    fisher = BlockFisher({"w": shape}, block_size=10, damp=0.1, dtype=dtype)
    seen = [g.permute(2, 0, 1).to(given).requires_grad_() for g in gradients((4, 5, 6), 3)]  # not contiguous
    for g in seen:
        fisher.add({"w": g})
        g.detach().zero_()  # what was added is a copy
    G = torch.stack([g.permute(2, 0, 1).to(given).to(dtype).reshape(-1, 10) for g in gradients((4, 5, 6), 3)])
    F = torch.einsum("mni,mnj->nij", G, G) / 3
    torch.testing.assert_close(fisher.diagonal("w"), F.diagonal(dim1=1, dim2=2) + 0.1)
    want = torch.linalg.inv(F.double() + 0.1 * torch.eye(10, dtype=torch.float64))
    torch.testing.assert_close(fisher.inverse("w").double(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("B", [1, 2, 7, 8, 9, 64, 100, 192, COMPILED + 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inverses_equal_lapacks(B, dtype):
    """In float64, also over the matrix that is inverted; sizes around whole vectors, and one beyond the compiled form."""
    G = torch.randn(5, 2 * B, B, generator=torch.Generator().manual_seed(B), dtype=torch.float64)
    F = (G.mT @ G).to(dtype)  # (5, B, B)
    want = torch.linalg.inv(F.double() / (2 * B) + 0.01 * torch.eye(B, dtype=torch.float64))
    got = invert(F, 2 * B, 0.01, "w", torch.empty_like(F))
    assert torch.equal(got, got.mT) or B > COMPILED
    torch.testing.assert_close(
        got,
        want.to(dtype),
        rtol=1e-5 if dtype == torch.float32 else 1e-9,
        atol=1e-6 if dtype == torch.float32 else 1e-10,
    )
    assert torch.equal(invert(F, 2 * B, 0.01, "w", F), got)


@pytest.mark.parametrize("B", [6, COMPILED + 8])
def test_the_first_block_that_is_not_positive_definite_is_named(B):
    F = torch.eye(B).repeat(40, 1, 1)
    F[17, 2, 2], F[33, 0, 0] = -1.0, float("nan")
    with pytest.raises(torch.linalg.LinAlgError, match="of w, block 17 of 40, is not positive definite"):
        invert(F, 1, 1e-3, "w", torch.empty_like(F))


def test_an_indefinite_block_names_itself_and_a_lambda_that_works():
    fisher = BlockFisher({"w": (2, 4)}, block_size=4, damp=1e-30)
    fisher.add({"w": torch.tensor([[1.0, 1, 1, 1], [1e6, 2e6, 3e6, 4e6]])})
    with pytest.raises(torch.linalg.LinAlgError, match=r"of w, block \d of 2.*damp=(\S+) would work") as error:
        fisher.inverse("w")
    proposed = float(str(error.value).split("damp=")[-1].split()[0])
    assert torch.isfinite(fisher.inverse("w", damp=proposed)).all()


@pytest.mark.parametrize("k", [-9, 5])
def test_scaling_gradients_by_2k_and_lambda_by_4k_scales_the_inverse_exactly(k):
    """Powers of two round nothing: the elimination's orders cannot depend on the loss's unit."""
    a, b = BlockFisher({"w": (4, 24)}, 12, damp=1e-3), BlockFisher({"w": (4, 24)}, 12, damp=1e-3 * 4.0**k)
    for g in gradients((4, 24), 40):
        a.add({"w": g})
        b.add({"w": g * 2.0**k})
    assert torch.equal(a.inverse("w"), b.inverse("w") * 4.0**k)


def test_a_consumed_fisher_takes_no_more_gradients():
    fisher = BlockFisher({"a": (2, 4), "b": (2, 4)}, 4)
    for g in gradients((2, 4), 5):
        fisher.add({"a": g, "b": g})
    kept = fisher.inverse("b", damp=0.1)
    fisher.inverse("a", damp=0.1, consume=True)
    assert torch.equal(fisher.inverse("b", damp=0.1, consume=True), kept)  # the others are still there
    with pytest.raises(KeyError):
        fisher.add({"a": torch.zeros(2, 4), "b": torch.zeros(2, 4)})
