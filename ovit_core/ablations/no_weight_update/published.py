"""What others have measured of what ablation A asks: 2:4 sparsity in one shot, with and without an update."""

import pandas as pd

from ovit_core.study import beside
from ovit_core.study.beside import Claim
from ovit_core.study.families import Contrast

SOURCE = (
    "Published: ViT-B/16 on ImageNet, 2:4 in one shot, top-1, by the authors of MaskLLM-4V, for two checkpoints "
    "(augreg_in1k, dense 79.15 %; augreg2_in21k_ft, dense 85.10 %). SparseGPT's nearest relative here is OBC."
)
# Top-1 in percent of each checkpoint: pruned by magnitude, by SparseGPT, and by SparseGPT without its update.
TOP1 = dict(augreg_in1k=(65.92, 71.52, 59.72), augreg2_in21k_ft=(53.91, 79.75, 62.86))
MAGNITUDE, SPARSEGPT, MASK_ONLY = range(3)
AT = dict(phase="one_shot", pattern="2:4")
PAIRS = (
    ("SparseGPT's update; OBC's", SPARSEGPT, MASK_ONLY, "obc", "obc_mask_only"),
    ("SparseGPT, or OBC, less magnitude", SPARSEGPT, MAGNITUDE, "obc", "magnitude"),
    ("its mask without update, less magnitude", MASK_ONLY, MAGNITUDE, "obc_mask_only", "magnitude"),
    ("SparseGPT's update; oViT's", SPARSEGPT, MASK_ONLY, "ovit", "ovit_mask_only"),
    ("SparseGPT, or oViT, less magnitude", SPARSEGPT, MAGNITUDE, "ovit", "magnitude"),
)


def published(rows: pd.DataFrame) -> str:
    """The table of claims, as Markdown; "" where 2:4 was not run."""
    claims = [
        Claim(
            {name: (found[a] - found[b]) / 100 for name, found in TOP1.items()}, Contrast(what, {one: 1, other: -1}, AT)
        )
        for what, a, b, one, other in PAIRS
    ]
    return beside.table(rows, claims, SOURCE)
