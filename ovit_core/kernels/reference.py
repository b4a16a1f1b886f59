"""Greedy elimination in plain torch, batched over blocks: the readable statement of the algorithm.

Any device, any float dtype. The compiled backends are tested against this one, and this one against the
closed form and against explicit downdating of H.
"""

import torch
from torch import Tensor


def eliminate_blocks(
    weights: Tensor, H: Tensor, update: bool, order: Tensor | None, group: tuple[int, int] | None, floor: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Eliminates the weights of n blocks of B, one weight of every block per step.

    Args:
        weights: (n, B).
        H: (n, B, B) inverse Fisher blocks. Left as it was: the factor is a tensor of its own here.
        update: score each step with the weights as corrected so far (True) or as they were given (False).
        order: (n, B) int64, the weight to remove at each step, or None to take the cheapest one.
        group: (N, M) to stop once N of every M consecutive weights are left, or None.
        floor: (n, B) lower bound 1/F_pp of the pivots, or None.

    Returns:
        loss (n, B) accumulated loss by weight, inf for weights never removed; order (n, B) int64 weight by step;
        coefficients (n, B) c_k and factor (n, B, B) rows l_k, both by weight: in the place of the weight p_k;
        and 0, the number of blocks that fell back to float64 (this backend has no other precision to fall back to).
    """
    n, B = weights.shape
    blocks = torch.arange(n, device=weights.device)
    steps = B if group is None else B // group[1] * (group[1] - group[0])
    start, w, diag = weights, weights.clone(), H.diagonal(dim1=1, dim2=2).clone()
    tiny = diag * torch.finfo(H.dtype).eps if floor is None else floor.to(H.dtype)
    factor = torch.zeros_like(H)
    loss, total = torch.full_like(w, torch.inf), w.new_zeros(n)
    coefficients = torch.zeros_like(w)
    closed = torch.zeros_like(w, dtype=torch.bool)  # weights that can no longer be removed: gone, or kept by N:M
    gone = torch.zeros_like(closed)
    sequence = torch.zeros(n, B, dtype=torch.int64, device=w.device)

    for k in range(steps):
        # The cost of removing weight p now is w_p^2 / (2 H_pp); argmin takes the lowest index among equals.
        score = (w if update else start).square() / diag.clamp(min=tiny)
        p = order[:, k] if order is not None else score.masked_fill(closed, torch.inf).argmin(1)
        # Row p of the downdated H, rebuilt from the original row and the factor so far (rows of 0 are still to come):
        # (n, B) - (n, 1, B) @ (n, B, B)
        row = H[blocks, p] - torch.bmm(factor[blocks, :, p].unsqueeze(1), factor).squeeze(1)
        row = row.masked_fill(gone, 0)
        pivot = row[blocks, p].clamp(min=tiny[blocks, p])
        # A positive definite H has l_i^2 <= H_ii; rounding that breaks this would grow without bound.
        bound = (diag - tiny).clamp(min=0).sqrt()
        l = (row / pivot.sqrt().unsqueeze(1)).clamp(-bound, bound)
        l[blocks, p] = pivot.sqrt()
        c = w[blocks, p] / pivot.sqrt()

        total = total + ((w if update else start)[blocks, p].square() / pivot) / 2
        sequence[:, k] = p
        loss[blocks, p], coefficients[blocks, p], factor[blocks, p] = total, c, l
        w = w - c.unsqueeze(1) * l
        diag = diag - l.square()
        gone[blocks, p] = True
        closed = gone.clone()
        if group is not None:
            lost = gone.view(n, -1, group[1]).sum(2, keepdim=True)  # (n, B/M, 1) removals in each group
            closed = closed | (lost >= group[1] - group[0]).expand(-1, -1, group[1]).reshape(n, B)

    if steps < B:  # the survivors, in their own order, complete the permutation
        sequence[:, steps:] = gone.to(torch.int8).argsort(stable=True, dim=1)[:, : B - steps]
    return loss, sequence, coefficients, factor, 0
