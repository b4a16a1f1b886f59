"""Parameters of ablation B. The notebook's `parameters` cell says what each is."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, StrictStr

from ovit_core.study.parameters import AtLeastOne, Count, Lambdas, Methods, Sparsities, different
from ovit_core.study.recovery import Recovery

# What transfer from nothing gives, by protocol: no claim is made where dense barely beats it.
FLOORS = {"linear": ("random_init", "raw_pixels"), "full": ("from_scratch",)}
NOTHING = tuple(floor for floors in FLOORS.values() for floor in floors)


class Transfer(Recovery):
    """Ablation B."""

    experiment: ClassVar[str] = "transfer"
    varies: ClassVar[str] = ", the data order, the downstream validation split and any new head"

    datasets: Annotated[tuple[StrictStr, ...], AtLeastOne, AfterValidator(different)]
    protocols: Annotated[tuple[Literal["linear", "full"], ...], AtLeastOne, AfterValidator(different)]
    transfer_methods: Annotated[Methods, AtLeastOne]
    transfer_sparsities: Annotated[Sparsities, AtLeastOne]
    full_sparsities: Sparsities
    full_steps: Count
    full_batch_size: Count
    full_lrs: Annotated[Lambdas, AtLeastOne]
    probe_Cs: Annotated[Lambdas, AtLeastOne]

    @property
    def every_dataset(self) -> tuple[str, ...]:
        """All datasets that are read."""
        return (self.upstream, *self.datasets)

    @property
    def sparsities(self) -> dict[str, tuple[float, ...]]:
        """protocol -> sparsities, of those asked for."""
        both = dict(linear=self.transfer_sparsities, full=self.full_sparsities)
        return {protocol: both[protocol] for protocol in self.protocols}

    @property
    def points(self) -> dict[str, tuple[tuple[str, ...], tuple[float, ...]]]:
        """phase -> the methods and sparsities asked for."""
        upstream = tuple(sorted({s for sparsities in self.sparsities.values() for s in sparsities}))
        asked = dict(self.sparsities, one_shot=upstream)
        return {phase: (self.transfer_methods, sparsities) for phase, sparsities in asked.items()}
