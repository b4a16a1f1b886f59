"""One dense model, one seed: the Fisher, the lambda of each method, and pruned copies at any sparsity."""

import copy
from functools import cached_property

from torch import nn

from ovit_core import data, models, training
from ovit_core.config import Config
from ovit_core.dense import Upstream
from ovit_core.fisher import BlockFisher
from ovit_core.progress import progress
from ovit_core.pruning import Plan, estimate_fisher, get_method, install, needs_fisher

# The ablated forms inherit oViT's lambda: they ask what is lost by removing a part of it, all else equal.
INHERITS = {"ovit_mask_only": "ovit", "ovit_no_update": "ovit"}


class Surgeon:
    """Prunes copies of a dense model by any method; the Fisher is estimated once, and only when a method asks.

    Args:
        config: gradients, block size and the list of lambdas to choose from.
        upstream: the dense model and its data.
        seed: of the gradients' order and of random scores.
    """

    def __init__(self, config: Config, upstream: Upstream, seed: int):
        self.config, self.upstream, self.seed = config, upstream, seed
        self.weights = models.prunable(upstream.model)
        self.search: dict[str, dict[float, float]] = {}  # method -> lambda -> validation top-1
        self._plans: dict[str, Plan] = {}
        self._inverses: dict[float, dict] = {}

    @cached_property
    def fisher(self) -> BlockFisher:
        c = self.config
        loader = data.batches(self.upstream.data.train, c.gradient_batch, seed=self.seed)
        return estimate_fisher(self.upstream.model, loader, c.gradients, c.block_size)

    def damp(self, method: str) -> float | None:
        """The lambda with the best validation top-1 at `damp_sparsity`, from the one list; None if it needs none."""
        method = INHERITS.get(method, method)
        if not needs_fisher(get_method(method)):
            return None
        if method not in self.search:
            loader = data.batches(self.upstream.data.val, 500)
            self.search[method] = {}
            for damp in progress(self.config.damps, desc=f"lambda of {method}"):
                model = self._copy(self._solve(method, damp), self.config.damp_sparsity)
                self.search[method][damp] = float(training.evaluate(model, loader)[0].mean())
        return max(self.search[method], key=self.search[method].get)

    def pruned(self, method: str, sparsity: float, allocation: str = "global") -> nn.Module:
        """A pruned copy of the dense model, masks attached; "dense" gives a plain copy."""
        if method == "dense":
            return copy.deepcopy(self.upstream.model)
        if method not in self._plans:
            self._plans.clear()  # one factorization in memory at a time; methods are asked for in turn
            self._plans[method] = self._solve(method, self.damp(method))
        return self._copy(self._plans[method], sparsity, allocation)

    def _solve(self, method: str, damp: float | None) -> Plan:
        chosen = get_method(method)
        if not needs_fisher(chosen):
            return Plan(self.weights, chosen, seed=self.seed)
        if damp not in self._inverses:
            self._inverses[damp] = {name: self.fisher.inverse(name, damp) for name in self.weights}
        return Plan(self.weights, chosen, self.fisher, damp, self._inverses[damp], self.seed)

    def _copy(self, plan: Plan, sparsity: float, allocation: str = "global") -> nn.Module:
        model = copy.deepcopy(self.upstream.model)
        install(model, plan.at(sparsity, allocation))
        return model
