"""Published rows put back into the store: a study goes on where its publication stands, on any machine.

Only rows that are asked for are taken: by a profile's parameters, of these images, these dense models and this code. All
others would have to be measured anew, and are.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from ovit_core.study import export, identity, paths, per_image, wanted
from ovit_core.study.ablation import Ablation, Asked
from ovit_core.study.parameters import Parameters
from ovit_core.study.store import Measured, Store
from ovit_core.study.tasks import COLUMNS, NUMBERS, SHARED, Found, Row, World


class Restored(NamedTuple):
    """How many rows were published, of the ablations that were asked; asked for as they are; and not in the store yet."""

    published: int
    asked: int
    new: int


def restore(asked: Sequence[Asked]) -> Restored:
    """Puts those rows of figures/PROFILE into the store that some ablations of the profile ask for, with what is known of
    the images behind them: of each whether it is right, and losses where a listed comparison needs them.

    Raises:
        FileNotFoundError: nothing was published, or a dataset is not there.
        ValueError: what was published is damaged, or an image cannot be read; names it.
    """
    config = asked[0][1]
    file = paths.ROOT / "figures" / config.profile / "results.csv"
    if not file.is_file():
        raise FileNotFoundError(f"no rows of profile {config.profile!r} were published: there is no {file}")
    rows = export.read(file)
    images = per_image.read(file.with_name(per_image.FILE), rows)
    published = [_plain(row) | dict(line=line) for line, row in enumerate(rows[COLUMNS].to_dict("records"))]
    paths.check_writable(config.profile)
    store, taken = Store(config.profile), {}
    store.check()
    before = store.rows()
    for ablation, config in asked:
        mine = [row for row in published if row["experiment"] in ablation.experiments]
        # Those of no ablation were exported under the name of each that asked.
        mine += [row | dict(experiment=SHARED) for row in mine if row["experiment"] == ablation.name]
        found = wanted.rows_of(ablation, config, _world(ablation, config), Found([*before, *mine]))
        taken |= {row["line"]: row for row in found if "line" in row}
    store.add(Measured({column: row[column] for column in COLUMNS}, images[line]) for line, row in taken.items())
    names = {name for ablation, _ in asked for name in ablation.experiments}
    count = sum(row["experiment"] in names for row in published)
    return Restored(count, len(taken), len(store.rows()) - len(before))


def _world(ablation: Ablation, config: Parameters) -> World:
    """What the rows of an ablation depend on: its datasets, read if they never were, and the dense models that there are."""
    from ovit_core.study import dense

    prints, seeds = {name: dense.read(config, name).fingerprint for name in config.every_dataset}, {}
    for seed in map(config.dense_seed, config.seeds):
        weights = identity.of_dense(config, seed, prints[config.upstream]) if ablation.prunes else ""
        if weights or not ablation.prunes:
            seeds[seed] = weights
    return World(prints, seeds)


def _plain(row: Row) -> dict[str, Any]:
    """A row of a table as the store gives it: "" in a column of numbers where there is none."""
    return {column: "" if column in NUMBERS and pd.isna(value) else value for column, value in row.items()}
