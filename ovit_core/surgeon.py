"""One dense model, one seed: the Fisher, the lambda of each method, and pruned copies at any sparsity."""

import copy

import torch
from torch import nn

from ovit_core import masks, models, training
from ovit_core.batches import EVAL_BATCH, batches
from ovit_core.config import Config
from ovit_core.curvature import Curvature, estimate_fisher, estimate_inputs
from ovit_core.dense import Upstream
from ovit_core.fisher import fit_block_size
from ovit_core.plan import Plan, Pruned, parse_pattern
from ovit_core.progress import progress
from ovit_core.pruning import METHODS, get_method, install
from ovit_core.results import Run

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


class Surgeon:
    """Prunes copies of a dense model by any method; curvature is estimated once, and only when a method asks.

    Args:
        config: gradients, block size and the list of lambdas to choose from.
        upstream: the dense model and its data.
        seed: of the gradients' order and of random scores.
    """

    def __init__(self, config: Config, upstream: Upstream, seed: int):
        self.config, self.upstream, self.seed = config, upstream, seed
        self.weights = models.prunable(upstream.model, config.prunable)
        self.search: dict[str, dict[float, float]] = {}  # method -> lambda -> validation top-1
        self._plans: dict[tuple, Plan] = {}
        self._curvatures: dict[tuple, Curvature] = {}
        self._inverses: tuple[tuple | None, dict] = (None, {})  # the last lambda's, shared by its methods

    def curvature(self, kind: str, pattern: str = "unstructured") -> Curvature:
        """The Fisher ("fisher") or the input Hessian ("inputs") of the dense model; a pattern whose M does not divide
        the blocks gets one of its own.
        """
        key = (kind, self._sizes(pattern))
        if key not in self._curvatures:
            # A copy: layers that are listened to must see no images but the estimate's.
            self._curvatures[key] = self._estimate(copy.deepcopy(self.upstream.model), kind, pattern)
        return self._curvatures[key]

    def _sizes(self, pattern: str) -> tuple[int, ...]:
        """The block size of every weight."""
        return tuple(
            fit_block_size(w[0].numel(), self.config.block_size, _multiple(pattern)) for w in self.weights.values()
        )

    def damp(self, method: str) -> float | None:
        """A method's lambda, from the one list, by validation top-1 at `damp_sparsity`; None if it needs none.

        The largest that is within one standard error of the best: the optimum is flat towards small lambdas, and
        which of them is ahead by a few images is chance that would differ from seed to seed.
        """
        method = INHERITS.get(method, method)
        if not get_method(method).needs_curvature:
            return None
        if method not in self.search:
            loader = batches(self.upstream.data.val, EVAL_BATCH)
            found = {}
            for damp in progress(self.config.damps, desc=f"lambda of {method}"):
                model = self.pruned(method, self.config.damp_sparsity, damp=damp)
                found[damp] = float(training.evaluate(model, loader)[0].mean())
            self.search[method] = found  # whole: a search that was stopped chooses nothing
        best = max(self.search[method].values())
        error = (best * (1 - best) / len(self.upstream.data.val)) ** 0.5
        return max(damp for damp, accuracy in self.search[method].items() if accuracy >= best - error)

    def choose_damps(self, run: Run, methods: list[str]) -> None:
        """Settles the lambda of every method, from the run's rows where they are there, else by search, into rows."""
        for method in dict.fromkeys(INHERITS.get(m, m) for m in methods if get_method(m).needs_curvature):
            key = dict(phase="lambda_search", method=method, dataset=self.config.upstream, metric="validation_top1")
            found = {r["damp"]: r["value"] for r in run.rows if all(r[k] == v for k, v in key.items())}
            if found.keys() == set(self.config.damps):
                self.search[method] = found
                continue
            self.damp(method)
            score, update = get_method(method)[:2]
            for damp, accuracy in self.search[method].items():
                if damp not in found:
                    point = dict(damp=damp, sparsity_target=self.config.damp_sparsity, score=score, update=update)
                    run.add(accuracy, **key, **point)

    def forget(self) -> None:
        """Frees the last factorization and inverses, each as large as the Fisher; what was found out stays."""
        self._plans.clear()
        self._inverses = (None, {})

    def describe(self, method: str, model: nn.Module) -> dict:
        """The columns of a row that say what a model is."""
        known = METHODS.get(method)
        return dict(
            score=known.score if known else "",
            update=known.update if known else "",
            sparsity=masks.sparsity(model),
            sparsity_model=masks.model_sparsity(model),
            damp=(self.damp(method) or "") if known else "",
        )

    def point(
        self,
        method: str,
        sparsity: float,
        allocation: str = "global",
        pattern: str = "unstructured",
        damp: float | None = None,
    ) -> Pruned:
        """A point of a method's curve, at its chosen lambda or at `damp`."""
        key = (method, pattern, damp or self.damp(method))
        if key not in self._plans:
            self._plans.clear()  # one factorization in memory at a time; methods are asked for in turn
            self._plans[key] = self._solve(method, key[2], pattern)
        return self._plans[key].at(sparsity, allocation)

    def pruned(self, method: str, sparsity: float, **options) -> nn.Module:
        """A pruned copy of the dense model, masks attached; "dense" gives a plain copy. Options as of `point`."""
        model = copy.deepcopy(self.upstream.model)
        if method != "dense":
            install(model, self.point(method, sparsity, **options))
        return model

    def prune_again(self, model: nn.Module, method: str, sparsity: float) -> None:
        """Prunes a model further in place: curvature of its current weights under their masks, zeros stay zero."""
        chosen, weights = get_method(method), models.prunable(model, self.config.prunable)
        curvature = self._estimate(model, chosen.curvature) if chosen.needs_curvature else None
        plan = Plan(weights, chosen, curvature, self.damp(method), masks=masks.of(model), seed=self.seed, consume=True)
        install(model, plan.at(sparsity))

    def _estimate(self, model: nn.Module, kind: str, pattern: str = "unstructured") -> Curvature:
        c = self.config
        estimate = estimate_inputs if kind == "inputs" else estimate_fisher
        loader = batches(self.upstream.data.train, c.gradient_batch, seed=self.seed)
        # The study's models are small: float64 keeps the smallest lambdas of the list meaningful.
        options = dict(prunable=c.prunable, dtype=torch.float64, multiple=_multiple(pattern))
        return estimate(model, loader, c.gradients, c.block_size, **options)

    def _solve(self, method: str, damp: float | None, pattern: str = "unstructured") -> Plan:
        chosen = get_method(method)
        options = dict(pattern=pattern, seed=self.seed)
        if not chosen.needs_curvature:
            return Plan(self.weights, chosen, **options)
        curvature = self.curvature(chosen.curvature, pattern)
        key = (chosen.curvature, self._sizes(pattern), damp)
        if self._inverses[0] != key:
            self._inverses = (None, {})  # one set in memory at a time
            self._inverses = key, {name: curvature.inverse(name, damp) for name in self.weights}
        return Plan(self.weights, chosen, curvature, damp, self._inverses[1], **options)


def _multiple(pattern: str) -> int:
    """What N:M asks of a block size: to be a multiple of M."""
    return group[1] if (group := parse_pattern(pattern)) else 1
