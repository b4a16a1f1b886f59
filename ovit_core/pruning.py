"""Methods of pruning, score x update, and the global threshold that turns scores into masks.

Every method is an order and a non-decreasing loss inside each block, so a threshold over all blocks cuts a prefix
of every order, and one `Plan` answers every sparsity.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovit_core import masks, models
from ovit_core.elimination import eliminate
from ovit_core.fisher import BlockFisher, fit_block_size
from ovit_core.progress import progress


class Method(NamedTuple):
    """Which weights go (score) and what becomes of the others (update).

    score: greedy, greedy_frozen (elimination with the weights as corrected, or as given), static (w^2 / 2 H_ii),
        diagonal (the same with B = 1), magnitude, random.
    update: joint (exact OBS for the removed set), independent (the sum of single-weight updates), none.
    """

    score: str
    update: str
    about: str


METHODS = {
    "ovit": Method("greedy", "joint", "oViT: greedy elimination, every removal corrected by the others"),
    "ovit_mask_only": Method("greedy", "none", "oViT's mask, the kept weights left alone"),
    "ovit_no_update": Method("greedy_frozen", "none", "elimination that never touches the weights, not even to score"),
    "ovit_no_update_joint": Method("greedy_frozen", "joint", "that mask, kept weights corrected"),
    "obert": Method("static", "independent", "oBERT / WoodFisher: all weights scored once, single updates summed"),
    "obert_mask_only": Method("static", "none", "oBERT's mask, the kept weights left alone"),
    "obert_joint": Method("static", "joint", "oBERT's mask, kept weights corrected together"),
    "magnitude": Method("magnitude", "none", "smallest absolute weights go"),
    "magnitude_joint": Method("magnitude", "joint", "magnitude's mask, kept weights corrected"),
    "diag_fisher": Method("diagonal", "none", "diagonal Fisher: blocks of one weight"),
    "random": Method("random", "none", "a floor"),
}
ALLOCATIONS = ("global", "uniform")


def get_method(name: str) -> Method:
    """Raises ValueError with the table's names if there is no such method."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; one of {', '.join(METHODS)}")
    return METHODS[name]


def needs_fisher(method: Method) -> bool:
    return method.score not in ("magnitude", "random") or method.update != "none"


def check_sparsity(sparsity: float) -> float:
    """Raises ValueError unless 0 <= sparsity <= 1."""
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must lie in [0, 1], not {sparsity}")
    return sparsity


def count_removed(losses: list[Tensor], total: int) -> list[Tensor]:
    """How many weights each block loses so that exactly `total` go, cheapest first.

    Args:
        losses: one (n_blocks, B) per weight tensor, by step, non-decreasing along each row.
        total: weights to remove over all of them.

    Returns:
        One (n_blocks,) int64 per tensor. Equal losses go by step, then block, so that prefixes stay whole.
    """
    if total == 0:
        return [torch.zeros(len(l), dtype=torch.int64, device=l.device) for l in losses]
    threshold = torch.cat([l.flatten() for l in losses]).kthvalue(total).values
    counts = [(l < threshold).sum(1) for l in losses]
    missing = total - sum(int(c.sum()) for c in counts)
    ties = []  # (step, tensor, block) of weights exactly at the threshold
    for i, l in enumerate(losses):
        block, step = (l == threshold).nonzero(as_tuple=True)
        ties.append(torch.stack([step, torch.full_like(step, i), block], 1))
    ties = torch.cat(ties)
    # Already in (tensor, block, step) order: a stable sort by step leaves ties in (step, tensor, block) order.
    chosen = ties[ties[:, 0].sort(stable=True).indices[:missing]]
    for i, c in enumerate(counts):
        c += torch.bincount(chosen[chosen[:, 1] == i, 2], minlength=len(c))
    return counts


@dataclass
class _Layer:
    """One weight tensor, solved: n blocks of B."""

    weights: Tensor  # (n, B)
    order: Tensor  # (n, B) weight by step
    loss: Tensor  # (n, B) by step, non-decreasing
    elimination: object = None  # for the joint update
    inverse: Tensor | None = None  # (n, B, B), for the independent update


class Pruned(NamedTuple):
    """A point of the curve: name -> weight, name -> boolean mask (True = kept), and the loss accumulated by what was
    removed: oViT's prediction of the loss increase, None for methods whose score is no such sum.
    """

    weights: dict[str, Tensor]
    masks: dict[str, Tensor]
    loss: float | None


class Plan:
    """A method solved once for a set of weights; `at` then gives any sparsity without further factorization.

    Args:
        weights: name -> tensor.
        method: a row of METHODS.
        fisher: their Fisher; None for methods that need none.
        damp: another lambda than the Fisher's own.
        inverses: name -> (n, B, B), to share one inversion among methods; left unchanged.
        seed: of the random score.
        backend: of `eliminate`.
    """

    def __init__(
        self,
        weights: dict[str, Tensor],
        method: Method,
        fisher: BlockFisher | None = None,
        damp: float | None = None,
        inverses: dict[str, Tensor] | None = None,
        seed: int = 0,
        backend: str = "auto",
    ):
        if fisher is None and needs_fisher(method):
            raise ValueError(f"score {method.score!r} with update {method.update!r} needs a Fisher: give gradients")
        self.method, self.fallbacks = method, 0
        self.shapes = {name: w.shape for name, w in weights.items()}
        self.dtypes = {name: w.dtype for name, w in weights.items()}
        self._layers: dict[str, _Layer] = {}
        generator = torch.Generator().manual_seed(seed)
        for name, weight in weights.items():
            B = fisher.block_sizes[name] if fisher else fit_block_size(weight[0].numel(), 192)
            w = weight.detach().to(fisher.dtype if fisher else torch.float32).reshape(-1, B)
            H = None
            if needs_fisher(method) and method.score != "diagonal":
                H = inverses[name] if inverses else fisher.inverse(name, damp)
            floor = None if H is None else fisher.diagonal(name, damp).reciprocal()
            e = None
            if method.score in ("greedy", "greedy_frozen"):
                e = eliminate(w, H.clone(), update=method.score == "greedy", backend=backend, floor=floor)
                loss, order = e.loss.gather(1, e.order), e.order
            else:
                if method.score == "static":
                    score = w.square() / H.diagonal(dim1=1, dim2=2) / 2
                elif method.score == "diagonal":
                    score = w.square() * fisher.diagonal(name, damp) / 2  # B = 1: H_ii = 1 / F_ii
                elif method.score == "magnitude":
                    score = w.abs()
                else:
                    score = torch.rand(w.shape, generator=generator).to(w.device)
                loss, order = score.sort(stable=True, dim=1)
            if method.update == "joint" and e is None:
                e = eliminate(w, H.clone(), order=order, backend=backend, floor=floor)
            self.fallbacks += e.fallbacks if e else 0
            keep_H = H if method.update == "independent" else None
            self._layers[name] = _Layer(w, order, loss, e if method.update == "joint" else None, keep_H)

    def at(self, sparsity: float, allocation: str = "global") -> Pruned:
        """The weights and masks at a sparsity: exactly round(sparsity * d) zeros (per tensor if `uniform`).

        Raises:
            ValueError: sparsity outside [0, 1], or an unknown allocation.
        """
        check_sparsity(sparsity)
        if allocation not in ALLOCATIONS:
            raise ValueError(f"unknown allocation {allocation!r}; one of {', '.join(ALLOCATIONS)}")
        losses = [layer.loss for layer in self._layers.values()]
        if allocation == "global":
            counts = count_removed(losses, round(sparsity * sum(l.numel() for l in losses)))
        else:
            counts = [count_removed([l], round(sparsity * l.numel()))[0] for l in losses]
        weights, kept, total = {}, {}, 0.0
        for (name, layer), removed in zip(self._layers.items(), counts):
            n, B = layer.order.shape
            step = torch.arange(B, device=layer.order.device).expand(n, B)
            mask = torch.ones_like(layer.order, dtype=torch.bool)
            mask.scatter_(1, layer.order, step >= removed.unsqueeze(1))
            if self.method.update == "joint":
                w = layer.elimination.weights_at(removed, update=True)
            elif self.method.update == "independent":
                # each removal alone moves the others by -(w_p / H_pp) H[p, :]
                gone = torch.where(mask, 0, layer.weights / layer.inverse.diagonal(dim1=1, dim2=2))
                moved = torch.bmm(gone.unsqueeze(1), layer.inverse).squeeze(1)  # (n, 1, B) @ (n, B, B)
                w = torch.where(mask, layer.weights - moved, 0)
            else:
                w = layer.weights * mask
            last = layer.loss.gather(1, (removed - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
            total += float(last[removed > 0].sum())
            weights[name], kept[name] = (
                w.reshape(self.shapes[name]).to(self.dtypes[name]),
                mask.reshape(self.shapes[name]),
            )
        return Pruned(weights, kept, total if self.method[:2] == ("greedy", "joint") else None)


def estimate_fisher(
    model: nn.Module,
    loader: Iterable,
    gradients: int,
    block_size: int = 192,
    damp: float = 1e-8,
    prunable: str = models.PRUNABLE,
    dtype: torch.dtype = torch.float32,
) -> BlockFisher:
    """The Fisher of a model's prunable weights from `gradients` mini-batches (each one gradient of the mean
    cross-entropy, model in eval mode). Goes round the loader as often as needed.

    Raises:
        ValueError: fewer than one gradient asked for, or an empty loader.
    """
    if gradients < 1:
        raise ValueError(f"gradients must be at least 1, not {gradients}")
    weights = models.prunable(model, prunable)
    device = next(iter(weights.values())).device
    fisher = BlockFisher({n: w.shape for n, w in weights.items()}, block_size, damp, device=device, dtype=dtype)
    current = {n: m.to(device) for n, m in masks.of(model).items()}
    training = model.training
    model.eval()
    with progress(total=gradients, desc="Fisher gradients") as bar:
        while fisher.count < gradients:
            before = fisher.count
            for images, labels in loader:
                loss = F.cross_entropy(model(images.to(device)), labels.to(device))
                found = torch.autograd.grad(loss, list(weights.values()))
                fisher.add({n: g * current[n] if n in current else g for n, g in zip(weights, found)})
                bar.update()
                if fisher.count == gradients:
                    break
            if fisher.count == before:
                raise ValueError("the loader is empty: a Fisher needs images")
    model.train(training)
    return fisher


@dataclass
class Report:
    """What `prune` did. `layers` has one dict per weight: name, weights, block_size, sparsity."""

    method: str
    sparsity: float
    sparsity_model: float
    masks: dict[str, Tensor]
    layers: list[dict]
    predicted_loss: float | None
    damp: float | None
    fallbacks: int
    dense: dict[str, str]


def prune(
    model: nn.Module,
    method: str = "ovit",
    sparsity: float = 0.9,
    loader: Iterable | None = None,
    gradients: int = 512,
    block_size: int = 192,
    damp: float = 1e-8,
    allocation: str = "global",
    prunable: str = models.PRUNABLE,
    seed: int = 0,
    backend: str = "auto",
) -> Report:
    """Prunes a model in place, in one step, and attaches its masks.

    Args:
        model: any model; timm's ViT families match the default pattern.
        method: a name of METHODS.
        sparsity: zeros over prunable weights, in [0, 1].
        loader: (images, labels) batches; each gives one gradient. Not needed by magnitude and random.
        gradients: mini-batch gradients of the Fisher.
        block_size, damp: of the Fisher. damp is absolute; the best value depends on model, data and batch.
        allocation: one `global` threshold, or `uniform` sparsity per weight.
        prunable: regular expression of the prunable weights' names.

    Raises:
        ValueError: an argument is out of range or unknown, or no name matches `prunable`. Before any work.
    """
    chosen = get_method(method)
    check_sparsity(sparsity)
    weights = models.prunable(model, prunable)
    if needs_fisher(chosen) and loader is None:
        raise ValueError(f"method {method!r} needs a loader of (images, labels) for its gradients")
    fisher = estimate_fisher(model, loader, gradients, block_size, damp, prunable) if needs_fisher(chosen) else None
    plan = Plan(weights, chosen, fisher, seed=seed, backend=backend)
    pruned = plan.at(sparsity, allocation)
    install(model, pruned)
    sizes = fisher.block_sizes if fisher else {}
    return Report(
        method,
        masks.sparsity(model),
        masks.model_sparsity(model),
        pruned.masks,
        [
            dict(name=n, weights=m.numel(), block_size=sizes.get(n), sparsity=1 - float(m.float().mean()))
            for n, m in pruned.masks.items()
        ],
        pruned.loss,
        damp if fisher else None,
        plan.fallbacks,
        models.unmatched(model, prunable),
    )


@torch.no_grad()
def install(model: nn.Module, pruned: Pruned) -> None:
    """Writes a point of a plan's curve into the model, masks included."""
    for name, weight in pruned.weights.items():
        model.get_parameter(name).copy_(weight)
    masks.attach(model, pruned.masks)
