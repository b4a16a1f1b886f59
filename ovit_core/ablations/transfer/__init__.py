"""Ablation B: how do pruned models transfer?"""

from ovit_core.ablations.transfer.parameters import Transfer
from ovit_core.study.ablation import Ablation

ABLATION = Ablation("Ablation B: how do pruned models transfer?", __name__, Transfer, compares=True)
