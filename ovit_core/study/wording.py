"""How numbers and settings are written: in texts, on axes, in tables."""

import numpy as np
import pandas as pd

# What tells measurements of one phase apart, in words.
WORDS = dict(
    source_phase="source {}", shots="{:g} images a class", epochs="trained {:g}", recomputations="{:g} recomputations"
)


def share(sparsity: float) -> str:
    """A sparsity as it is written."""
    return f"{100 * sparsity:g} %"


def seeds(count: int) -> str:
    """So many seeds, as it is written."""
    return f"{count:g} seed" + ("" if count == 1 else "s")


def worded(column: str, value: float | str) -> str:
    """A value of one of WORDS as it is written; "" for none."""
    return "" if value in ("", None) or value != value else WORDS[column].format(value).replace("_", "-")


def signed(value: float, form: str = "+.1f") -> str:
    """A number with a typographic minus, and without a sign where `form` leaves nothing of it."""
    text = f"{value:{form}}"
    return text.replace("-", "−") if float(text) else text.lstrip("+-")


def spread(mean: float, half: float, form: str = "+.1f", scale: float = 100) -> str:
    """A mean with its interval where there is one, by default a difference of fractions in percentage points."""
    return signed(scale * mean, form) + ("" if np.isnan(half) else f" ± {scale * half:{form.lstrip('+')}}")


def spreads(found: pd.DataFrame, form: str = "+.1f", scale: float = 100) -> list[str]:
    """`spread` of every row of a `summary`."""
    return [spread(mean, half, form, scale) for mean, half in zip(found["mean"], found.half)]
