"""Where methods act: what they leave of each layer, where corrections go, and which weights methods agree on."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ovit_core.ablations.no_weight_update.analysis import chosen_at
from ovit_core.ablations.no_weight_update.parameters import PAIR
from ovit_core.study.plots import COLUMN, PAGE, curves, in_order, legend
from ovit_core.study.statistics import summary
from ovit_core.study.wording import share

ACTING = ("ovit", "ovit_mask_only", "magnitude", "diag_fisher")  # whose masks are shown by layer,
CORRECTING = ("ovit", "obert", "magnitude_joint")  # and whose corrections


def layers(rows: pd.DataFrame) -> Figure | None:
    """Where methods act, by kind of layer (a column) and depth: the share of weights that they leave, and that of the
    correction's squared norm.
    """
    chosen, rows = chosen_at(rows), rows[(rows.scope == "layer") & (rows.damp_rule != "shared")]
    if rows.empty:
        return None
    at = chosen if (rows.sparsity_target == chosen).any() else rows.sparsity_target.max()
    rows = rows[rows.sparsity_target == at]
    parts = [place(name) for name in rows.scope_name]
    rows = rows.assign(depth=[depth for depth, _ in parts], kind=[kind for _, kind in parts])
    rows["value"] = rows.value.where(rows.metric != "sparsity", 1 - rows.value)
    found = summary(rows, ["metric", "method", "kind", "depth"])
    kinds = list(rows.kind.unique())[:6]
    fig, grid = plt.subplots(2, len(kinds), figsize=(PAGE, 3.6), sharey="row", sharex=True, squeeze=False)
    for metric, line, methods in zip(("sparsity", "correction_share"), grid, (ACTING, CORRECTING)):
        for kind, ax in zip(kinds, line):
            here = found[(found.metric == metric) & (found.kind == kind) & (found["mean"] > 0)]
            curves(ax, here, [m for m in methods if m in set(here.method)], "depth")
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            if metric == "sparsity":
                ax.set_title(kind)
                ax.set(
                    yscale="log", ylim=(0.25 * found[(found.metric == metric) & (found["mean"] > 0)]["mean"].min(), 1.2)
                )
            else:
                ax.set_xlabel("block")
    grid[0, 0].yaxis.set_major_formatter(lambda v, _: f"{100 * v:.3g} %")
    grid[1, 0].yaxis.set_major_formatter(lambda v, _: f"{100 * v:.3g} %")
    grid[0, 0].set_ylabel(f"weights left, at {share(at)}")
    grid[1, 0].set_ylabel("share of the correction's\nsquared norm")
    legend(fig)
    mine = (
        found[(found.metric == "sparsity") & (found.method == PAIR[0])]
        .groupby("kind", sort=False)["mean"]
        .agg(["min", "max"])
    )
    told = [f"{kind} {100 * ends['min']:.2g} to {100 * ends['max']:.2g} %" for kind, ends in mine.iterrows()]
    fig.set_label(f"Of oViT's layers are left: {', '.join(told)}.")
    return fig


def place(name: str) -> tuple[int, str]:
    """The depth of a weight and the kind of its layer: "blocks.3.mlp.fc1.weight" is (3, "mlp.fc1"); 0 without a number."""
    number, kind = re.fullmatch(r"(?:.*?(\d+)\.)?(.*)", name.removesuffix(".weight"), re.S).groups()
    return int(number or 0), kind


def overlap(rows: pd.DataFrame) -> Figure | None:
    """Half a heat map, masks by masks, means over seeds: intersection over union of what two methods keep. Methods that
    always have the same mask share a line; no figure where all have.
    """
    rows = rows[rows.metric == "mask_overlap"]
    if rows.empty:
        return None
    both = pd.concat([rows, rows.assign(method=rows.scope_name, scope_name=rows.method)])
    names = in_order(both.method)
    table = both.pivot_table(index="method", columns="scope_name", values="value").reindex(index=names, columns=names)
    first = {name: next((n for n in names if table.loc[n, name] == 1), name) for name in names}
    kept = [name for name in names if first[name] == name or names.index(first[name]) > names.index(name)]
    twins = {name: ", ".join(n for n in names if n == name or (n not in kept and first[n] == name)) for name in kept}
    if len(kept) < 2:
        return None
    table = 100 * table.loc[kept, kept].rename(index=twins)
    hidden = np.triu(np.ones(table.shape, bool))
    fig, ax = plt.subplots(figsize=(COLUMN, 0.8 + 0.21 * len(kept)))
    sns.heatmap(
        table.iloc[1:, :-1], mask=hidden[1:, :-1], ax=ax, cmap="Greys", vmin=0, vmax=100, annot=True, fmt=".0f",
        annot_kws=dict(size=6.5), cbar=False,
    )  # fmt: skip
    at = rows.sparsity_target.iloc[0]
    chance = f"by chance {100 * (1 - at) / (1 + at):.0f} %, were all layers as sparse"
    fig.suptitle(f"Kept by both at {share(at)}, in % of kept by either\n({chance})", x=0.02, ha="left")
    ax.set(xlabel="", ylabel="")
    ax.tick_params(length=0)
    ax.grid(False)
    shared = table[kept[0]].iloc[1:].drop("random", errors="ignore")
    fig.set_label(f"With {kept[0]} the others share {shared.min():.0f} to {shared.max():.0f} %; {chance}.")
    return fig
