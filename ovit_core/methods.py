"""The table of methods. A method is a score and an update; an ablation is a row of the table."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple

SCORES = {
    "greedy": "cheapest first, scored with the corrected weights",
    "greedy_frozen": "cheapest first, scored with weights that are never corrected",
    "static": "w² / 2H, all scored once at the start",
    "diagonal": "w² times the diagonal of the Fisher, a block for each weight",
    "magnitude": "smallest absolute value",
    "wanda": "smallest absolute value times the norm of its input, ranked in each row",
    "random": "by chance",
}
UPDATES = {
    "joint": "corrected together",
    "independent": "corrected one by one, the corrections summed",
    "none": "stay as they were",
}
DAMP = {"fisher": 1e-8, "inputs": 0.01}  # oViT's and SparseGPT's; the second is relative to the mean diagonal


class Method(NamedTuple):
    """Which weights go, what becomes of the others, and the matrix that both look at."""

    score: str  # a name of SCORES
    update: str  # a name of UPDATES; `joint` is the exact OBS answer for the removed set
    about: str  # what it is, in words
    curvature: str = "fisher"  # of the loss's gradients, or `inputs`: X^T X / n of each layer, for its whole rows
    sequential: bool = False  # layer by layer, on the inputs that the layers pruned before it give

    @property
    def needs_curvature(self) -> bool:
        return self.score not in ("magnitude", "random") or self.update != "none"

    @property
    def needs_inverse(self) -> bool:
        return self.score in ("greedy", "greedy_frozen", "static") or self.update != "none"

    @property
    def needs_damp(self) -> bool:
        """Whether it has a lambda: it inverts, or sees lambda in the Fisher's diagonal. Wanda's norms have none."""
        return self.needs_inverse or self.score == "diagonal"

    @property
    def layerwise(self) -> bool:
        """Whether its losses are errors of a layer's outputs, which mean nothing from one layer to the next."""
        return self.curvature == "inputs" and self.score != "wanda"


METHODS = {
    "ovit": Method("greedy", "joint", "oViT: every removal corrected by the others"),
    "ovit_mask_only": Method("greedy", "none", "oViT's score, the kept weights left alone; at oViT's λ its very mask"),
    "ovit_no_update": Method("greedy_frozen", "none", "oViT without any update, not even in the score"),
    "ovit_no_update_joint": Method("greedy_frozen", "joint", "that score, kept weights corrected"),
    "obert": Method("static", "independent", "oBERT / WoodFisher"),
    "obert_mask_only": Method("static", "none", "oBERT's score, the kept weights left alone"),
    "obert_joint": Method("static", "joint", "oBERT's score, kept weights corrected together"),
    "magnitude": Method("magnitude", "none", "the common baseline"),
    "magnitude_joint": Method("magnitude", "joint", "magnitude's mask, kept weights corrected"),
    "diag_fisher": Method("diagonal", "none", "the simplest second-order score"),
    "diagonal_joint": Method("diagonal", "joint", "the diagonal Fisher's score, kept weights corrected"),
    "random": Method("random", "none", "a floor"),
    "obc": Method("greedy", "joint", "OBC: oViT's elimination on the layer inputs' Hessian, over whole rows", "inputs"),
    "obc_mask_only": Method("greedy", "none", "OBC's score, the kept weights left alone", "inputs"),
    "obc_sequential": Method("greedy", "joint", "OBC, each layer on what pruned layers give it", "inputs", True),
    "wanda": Method("wanda", "none", "Wanda", "inputs"),
}


def get_method(name: str) -> Method:
    """Raises ValueError with the table's names, the nearest first, if there is no such method."""
    if name not in METHODS:
        near = get_close_matches(name, METHODS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown method {name!r}{hint}; one of {', '.join(METHODS)}")
    return METHODS[name]


def method_table(names: Iterable[str] = METHODS) -> str:
    """Methods as a table in Markdown, for notebooks and documents; ValueError for an unknown name."""
    lines = ["| method | which weights go | what the kept ones do | what it is |", "|---|---|---|---|"]
    for name in names:
        method = get_method(name)
        lines.append(f"| `{name}` | {SCORES[method.score]} | {UPDATES[method.update]} | {method.about} |")
    return "\n".join(lines)
