"""Methods solved for one dense model: every sparsity is then an answer away."""

import copy
import json
import time
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ovit_core import disk, masks, models
from ovit_core.data.batches import EVAL_BATCH, batches
from ovit_core.elimination import eliminate
from ovit_core.explorer.answers import Answers, ask
from ovit_core.explorer.parameters import Explore
from ovit_core.inputs import InputHessian
from ovit_core.methods import get_method
from ovit_core.pattern import Pattern
from ovit_core.plan import Plan, Point
from ovit_core.progress import progress
from ovit_core.pruning import install
from ovit_core.study import dense, lambdas, machine, paths, plots, provenance
from ovit_core.study.parameters import Parameters
from ovit_core.study.surgeon import Surgeon

# What a model depends on, and of that what only its curvature and the lambdas chosen by it do.
_SHARED = set(Parameters.model_fields) - {"profile"}
_CURVATURE = {"gradients", "gradient_batch", "block_size", "damps", "input_damps", "damp_sparsity", "search_images"}
GLANCE = 0.15  # seconds that images may take which are asked for before the slider rests


class Steps(NamedTuple):
    """One block's elimination, weight by weight: kept ones are left alone under "none", corrected under "joint"."""

    order: Tensor  # (B,) weight index by step
    weights: dict[str, Tensor]  # (B + 1, B), after 0..B removals
    loss: dict[str, Tensor]  # (B + 1,), the increase that the quadratic model, dampening included, expects of them


class Look(NamedTuple):
    """Some images and what the dense model and each method take them for."""

    images: np.ndarray  # (k, h, w, 3) uint8
    labels: np.ndarray  # (k,)
    answers: dict[str, Answers]  # of these, dense first
    disputed: int  # images on which any method disagrees with the dense model,
    of: int  # of so many


class Told(dict):
    """Weights that tell each layer a method comes to: factorizing has a bar, and ends where it is stopped."""

    def items(self):
        return progress(super().items(), desc="factorizing, layer", total=len(self))


def kept(config: Explore, before: "Explorer | None") -> tuple[bool, bool]:
    """Whether the dense model, and whether its curvature too, of the explorer before is what a config asks for."""
    changed = _SHARED if before is None else {n for n in _SHARED if getattr(config, n) != getattr(before.config, n)}
    return not changed - _CURVATURE, not changed


class Explorer:
    """Methods solved for one dense model; weights at any sparsity without further factorization.

    Raises what `dense.upstream` and `Plan` raise: a dataset or checkpoint that cannot be read, a lambda too small.

    Args:
        config: what to prune, how, and on which images to look at the result.
        before: an explorer whose model, curvature, plans and measurements are taken over where the settings agree.
    """

    def __init__(self, config: Explore, before: "Explorer | None" = None):
        self.config, self.pattern = config, Pattern.parse(config.pattern)
        seed = config.seeds[0]
        if torch.get_num_threads() > (allowed := machine.cores()):  # in a container torch takes all it sees
            torch.set_num_threads(allowed)
        model, curvature = kept(config, before)
        self.upstream = before.upstream if before and model else dense.upstream(config, seed)
        if self.upstream.headless:
            raise ValueError(f"{config.model} has no classifier head here, and so no accuracy to explore")
        before = before if curvature else None
        self.surgeon = before.surgeon.twin() if before else Surgeon(config, self.upstream, seed)
        self.surgeon.weights = Told(self.surgeon.weights)
        self._damps: dict[tuple, float] = dict(before._damps) if before else {}
        part = getattr(self.upstream.data, config.split)
        chosen = np.random.default_rng(seed).permutation(len(part))[: config.images]
        self.images = part.take(np.sort(chosen))
        # Keyed by all that a plan or an accuracy depends on beyond the surgeon, so that both outlive other changes.
        self._measured: dict[tuple, Answers] = dict(before._measured) if before else {}
        self.factorizing: float | None = before.factorizing if before else None  # seconds, of the last method solved
        known = {before._key(method): plan for method, plan in before.plans.items()} if before else {}
        keys = {method: self._key(method) for method in progress(config.methods, desc="lambda of each method")}
        self.plans: dict[str, Plan] = {}
        for method, key in progress(keys.items(), desc="factorizing", total=len(keys)):
            self.plans[method] = known.get(key) or self._solve(method, key[1])
        self.surgeon.forget()
        self.pace = 1e-3  # seconds an image, until one is measured
        # The last points, as several views ask for the same.
        self._at: tuple[float | None, dict[str, Point]] = (None, {})
        self._inverse: tuple[tuple | None, Tensor | None] = (None, None)

    def _solve(self, method: str, damp: float | None) -> Plan:
        """A method solved, and the seconds noted: they tell what other settings will take."""
        if (chosen := get_method(method)).needs_curvature:
            self.surgeon.curvature(chosen.curvature, self.pattern)  # not a part of what is noted
        begin = time.perf_counter()
        plan = self.surgeon.solve(method, damp, self.pattern)
        if chosen.needs_inverse:
            self.factorizing = time.perf_counter() - begin
        return plan

    def damp(self, method: str) -> float | None:
        """A method's lambda: the config's, else the one that is best on validation, the larger of equals, as a study of
        this one seed would choose it; None if it needs none.
        """
        if not get_method(method).needs_damp:
            return None
        if self.config.damp:
            return self.config.damp
        key = method, self.config.allocation, self.config.pattern
        if key not in self._damps:
            at, regime = self.config.damp_sparsity, (self.config.allocation, self.pattern)
            damps = progress(lambdas.values(self.config, method), desc=f"lambda of {method}")
            found = {damp: self._judged(method, at, damp, regime) for damp in damps}
            self._damps[key] = max(found, key=lambda damp: (found[damp], damp))
        return self._damps[key]

    def _judged(self, method: str, sparsity: float, damp: float, regime: tuple[str, Pattern]) -> float:
        """Validation top-1; as in a study, a lambda with which a block cannot be inverted is right on no image."""
        try:
            return self.surgeon.judge(self.surgeon.pruned(method, sparsity, damp, regime), self.config.search_images)
        except (FloatingPointError, torch.linalg.LinAlgError):
            return 0.0

    def _key(self, method: str) -> tuple:
        return method, self.damp(method), self.config.pattern

    def solved(self, method: str, config: Explore) -> bool:
        """Whether a method's factorization is what a config asks for that leaves the curvature as it is."""
        if method not in self.plans or config.pattern != self.config.pattern:
            return False
        if not get_method(method).needs_damp:
            return True
        return (config.damp or self._damps.get((method, config.allocation, config.pattern))) == self.damp(method)

    def at(self, sparsity: float) -> dict[str, Point]:
        """method -> its weights and masks."""
        sparsity = self.pattern.target(sparsity)
        if self._at[0] != sparsity:
            self._at = sparsity, {m: plan.at(sparsity, self.config.allocation) for m, plan in self.plans.items()}
        return self._at[1]

    def sparsity(self, sparsity: float) -> float:
        """Zeros over prunable weights of what `at` gives."""
        return masks.removed_share(next(iter(self.at(sparsity).values())).masks)

    def model(self, method: str, sparsity: float) -> nn.Module:
        """A pruned copy, masks attached; "dense" gives the dense model itself."""
        if method == "dense":
            return self.upstream.model
        point = self.plans[method].at(sparsity, self.config.allocation)
        install(model := copy.deepcopy(self.upstream.model), point)
        return model

    def measure(self, method: str, sparsity: float) -> Answers:
        """The answers on the chosen images, asked for once."""
        key = self._key_of(method, sparsity)
        if key not in self._measured:
            at = "" if method == "dense" else f" at {100 * self.pattern.target(sparsity):.3g} %"
            loader = progress(batches(self.images, EVAL_BATCH), desc=f"top-1 of {method}{at}")
            begin = time.perf_counter()
            self._measured[key] = ask(self.model(method, sparsity), loader)
            self.pace = (time.perf_counter() - begin) / len(self.images)
        return self._measured[key]

    def sweep(self) -> "Explorer":
        """Measures dense and each method at the config's sparsities; returns itself."""
        for at in self.config.sparsities:
            for method in ("dense", *self.plans):
                self.measure(method, at)
        return self

    def answers(self, method: str, sparsity: float) -> Answers | None:
        """What `measure` has found already."""
        return self._measured.get(self._key_of(method, sparsity))

    def curve(self, method: str) -> dict[float, Answers]:
        """sparsity -> answers, of what has been measured so far, in order; dense at 0."""
        mine = self._key_of(method, 0.0)
        return dict(sorted((k[-1], v) for k, v in list(self._measured.items()) if k[:-1] == mine[:-1]))

    def _key_of(self, method: str, sparsity: float) -> tuple:
        if method == "dense":
            return "dense", self.config.split, self.config.images, 0.0
        at = self.pattern.target(sparsity)
        return *self._key(method), self.config.allocation, self.config.split, self.config.images, at

    def twins(self, sparsity: float, layer: str) -> dict[tuple[str, ...], Point]:
        """Methods with one mask in a layer, together -> the point of the first."""
        found: dict[tuple[str, ...], Point] = {}
        for method, point in self.at(sparsity).items():
            same = (names for names, other in found.items() if torch.equal(other.masks[layer], point.masks[layer]))
            names = next(same, ())
            found[(*names, method)] = found.pop(names, point)
        return found

    def steps(self, method: str, layer: str, block: int) -> Steps:
        """The elimination of a block in a method's order, with and without the update. The curvature and lambda of the
        method tell what it costs, else those of the first method that has some of as large blocks.

        Raises:
            ValueError: none has.
        """
        solved = self.plans[method].layers[layer]
        alike = (m for m, plan in self.plans.items() if plan.layers[layer].order.shape == solved.order.shape)
        judge = next((m for m in (method, *alike) if get_method(m).needs_curvature), None)
        if judge is None:
            raise ValueError(f"What {method} costs is told by a Fisher: explore it beside a method such as ovit.")
        curvature, damp = self.surgeon.curvature(get_method(judge).curvature, self.pattern), self.damp(judge)
        if isinstance(curvature, InputHessian):
            H = curvature.inverse(layer, damp, slice(block, block + 1))[0]
        else:
            if self._inverse[0] != (layer, damp):
                self._inverse = (layer, damp), curvature.inverse(layer, damp)
                self.surgeon.forget()
            H = self._inverse[1][block]
        w, order = solved.weights[block].double().cpu(), solved.order[block].cpu()  # (B,), (B,)
        H = H.double().cpu()  # (B, B)
        counts = torch.arange(len(w) + 1).unsqueeze(1)  # (B + 1, 1): a column for the one block
        e = eliminate(w[None], H[None].clone(), order=order[None], backend="cpu")
        weights = {update: e.weights_at(counts, update == "joint")[:, 0] for update in ("none", "joint")}
        F = torch.linalg.inv(H)  # (B, B)
        moved = {update: after - w for update, after in weights.items()}  # (B + 1, B)
        return Steps(order, weights, {update: ((d @ F) * d).sum(1) / 2 for update, d in moved.items()})

    def look(self, sparsity: float, count: int = 8) -> Look:
        """The images on which most methods disagree with the dense model, of all chosen ones if those are measured here,
        else of as many as a fraction of a second allows.
        """
        asked = ("dense", *self.plans)
        known = {method: self.answers(method, sparsity) for method in asked}
        some = np.random.default_rng(0).permutation(len(self.images))  # files lie class by class
        if None in known.values():
            some = some[: max(count, int(GLANCE / len(asked) / self.pace))]
        glance = lambda method: ask(
            self.model(method, sparsity), batches(self.images.take(some), EVAL_BATCH, workers=0)
        )
        found = {method: there.of(some) if (there := known[method]) else glance(method) for method in asked}
        differ = sum((found[m].taken != found["dense"].taken).astype(int) for m in self.plans)  # (n,)
        index = np.argsort(-differ, kind="stable")[:count]
        images, labels = next(iter(batches(self.images.take(some[index]), count, workers=0)))
        config = models.input_config(self.upstream.model)
        mean, std = (torch.tensor(config[k]).view(3, 1, 1) for k in ("mean", "std"))
        pixels = (images * std + mean).clamp(0, 1).mul(255).byte().expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
        picked = {method: answers.of(index) for method, answers in found.items()}
        return Look(pixels.numpy(), labels.numpy(), picked, int((differ > 0).sum()), len(differ))

    def save(self, method: str, sparsity: float) -> Path:
        """Writes the pruned model (safetensors with its masks; `masks.load` reads it) and its settings beside it."""
        path = self._settle(method, ".safetensors", sparsity, method=method, damp=self.damp(method))
        masks.save(self.model(method, sparsity), path)
        return path

    def save_figure(self, fig: Figure, view: str, sparsity: float, **shown: str | int) -> Path:
        """Writes a view as PNG and SVG, with its settings beside them: what is `shown`, and all else it depends on."""
        path = self._settle(view, ".png", sparsity, view=view, **shown)
        with plots.style():
            for suffix in (".png", ".svg"):
                with disk.writing(path.with_suffix(suffix)) as partial:
                    fig.savefig(partial, format=suffix[1:], dpi=160)
        return path

    def _settle(self, name: str, suffix: str, sparsity: float, **more) -> Path:
        """A path for a file whose settings are now beside it. Other settings under the same name get a number."""
        at = self.pattern.target(sparsity)
        settings = self.config.values() | dict(sparsity=at, num_classes=len(self.upstream.data.classes))
        settings |= dict(damps_chosen={method: self.damp(method) for method in self.plans}) | more
        settings |= dict(device=provenance.device_name(self.config.device), commit=provenance.commit())
        text = json.dumps(settings | dict(versions=provenance.versions()), indent=1) + "\n"
        folder = paths.runs(self.config.profile, "explore")
        names = (folder / f"{name}-{100 * at:.4g}{end}.json" for end in chain([""], (f"-{n}" for n in count(2))))
        origin = next(path for path in names if not path.is_file() or path.read_text() == text)
        disk.write(origin, text)
        return origin.with_suffix(suffix)
