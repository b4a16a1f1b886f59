"""The study's figures by name, each drawn from rows alone: for the notebooks, for the report, and sized for print."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ovit_core import plots, plots_transfer, plots_update
from ovit_core.transfer import FLOORS

# experiment -> name -> rows -> figure, or None where the rows for it were not run
FIGURES = {
    "no_weight_update": {
        "no_weight_update": plots_update.ablation_a,
        "no_weight_update_gain": plots_update.ablation_a_gain,
        "attribution": lambda rows: plots_update.parts(rows, "one_shot"),
        "regimes": plots_update.regimes,
        "gradual": plots_update.gradual,
        "attribution_trained": lambda rows: plots_update.parts(rows, "recovered", "gradual"),
        "sensitivity": plots_update.sensitivities,
        "layers": plots_update.layers,
        "prediction": plots_update.prediction,
    },
    "transfer": {
        "transfer_linear": lambda rows: plots_transfer.transfer(rows, "linear", FLOORS),
        "transfer_full": lambda rows: plots_transfer.transfer(rows, "full", FLOORS),
        "transfer_errors": lambda rows: plots_transfer.errors(rows, FLOORS),
        "transfer_upstream": lambda rows: plots_transfer.upstream(rows, FLOORS),
        "transfer_classes_linear": lambda rows: plots_transfer.classes(rows, "linear", FLOORS),
        "transfer_classes_full": lambda rows: plots_transfer.classes(rows, "full", FLOORS),
    },
}
COLUMN, PAGE = 3.5, 7.16  # inches: one and two columns of the usual two-column paper
PRINT = {"font.size": 7, "lines.linewidth": 1, "lines.markersize": 3, "pdf.fonttype": 42}  # TrueType, embedded whole


def draw(name: str, rows: pd.DataFrame) -> Figure | None:
    """A figure of FIGURES, written to figures/PROFILE with its provenance; None where there is nothing to draw."""
    (make,) = (group[name] for group in FIGURES.values() if name in group)
    return plots.save(make(rows), name, rows)


def print_all(rows: pd.DataFrame, folder: Path) -> dict[str, Path]:
    """Every figure of an experiment's rows as PDF: single panels one column wide, others two; name -> file."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, make in FIGURES[rows.experiment.replace("sensitivity", "no_weight_update").iloc[0]].items():
        file = folder / f"{name}.pdf"
        file.unlink(missing_ok=True)
        with plt.rc_context(PRINT):
            if (fig := make(rows)) is None:
                continue
            width, height = fig.get_size_inches()
            wanted = COLUMN if width <= 6 else PAGE
            fig.set_size_inches(wanted, height * max(wanted / width, 0.72))
            origin = "; ".join(f"{k}: {v}" for k, v in plots.provenance(rows).items())
            files[name] = file
            fig.savefig(file, metadata={"Subject": origin, "CreationDate": None})
            plt.close(fig)
    return files
