"""One dense model, one seed: its curvature, and pruned copies at any sparsity and lambda."""

import copy
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from ovit_core import masks, models, training
from ovit_core.curvature import SharedInverse, estimate
from ovit_core.data.batches import EVAL_BATCH, batches
from ovit_core.fisher import BlockFisher, fit_block_size
from ovit_core.inputs import InputHessian
from ovit_core.methods import get_method
from ovit_core.pattern import UNSTRUCTURED, Pattern
from ovit_core.plan import Plan, Point, solve
from ovit_core.pruning import already_removed, install
from ovit_core.sequential import check_in_turn, prune_in_turn
from ovit_core.study.dense import Upstream
from ovit_core.study.parameters import Parameters

Spread = tuple[str, Pattern]  # of zeros: the allocation and the pattern
ONE_THRESHOLD = ("global", UNSTRUCTURED)
# The study's models are small: this keeps the smallest lambdas of the list meaningful.
DTYPE = torch.float64
# Tells the stream of random numbers that draws the curvature's images from all others: by the seed alone they would be
# those that training saw first, in the same order.
CURVATURE = 0xF15E


class Surgeon:
    """Prunes copies of a dense model by any method; `seed` is of the gradients' order and of random scores.

    Raises:
        ValueError: the model is sparse already, and the parameters ask for less than that.
    """

    def __init__(self, config: Parameters, upstream: Upstream, seed: int):
        self.config, self.upstream, self.seed = config, upstream, seed
        self.weights = models.prunable(upstream.model, config.prunable)
        implied = {pattern.sparsity for pattern in config.patterns}
        asked = {config.damp_sparsity, *(s for _, sparsities in config.points.values() for s in sparsities)} - implied
        already_removed(upstream.model, self.weights, min(asked, default=1), "global", UNSTRUCTURED)  # if it is sparse
        self._curvatures: dict[tuple, SharedInverse | InputHessian] = {}  # each estimated once, when a method asks
        self._solved: tuple[tuple, Plan] | None = None  # the last plan: methods are asked for in turn

    def twin(self) -> "Surgeon":
        """Another surgeon that begins with the curvature this one has."""
        other = Surgeon(self.config, self.upstream, self.seed)
        other._curvatures = dict(self._curvatures)
        return other

    def curvature(self, kind: str, pattern: Pattern = UNSTRUCTURED) -> SharedInverse | InputHessian:
        """The Fisher ("fisher") or the input Hessian ("inputs") of the dense model; a pattern whose M does not divide
        the Fisher's blocks gets one of its own.
        """
        size = self.config.block_size
        blocks = (fit_block_size(w[0].numel(), size, pattern.of) for w in self.weights.values())
        key = (kind, *blocks) if kind == "fisher" else (kind,)
        if key not in self._curvatures:
            # A copy: layers that are listened to must see no images but the estimate's.
            found = self._estimate(copy.deepcopy(self.upstream.model), kind, pattern)
            self._curvatures[key] = SharedInverse(found) if isinstance(found, BlockFisher) else found
        return self._curvatures[key]

    def _batches(self, step: int = 0) -> Iterable:
        """The images of the curvature at a pruning step, as an evaluation sees them. Every step takes the next ones of one
        order, so that several steps see as many different images as one that has the gradients of all.
        """
        train, count = self.upstream.data.train, self.config.gradients * self.config.gradient_batch
        order = np.random.default_rng([self.seed, CURVATURE]).permutation(len(train))
        return batches(train.take(order[np.arange(step * count, (step + 1) * count) % len(train)]).unaugmented(),
                       self.config.gradient_batch)  # fmt: skip

    def _estimate(
        self, model: nn.Module, kind: str, pattern: Pattern = UNSTRUCTURED, step: int = 0
    ) -> BlockFisher | InputHessian:
        c = self.config
        if self.upstream.headless:
            torch.manual_seed(self.seed + 1009 * step)  # its loss is a random sketch of the outputs
        weights = models.prunable(model, c.prunable)
        options = dict(kind=kind, block_size=c.block_size, dtype=DTYPE, multiple=pattern.of)
        return estimate(model, weights, self._batches(step), c.gradients, **options)

    @torch.no_grad()
    def judge(self, model: nn.Module, images: int | None = None) -> float:
        """A model's validation top-1, on at most so many images; without a head the share of the dense features' variance
        that its own have.
        """
        val = self.upstream.data.val
        chosen = np.random.default_rng(0).permutation(len(val))[:images]  # files lie class by class
        loader = batches(val.take(np.sort(chosen)), EVAL_BATCH)
        if not self.upstream.headless:
            return training.evaluate(model, loader).accuracy
        device = models.pick_device(self.config.device)
        z, dense = (
            torch.cat([m.eval()(x.to(device)) for x, _ in loader]) for m in (model, self.upstream.model)
        )  # (n, k)
        return float(1 - (z - dense).square().sum() / (dense - dense.mean(0)).square().sum())

    def forget(self) -> None:
        """Frees the last factorization and inverses, each as large as the Fisher; the sums they came from stay."""
        self._solved = None
        self._forget_inverses()

    def _forget_inverses(self, but: object = None) -> None:
        for curvature in self._curvatures.values():
            if isinstance(curvature, SharedInverse) and curvature is not but:
                curvature.forget()

    def solve(self, method: str, damp: float | None, pattern: Pattern = UNSTRUCTURED) -> Plan:
        """A method solved for the dense model's weights; lambda is None for one that needs none."""
        chosen = get_method(method)
        curvature = self.curvature(chosen.curvature, pattern) if chosen.needs_curvature else None
        self._forget_inverses(but=curvature)  # one set of inverses in memory at a time
        options = dict(pattern=pattern, block_size=self.config.block_size, seed=self.seed)
        options |= dict(damp=damp, masks=masks.of(self.upstream.model))
        return solve(self.weights, chosen, curvature, **options)

    def point(self, method: str, sparsity: float, damp: float | None, spread: Spread = ONE_THRESHOLD) -> Point:
        """A point of a method's curve."""
        allocation, pattern = spread
        key = (method, pattern, damp)
        if self._solved is None or self._solved[0] != key:
            self._solved = None  # freed before the next
            self._solved = key, self.solve(method, damp, pattern)
        return self._solved[1].at(sparsity, allocation)

    def pruned(
        self,
        method: str,
        sparsity: float,
        damp: float | None = None,
        spread: Spread = ONE_THRESHOLD,
        recomputations: int = 0,
    ) -> nn.Module:
        """A pruned copy of the dense model, masks attached; "dense" gives a plain copy. Arguments as of `point`;
        `recomputations` as of `prune`: curvature anew on the way, at evenly spaced sparsities.
        """
        model = copy.deepcopy(self.upstream.model)
        if method == "dense":
            return model
        if get_method(method).sequential:
            allocation, pattern = spread
            prune_in_turn(
                model, models.prunable(model, self.config.prunable), get_method(method), self._batches(),
                self.config.gradients, sparsity, allocation=allocation, pattern=pattern, damp=damp, dtype=DTYPE,
                seed=self.seed,
            )  # fmt: skip
            return model
        share = 1 / (recomputations + 1)  # of the way, a step
        gone = masks.removed_share(masks.of(model)) if recomputations else 0.0
        install(model, self.point(method, gone + (sparsity - gone) * share, damp, spread))
        for step in range(1, recomputations + 1):
            self.prune_again(model, method, gone + (sparsity - gone) * share * (step + 1), damp, step)
        return model

    def prune_again(self, model: nn.Module, method: str, sparsity: float, damp: float | None, step: int) -> None:
        """Prunes a model further in place: curvature of its current weights under their masks, zeros stay zero. The
        number of the `step` says which images are drawn for it.
        """
        chosen, weights = get_method(method), models.prunable(model, self.config.prunable)
        if chosen.sequential:
            check_in_turn(*ONE_THRESHOLD)
        curvature = self._estimate(model, chosen.curvature, step=step) if chosen.needs_curvature else None
        options = dict(damp=damp, masks=masks.of(model), seed=self.seed, consume=True)
        install(model, solve(weights, chosen, curvature, **options).at(sparsity))
