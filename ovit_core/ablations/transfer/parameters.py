"""Parameters of ablation B. The notebook's `parameters` cell says what each is."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, StrictStr, model_validator

from ovit_core.data import catalog
from ovit_core.study.lambdas import GLOBAL
from ovit_core.study.parameters import AtLeastOne, Count, Counts, Lambdas, Methods, Seeds, Sparsities, different
from ovit_core.study.recovery import Recovery

FROZEN = ("linear", "knn")  # protocols that read the features of a model that is left alone
# What a protocol gives without transfer. Those of the linear probe are full finetuning's too: it has to beat them all.
FLOORS = {"linear": ("random_init", "raw_pixels"), "knn": ("random_init", "raw_pixels"), "full": ("from_scratch",)}
NOTHING = tuple(dict.fromkeys(floor for floors in FLOORS.values() for floor in floors))
Names = Annotated[tuple[StrictStr, ...], AfterValidator(different)]
Sources = Annotated[tuple[Literal["one_shot", "recovered"], ...], AtLeastOne, AfterValidator(different)]


class Transfer(Recovery):
    """Ablation B."""

    experiment: ClassVar[str] = "transfer"
    varies: ClassVar[str] = ", the data order, the few images and any new head"

    datasets: Annotated[Names, AtLeastOne]
    folder_metrics: dict[StrictStr, Literal["top1", "mean_per_class"]] = {}
    protocols: Annotated[tuple[Literal["linear", "knn", "full"], ...], AtLeastOne, AfterValidator(different)]
    transfer_methods: Annotated[Methods, AtLeastOne]
    transfer_sparsities: Annotated[Sparsities, AtLeastOne]
    transfer_sources: Sources
    source_sparsities: Sparsities
    source_seeds: Seeds
    source_epochs: Count
    few_shots: Counts
    probe_Cs: Annotated[Lambdas, AtLeastOne]
    full_datasets: Names
    full_methods: Methods
    full_sparsities: Sparsities
    full_sources: Sources
    full_steps: Count
    scratch_steps: Count
    full_batch_size: Count
    full_lrs: Annotated[Lambdas, AtLeastOne]

    @model_validator(mode="after")
    def _fit_together(self) -> "Transfer":
        for name in ("transfer_methods", "full_methods"):
            if odd := [method for method in getattr(self, name) if not GLOBAL.takes(method)]:
                raise ValueError(f"{name} must be judged with one threshold for the model, which {odd[0]!r} is not")
        if odd := [name for name in self.folder_metrics if f"folder:{name}" not in self.datasets]:
            raise ValueError(
                f"folder_metrics must name folders of your own among datasets, as in folder:NAME, not {odd[0]!r}"
            )
        if "recovered" in self.transfer_sources and not self.source_sparsities:
            raise ValueError("source_sparsities must be a list of at least one where transfer_sources has recovered")
        probed = "recovered" in self.transfer_sources and {*FROZEN} & {*self.protocols}
        if probed and not {*self.source_seeds} & {*self.seeds}:
            raise ValueError(f"source_seeds must hold one of the seeds {list(self.seeds)} at least")
        if "full" in self.protocols:
            if odd := [name for name in self.full_datasets if name not in self.datasets]:
                raise ValueError(f"full_datasets must be some of the datasets {list(self.datasets)}, not {odd[0]!r}")
            if not (self.full_datasets and min(self.full_steps, self.scratch_steps) > 1):
                raise ValueError(
                    "full finetuning needs full_datasets, and full_steps and scratch_steps above 1: half as many are tried"
                )
        return self

    @property
    def every_dataset(self) -> tuple[str, ...]:
        """All datasets that are read."""
        return (self.upstream, *self.datasets)

    def metric(self, name: str) -> str:
        """The metric of a dataset: the one the field reports, or what `folder_metrics` says of a folder."""
        return self.folder_metrics.get(name.removeprefix("folder:"), catalog.find(name).metric)

    def steps(self, method: str) -> int:
        """Training steps of full finetuning of a method's models, or of training from scratch."""
        return self.scratch_steps if method in FLOORS["full"] else self.full_steps

    @property
    def sources(self) -> dict[str, tuple[tuple[str, tuple[str, ...], tuple[float, ...]], ...]]:
        """protocol -> the source, methods and sparsities of the models asked for."""
        frozen = tuple(
            (s, self.transfer_methods, self.transfer_sparsities if s == "one_shot" else self.source_sparsities)
            for s in self.transfer_sources
        )
        full = tuple((s, self.full_methods, self.full_sparsities) for s in self.full_sources)
        asked = dict(linear=frozen, knn=frozen, full=full)
        return {protocol: asked[protocol] for protocol in self.protocols}

    @property
    def points(self) -> dict[str, tuple[tuple[str, ...], tuple[float, ...]]]:
        """phase -> the methods and sparsities asked for."""
        asked = [(phase, one) for phase, models in self.sources.items() for one in models]
        asked += [(one[0], one) for _, one in asked]
        found: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {}
        for phase, (_, methods, sparsities) in asked:
            before = found.get(phase, ((), ()))
            both = tuple(dict.fromkeys((*before[0], *methods))), tuple(sorted({*before[1], *sparsities}))
            found[phase] = both
        return found
