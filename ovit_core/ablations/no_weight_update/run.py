"""Ablation A at work: where methods act, how long dense is trained, and pruning between epochs of training."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ovit_core import masks, training
from ovit_core.ablations.no_weight_update.parameters import NoWeightUpdate
from ovit_core.data.batches import EVAL_BATCH, batches
from ovit_core.study import dense, identity, measure
from ovit_core.study.store import Measured
from ovit_core.study.tasks import VALIDATION, Task, World, identity_of


class Seed(measure.Seed):
    """One seed of ablation A."""

    config: NoWeightUpdate

    def __init__(self, config: NoWeightUpdate, seed: int, world: World = measure.NOWHERE):
        super().__init__(config, seed, world)
        # Of each task, for every method is compared with all others.
        self._kept: dict[tuple, dict[str, Tensor]] = {}

    def where_it_acts(self, task: Task) -> Iterable[Measured]:
        """Per layer the sparsity, and the share of the correction's squared norm; or the intersection over union of what
        this method and another keep.
        """
        mine, *others = task.sources
        for name, kept in self.kept(mine).items() if ("sparsity", "layer") in task.metrics else ():
            layer = dict(scope="layer", scope_name=name)
            yield Measured(layer | dict(metric="sparsity", value=1 - float(kept.float().mean())))
        if ("correction_share", "layer") in task.metrics:
            moved, weights = self.pruned(mine), self.surgeon(mine).weights
            squares = {
                name: float(((moved.get_parameter(name) - w) * masks.of(moved)[name]).detach().square().sum())
                for name, w in weights.items()
            }
            for name, square in squares.items():
                layer = dict(scope="layer", scope_name=name)
                yield Measured(layer | dict(metric="correction_share", value=square / (sum(squares.values()) or 1.0)))
        for other in others:
            pairs = [(kept, self.kept(other)[name]) for name, kept in self.kept(mine).items()]
            both, either = (sum(int(f(a, b).sum()) for a, b in pairs) for f in (torch.logical_and, torch.logical_or))
            where = dict(scope="method", scope_name=other.columns["method"])
            yield Measured(where | dict(metric="mask_overlap", value=both / either))

    def kept(self, task: Task) -> dict[str, Tensor]:
        """The masks of a one-shot task: name -> boolean tensor, True = kept."""
        key = identity_of(task)
        if key not in self._kept:
            self._kept[key] = masks.of(self.pruned(task))
        return self._kept[key]

    def dense_length(self, task: Task) -> Iterable[Measured]:
        """What the dense model has on validation, or one trained for another number of epochs."""
        other = dense.upstream(self.config.model_copy(update=dict(epochs=task.columns["epochs"])), self.seed)
        found = training.evaluate(other.model, batches(other.data.val, EVAL_BATCH))
        yield Measured(dict(metric=VALIDATION, value=found.accuracy))

    def gradual(self, task: Task) -> list[Measured]:
        """A gradually pruned model on the test split."""
        return self.tested(self.pruned_gradually(task))

    def gradual_rate(self, task: Task) -> Iterable[Measured]:
        """What a learning rate of gradual pruning gives on validation."""
        yield self.judged(task, self.pruned_gradually)

    def pruned_gradually(self, task: Task) -> nn.Module:
        """Pruning steps spread evenly over the training, a cycle of training after each and a last one to hold, in
        which the learning rate falls linearly from its peak anew (oViT section 4); one optimizer throughout. The dense
        control trains through the same cycles.
        """
        c, method, damp = self.config, task.columns["method"], task.columns["damp"] or None
        surgeon, epochs = self.surgeon(task), task.columns["epochs"]
        model, cycle = surgeon.pruned("dense", 0.0), epochs // c.gradual_cycles

        def prune(epoch: int) -> None:
            step, rest = divmod(epoch, cycle)
            if method != "dense" and not rest and step < len(c.gradual_steps):
                surgeon.prune_again(model, method, c.gradual_steps[step], damp, step)

        model = training.train(
            model, self.recovery_epoch(), epochs, task.columns["lr"], c.weight_decay, final_lr=c.gradual_final_lr,
            decay="linear", warmup=0.0, cycles=c.gradual_cycles, before_epoch=prune, seed=self.seed,
            checkpoint=identity.resume(task), amp_dtype=c.amp_dtype, desc=str(task),
        )  # fmt: skip
        assert method == "dense" or masks.sparsity(model) > 0  # and raises where a removed weight came back
        return model
