"""Published rows taken for measured: a study goes on where its publication stands, on any machine.

All rows that lie in figures/PROFILE go into the store, under the name of the ablation that published them and, where it
may be that of none, as shared ones too. What a study asks for it finds there as it finds its own rows: by code, images,
dense model and parameters. The others lie idle, as rows of earlier parameters do.
"""

from typing import Any

import pandas as pd

from ovit_core.study import export, paths, per_image, registry
from ovit_core.study.store import Images, Measured, Store
from ovit_core.study.tasks import COLUMNS, NUMBERS, SHARED, Row


def take(profile: str) -> int:
    """Puts the published rows of a profile into its store, with what is known of the images behind them: of each whether
    it is right, and losses where a listed comparison needs them. A row that is there stays as it is.

    Returns:
        How many rows were published.

    Raises:
        FileNotFoundError: none were.  ValueError: what was published is damaged; names it.
    """
    paths.check_profile(profile)
    file = paths.published(profile) / "results.csv"
    if not file.is_file():
        raise FileNotFoundError(f"no rows of profile {profile!r} were published: there is no {file}")
    rows = export.read(file)
    images = per_image.read(file.with_name(per_image.FILE), rows)
    published = [Measured(_plain(row), behind) for row, behind in zip(rows[COLUMNS].to_dict("records"), images)]
    published.sort(key=lambda one: not _tells_losses(one.images))  # of two lines of one row that which tells more
    known = registry.ablations()
    shared = [
        Measured(one.row | dict(experiment=SHARED), one.images) for one in published if one.row["experiment"] in known
    ]
    paths.check_writable(profile)
    store = Store(profile)
    store.check()
    store.add(published + shared)
    return len(rows)


def _tells_losses(images: Images | None) -> bool:
    return images is not None and images.loss is not None


def _plain(row: Row) -> dict[str, Any]:
    """A row of a table as the store gives it: "" in a column of numbers where there is none."""
    return {column: "" if column in NUMBERS and pd.isna(value) else value for column, value in row.items()}
