"""What ablation B's rows say, against numbers worked out by hand."""

import pandas as pd
import pytest

from ovit_core import downstream
from ovit_core.transfer import FLOORS

FIXED = dict(
    experiment="transfer", allocation="global", pattern="unstructured", scope="all", scope_name="", metric="top1"
)


def rows(values, **columns):
    """(phase, dataset, method, sparsity, seed) -> accuracy, as rows."""
    names = ("phase", "dataset", "method", "sparsity_target", "seed")
    return pd.DataFrame([FIXED | dict(zip(names, k)) | dict(value=v) | columns for k, v in values.items()])


def linear(dataset, dense, floor, **pruned):
    """Two seeds: dense and its floors, and pruned methods at 90 % (a value per seed)."""
    out = {("linear", dataset, "dense", 0.0, k): dense for k in range(2)}
    out |= {("linear", dataset, f, 0.0, k): floor for f in FLOORS["linear"] for k in range(2)}
    return out | {("linear", dataset, m, 0.9, k): v for m, both in pruned.items() for k, v in enumerate(both)}


def test_no_claim_where_dense_barely_beats_a_floor():
    (sentence,) = downstream.answers(rows(linear("a", 0.50, 0.47, ovit=(0.2, 0.2))), FLOORS)
    assert "nothing is claimed" in sentence and "47.0 %" in sentence


def test_error_increase_averages_the_telling_datasets_within_a_seed():
    values = linear("a", 0.9, 0.1, ovit=(0.8, 0.9)) | linear("b", 0.5, 0.1, ovit=(0.25, 0.5))
    values |= linear("c", 0.5, 0.49, ovit=(0.0, 0.0))  # cannot tell, so it does not count
    (found,) = downstream.error_increase(rows(values), FLOORS).to_dict("records")
    # seed 0: errors 0.1 -> 0.2 (+100 %) and 0.5 -> 0.75 (+50 %), mean +75 %; seed 1: none
    assert found["mean"] == pytest.approx(0.375) and (found["datasets"], found["seeds"]) == (2, 2)
    said = downstream.answers(rows(values), FLOORS)
    assert any("errors relative to dense over the 2 datasets that can tell: `ovit` +38 ±" in s for s in said)


def test_sentences_compare_with_dense_and_with_both_forms_without_update():
    values = linear("a", 0.9, 0.1, ovit=(0.8, 0.8), ovit_mask_only=(0.5, 0.5), ovit_no_update=(0.6, 0.6))
    said = downstream.answers(rows(values), FLOORS)
    for text in (
        "`ovit` is below `dense` by -10.0",
        "above `ovit_mask_only` by +30.0",
        "above `ovit_no_update` by +20.0",
    ):
        assert any(text in s for s in said), text


def test_correlation_with_upstream_is_by_rank_and_by_seed():
    accuracy = dict(ovit=0.9, obert=0.8, magnitude=0.7, ovit_mask_only=0.6, ovit_no_update=0.5)
    values = linear("a", 0.95, 0.1, **{m: (v, 1 - v) for m, v in accuracy.items()})
    top1 = {("one_shot", "up", m, 0.9, k): v**2 for m, v in accuracy.items() for k in range(2)}
    (found,) = downstream.correlation(rows(values | top1)).to_dict("records")
    assert found["mean"] == pytest.approx(0) and found["models"] == 5  # +1 in one seed, -1 in the other
    said = downstream.answers(rows(values | top1), FLOORS)
    assert any(
        "no relation of upstream top-1 and transfer accuracy is resolved (rank correlation +0.00" in s for s in said
    )
    assert downstream.correlation(rows(linear("a", 0.9, 0.1, ovit=(0.8, 0.8)) | top1)).empty  # too few models


def test_class_losses_are_paired_and_sorted():
    one = lambda name, dense, ovit: pd.concat(
        rows({("linear", "a", m, s, k): v for k, v in enumerate(values)}).assign(scope="class", scope_name=name)
        for m, s, values in (("dense", 0.0, dense), ("ovit", 0.9, ovit))
    )
    found = downstream.class_losses(
        pd.concat([one("cat", (0.9, 0.8), (0.9, 0.8)), one("dog", (0.9, 0.7), (0.6, 0.6))]), "linear", "a", "ovit", 0.9
    )
    assert found["class"].tolist() == ["dog", "cat"]
    assert found["mean"].tolist() == pytest.approx([0.2, 0.0]) and found.half[1] == pytest.approx(0)
