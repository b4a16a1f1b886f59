"""Ablation A: what does the weight update bring?"""

from ovit_core.ablations.no_weight_update.parameters import NoWeightUpdate
from ovit_core.study.ablation import Ablation

ABLATION = Ablation(
    "Ablation A: what does the weight update bring?",
    __name__,
    NoWeightUpdate,
    sweeps=("sensitivity",),
    needs_head=True,
    compares=True,
    guides=True,
)
