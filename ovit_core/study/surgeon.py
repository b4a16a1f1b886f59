"""One dense model, one seed: its curvature, the lambda of each method, and pruned copies at any sparsity."""

import copy

import torch
from torch import nn

from ovit_core import masks, models, training
from ovit_core.curvature import SharedInverse, estimate
from ovit_core.data.batches import EVAL_BATCH, batches
from ovit_core.fisher import fit_block_size
from ovit_core.methods import METHODS, get_method
from ovit_core.pattern import UNSTRUCTURED, Pattern
from ovit_core.plan import Plan, Point, solve
from ovit_core.progress import progress
from ovit_core.pruning import already_removed, install
from ovit_core.study.dense import Upstream
from ovit_core.study.parameters import Parameters
from ovit_core.study.store import Run

# Forms of a method that only differ in the update share its lambda, and so its mask: they ask what is lost or won by
# that part, all else equal. So does `ovit_no_update`, which is oViT without it. Magnitude's mask knows no lambda.
INHERITS = {
    "ovit_mask_only": "ovit",
    "ovit_no_update": "ovit",
    "ovit_no_update_joint": "ovit",
    "obert_mask_only": "obert",
    "obert_joint": "obert",
    "obc_mask_only": "obc",
}
Regime = tuple[str, Pattern]  # how zeros are spread: the allocation and the pattern
GLOBAL = ("global", UNSTRUCTURED)
# The study's models are small: this keeps the smallest lambdas of the list meaningful.
DTYPE = torch.float64


class Surgeon:
    """Prunes copies of a dense model by any method; `seed` is of the gradients' order and of random scores."""

    def __init__(self, config: Parameters, upstream: Upstream, seed: int):
        self.config, self.upstream, self.seed = config, upstream, seed
        self.weights = models.prunable(upstream.model, config.prunable)
        implied = {pattern.sparsity for pattern in config.patterns}
        asked = {config.damp_sparsity, *(s for _, sparsities in config.points.values() for s in sparsities)} - implied
        already_removed(upstream.model, self.weights, min(asked, default=1), "global", UNSTRUCTURED)  # if it is sparse
        self.search: dict[str, dict[float, float]] = {}  # method -> lambda -> validation top-1
        self._curvatures: dict[tuple, SharedInverse] = {}  # each estimated once, when a method asks
        self._solved: tuple[tuple, Plan] | None = None  # the last plan: methods are asked for in turn

    def twin(self) -> "Surgeon":
        """Another surgeon that begins with what this one found out."""
        other = Surgeon(self.config, self.upstream, self.seed)
        other.search, other._curvatures = dict(self.search), dict(self._curvatures)
        return other

    def curvature(self, kind: str, pattern: Pattern = UNSTRUCTURED) -> SharedInverse:
        """The Fisher ("fisher") or the input Hessian ("inputs") of the dense model; a pattern whose M does not divide
        the blocks gets one of its own.
        """
        size = self.config.block_size
        key = (kind, *(fit_block_size(w[0].numel(), size, pattern.of) for w in self.weights.values()))
        if key not in self._curvatures:
            # A copy: layers that are listened to must see no images but the estimate's.
            self._curvatures[key] = self._estimate(copy.deepcopy(self.upstream.model), kind, pattern)
        return self._curvatures[key]

    def _estimate(self, model: nn.Module, kind: str, pattern: Pattern = UNSTRUCTURED) -> SharedInverse:
        c = self.config
        loader = batches(self.upstream.data.train, c.gradient_batch, seed=self.seed)
        if self.upstream.headless:
            torch.manual_seed(self.seed)  # its loss is a random sketch of the outputs
        weights = models.prunable(model, c.prunable)
        options = dict(kind=kind, block_size=c.block_size, dtype=DTYPE, multiple=pattern.of)
        return SharedInverse(estimate(model, weights, loader, c.gradients, **options))

    def damp(self, method: str) -> float | None:
        """A method's lambda, from the one list, by `judge` on validation at `damp_sparsity`; None if it needs none.

        The largest that is within one standard error of the best: the optimum is flat towards small lambdas, and
        which of them is ahead by a few images is chance that would differ from seed to seed.
        """
        method = INHERITS.get(method, method)
        if not get_method(method).needs_curvature:
            return None
        if method not in self.search:
            damps = progress(self.config.damps, desc=f"lambda of {method}")
            found = {d: self.judge(self.pruned(method, self.config.damp_sparsity, damp=d)) for d in damps}
            self.search[method] = found  # whole: a search that was stopped chooses nothing
        best = max(self.search[method].values())
        error = 0.0 if self.upstream.headless else (best * (1 - best) / len(self.upstream.data.val)) ** 0.5
        return max(damp for damp, accuracy in self.search[method].items() if accuracy >= best - error)

    @property
    def judged_by(self) -> str:
        """The metric of `judge`."""
        return "validation_r2" if self.upstream.headless else "validation_top1"

    @torch.no_grad()
    def judge(self, model: nn.Module) -> float:
        """A model's validation top-1; without a head the share of the dense features' variance that its own have."""
        loader = batches(self.upstream.data.val, EVAL_BATCH)
        if not self.upstream.headless:
            return float(training.evaluate(model, loader)[0].mean())
        device = models.pick_device(self.config.device)
        z, dense = (
            torch.cat([m.eval()(x.to(device)) for x, _ in loader]) for m in (model, self.upstream.model)
        )  # (n, k)
        return float(1 - (z - dense).square().sum() / (dense - dense.mean(0)).square().sum())

    def choose_damps(self, run: Run) -> None:
        """Settles the lambda of every method asked for, from the run's rows where they are there, else by search."""
        methods = [m for asked, _ in self.config.points.values() for m in asked if get_method(m).needs_curvature]
        for method in dict.fromkeys(INHERITS.get(m, m) for m in methods):
            key = dict(phase="lambda_search", method=method, dataset=self.config.upstream, metric=self.judged_by)
            known = {r["damp"]: r["value"] for r in run.rows if all(r[k] == v for k, v in key.items())}
            if known.keys() == set(self.config.damps):
                self.search[method] = known
            self.damp(method)
            score, update = get_method(method)[:2]
            for damp, accuracy in self.search[method].items():
                if damp not in known:
                    point = dict(damp=damp, sparsity_target=self.config.damp_sparsity, score=score, update=update)
                    run.add(accuracy, **key, **point)

    def forget(self) -> None:
        """Frees the last factorization and inverses, each as large as the Fisher; what was found out stays."""
        self._solved = None
        for curvature in self._curvatures.values():
            curvature.forget()

    def describe(self, method: str, model: nn.Module) -> dict:
        """The columns of a row that say what a model is."""
        score, update = METHODS[method][:2] if method in METHODS else ("", "")
        damp = self.damp(method) if method in METHODS else None
        zeros = dict(sparsity=masks.sparsity(model), sparsity_model=masks.model_sparsity(model))
        return dict(score=score, update=update, **zeros, damp=damp or "")

    def solve(self, method: str, pattern: Pattern = UNSTRUCTURED, damp: float | None = None) -> Plan:
        """A method solved for the dense model's weights, at its chosen lambda or at `damp`."""
        chosen = get_method(method)
        curvature = self.curvature(chosen.curvature, pattern) if chosen.needs_curvature else None
        for other in self._curvatures.values():
            if other is not curvature:
                other.forget()  # one set of inverses in memory at a time
        options = dict(pattern=pattern, block_size=self.config.block_size, seed=self.seed)
        options |= dict(damp=damp or self.damp(method), masks=masks.of(self.upstream.model))
        return solve(self.weights, chosen, curvature, **options)

    def point(self, method: str, sparsity: float, regime: Regime = GLOBAL, damp: float | None = None) -> Point:
        """A point of a method's curve, at its chosen lambda or at `damp`."""
        allocation, pattern = regime
        key = (method, pattern, damp or self.damp(method))
        if self._solved is None or self._solved[0] != key:
            self._solved = None  # freed before the next
            self._solved = key, self.solve(method, pattern, key[2])
        return self._solved[1].at(sparsity, allocation)

    def pruned(self, method: str, sparsity: float, regime: Regime = GLOBAL, damp: float | None = None) -> nn.Module:
        """A pruned copy of the dense model, masks attached; "dense" gives a plain copy. Arguments as of `point`."""
        model = copy.deepcopy(self.upstream.model)
        if method != "dense":
            install(model, self.point(method, sparsity, regime, damp))
        return model

    def prune_again(self, model: nn.Module, method: str, sparsity: float) -> None:
        """Prunes a model further in place: curvature of its current weights under their masks, zeros stay zero."""
        chosen, weights = get_method(method), models.prunable(model, self.config.prunable)
        curvature = self._estimate(model, chosen.curvature).curvature if chosen.needs_curvature else None
        options = dict(damp=self.damp(method), masks=masks.of(model), seed=self.seed, consume=True)
        install(model, solve(weights, chosen, curvature, **options).at(sparsity))
