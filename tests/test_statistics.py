"""Contrasts, rules of lambda, tables and sentences, against numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from conftest import quick
from scipy import stats

from ovit_core.ablations.transfer.parameters import Transfer
from ovit_core.study import statistics, wording
from ovit_core.study.tasks import COLUMNS

FIXED = dict.fromkeys(COLUMNS, "") | dict(
    experiment="e",
    phase="one_shot",
    dataset="d",
    allocation="global",
    pattern="unstructured",
    scope="all",
    metric="top1",
)


def rows(values, **columns):
    """(method, sparsity, seed) -> accuracy, or what each image contributes to it, as rows."""
    out = []
    for (method, sparsity, seed), of in values.items():
        each = np.array(of, np.float32) if np.ndim(of) else None
        point = dict(method=method, sparsity_target=sparsity, seed=seed, value=float(np.mean(of, dtype=float)))
        out.append(FIXED | point | dict(each=each, labels=None) | columns)
    return pd.DataFrame(out)


def test_a_mean_over_seeds_by_hand():
    # three values 1, 2, 3: standard error 1/sqrt(3), t quantile of 2 degrees of freedom 4.302653
    found = statistics.summary(rows({("ovit", 0.9, k): v for k, v in enumerate((1.0, 2.0, 3.0))}), ["method"]).iloc[0]
    assert found["mean"] == 2 and found.seeds == 3 and found.half == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)
    assert found.p == pytest.approx(2 * stats.t.sf(2 * np.sqrt(3), 2)) and found.low == found["mean"] - found.half
    one = statistics.summary(rows({("ovit", 0.9, 0): 0.5}), ["method"]).iloc[0]
    assert one["mean"] == 0.5 and one[["half", "low", "p", "s"]].isna().all()


def test_a_measurement_asked_for_twice_counts_once_and_two_of_one_seed_are_refused():
    twice = pd.concat([rows({("ovit", 0.9, 0): 0.5, ("ovit", 0.9, 1): 0.6})] * 2)
    assert statistics.summary(twice, ["method"]).seeds.item() == 2
    other = twice.assign(damp=[1e-4] * 2 + [1e-5] * 2, value=[0.5, 0.6, 0.7, 0.8])
    with pytest.raises(ValueError, match="2 values of seed 0, method ovit: tell them apart by damp"):
        statistics.summary(other, ["method"])


def test_a_value_that_its_images_do_not_give_is_refused():
    changed = rows({("ovit", 0.9, k): [1, 0, 1, 1] for k in range(2)}).assign(value=0.25)
    with pytest.raises(ValueError, match="not the mean of its column `each`"):
        statistics.summary(changed, ["method"])


def test_losses_of_collapsed_models_are_as_exact_as_half_precision_keeps_them():
    """Of two models at 50 a difference of .1 has the rounding of 50."""
    losses = lambda level: {k: level + np.linspace(0, 0.02, 8) + k / 100 for k in range(2)}
    exact = {(m, 0.9, k): v for m, level in (("ovit", 50.015), ("magnitude", 49.9)) for k, v in losses(level).items()}
    r = rows(exact, metric="cross_entropy")
    r["each"] = [each.astype(np.float16).astype(np.float32) for each in r.each]
    found = statistics.contrast(r, {"ovit": 1, "magnitude": -1}, ["phase"])
    assert np.abs(np.stack(list(found.each)).mean(1) - found.value).max() > 2e-3  # else this shows nothing
    assert statistics.summary(found, ["phase"])["mean"].item() == pytest.approx(0.115)
    with pytest.raises(ValueError, match="not the mean of its column `each`"):
        statistics.summary(found.assign(value=found.value + 1), ["phase"])


def test_a_contrast_is_paired_by_seed_and_meets_dense_at_every_sparsity():
    r = rows({
        ("ovit", 0.5, 0): [1, 1, 0, 1], ("ovit", 0.5, 1): [1, 0, 0, 1], ("ovit", 0.9, 0): [0, 1, 0, 0],
        ("dense", 0.0, 0): [1, 1, 1, 1], ("dense", 0.0, 1): [1, 1, 0, 1], ("dense", 0.0, 2): [1, 1, 0, 1],
    })  # fmt: skip
    found = statistics.contrast(r, {"dense": -1, "ovit": 1}, ["phase", "dataset", "sparsity_target"])
    assert found[["sparsity_target", "seed", "value"]].values.tolist() == [
        [0.5, 0, -0.25],
        [0.5, 1, -0.25],
        [0.9, 0, -0.75],
    ]
    assert found.each.iloc[1].tolist() == [0, -1, 0, 0] and set(found.method) == {"- dense + ovit"}
    halves = statistics.contrast(r, {"ovit": 0.5, "dense": -0.5}, ["sparsity_target"])
    assert halves.value.tolist() == [-0.125, -0.125, -0.375]
    assert statistics.pair({"ovit": 1, "magnitude": -0.5}) == "ovit - 0.5 magnitude"
    assert statistics.contrast(r, {"ovit": 1, "obert": -1}, ["sparsity_target"]).empty


def test_a_floor_meets_what_was_made_of_models_of_every_kind():
    values = {("ovit", 0.9, 0): 0.8, ("dense", 0.0, 0): 0.9, ("raw_pixels", 0.0, 0): 0.3}
    r = rows(values)
    both = pd.concat([r[:2].assign(source_phase="one_shot"), r[:2].assign(source_phase="recovered"), r[2:]])
    on = [*statistics.WHERE, *statistics.VARIANTS, "sparsity_target"]
    found = statistics.contrast(both, {"ovit": 1, "raw_pixels": -1}, on)
    assert list(found.source_phase) == ["one_shot", "recovered"] and found.value.tolist() == [0.5, 0.5]
    assert len(statistics.contrast(both, {"ovit": 1, "dense": -1}, on)) == 2  # each with its own


def test_the_two_rules_of_lambda_are_never_mixed():
    own, shared = ({("ovit_mask_only", 0.9, k): v for k in range(2)} for v in (0.7, 0.5))
    plain = rows({("magnitude", 0.9, k): 0.4 for k in range(2)})
    ovit = rows({("ovit", 0.9, k): 0.8 for k in range(2)}, damp_rule="own")
    swept = rows({("ovit", 0.9, k): 0.1 for k in range(2)}, damp_rule="shared", experiment="sensitivity")
    r = pd.concat([rows(own, damp_rule="own"), rows(shared, damp_rule="shared"), plain, ovit, swept], ignore_index=True)
    means = {rule: statistics.accuracy(r, rule).set_index("method")["mean"].to_dict() for rule in ("own", "shared")}
    assert means["own"] == dict(ovit_mask_only=0.7, magnitude=0.4, ovit=0.8)
    assert means["shared"] == dict(ovit_mask_only=0.5, magnitude=0.4, ovit=0.8)
    with pytest.raises(ValueError, match="no rule 'mine' of lambda; there are own, shared"):
        statistics.under(r, "mine")


def test_a_table_tells_lengths_of_training_apart():
    r = pd.concat([rows({("ovit", 0.9, k): v + k / 100 for k in range(2)}, epochs=e) for e, v in ((1, 0.5), (3, 0.6))])
    wide = statistics.table(r, "one_shot", "d")
    assert wide is not None and list(wide.columns) == ["90 %, trained 1", "90 %, trained 3"]
    assert wide.loc["ovit"].tolist() == ["50.5 ± 6.4", "60.5 ± 6.4"]  # 12.706 * 0.5 points
    assert "| `ovit` | 50.5 ± 6.4 | 60.5 ± 6.4 |" in statistics.tables(r, ["one_shot", "linear"], ["d"])


def test_a_table_tells_images_a_class_apart_from_all_of_them():
    """One length of few images beside all: an empty value is a value, too."""
    at = dict(phase="linear", source_phase="one_shot")
    values = {("dense", 0.0, 0): 0.9, ("ovit", 0.9, 0): 0.8}
    r = pd.concat([rows(values, shots=shots, **at) for shots in (np.nan, 5.0)], ignore_index=True)
    floor = rows({("raw_pixels", 0.0, 0): 0.3}, shots=np.nan, phase="linear")  # made of no model: of any source
    wide = statistics.table(pd.concat([r, floor], ignore_index=True), "linear", "d")
    assert wide is not None and list(wide.columns) == [
        "not pruned", "not pruned, 5 images a class", "90 %", "90 %, 5 images a class",
    ]  # fmt: skip
    assert wide.loc["raw_pixels"].tolist() == ["30.0", "", "", ""]
    apart = statistics.table(r[(r.method == "dense") == r.shots.isna()], "linear", "d")
    assert apart is not None and list(apart.columns) == ["not pruned", "90 %, 5 images a class"]


def test_a_table_tells_sources_and_what_only_one_of_them_has_once():
    values, again = {("dense", 0.0, 0): 0.9, ("ovit", 0.9, 0): 0.8}, dict(source_phase="recovered", epochs=5.0)
    both = [rows(values, phase="knn", **more) for more in (dict(source_phase="one_shot", epochs=np.nan), again)]
    wide = statistics.table(pd.concat(both, ignore_index=True), "knn", "d")
    assert wide is not None and list(wide.columns) == [
        "not pruned, source one-shot", "not pruned, source recovered", "90 %, source one-shot", "90 %, source recovered",
    ]  # fmt: skip


def test_a_page_says_how_many_seeds_each_training_has():
    seeds = dict(one_shot=5, recovered=5, full=3, gradual=2)
    rows = pd.DataFrame([dict(phase=phase, seed=seed) for phase, n in seeds.items() for seed in range(n)])
    said = statistics.setting(rows, quick(Transfer, "dense_per_seed=true"))
    assert said.startswith("5 seeds, 2 of them for gradual pruning, 3 of them for full finetuning. Each seed has")
    assert statistics.setting(rows[rows.phase == "one_shot"], quick(Transfer)).startswith("5 seeds. All seeds share")


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (-1.25, "+.1f", "−1.2"),
        (1.25, "+.1f", "+1.2"),
        (-0.04, "+.1f", "0.0"),  # what is printed has no sign, for nothing of it is left
        (0.04, "+.1f", "0.0"),
        (0.04, ".2f", "0.04"),
        (-20, "+g", "−20"),
        (0, "+g", "0"),
        (-1e-9, "+.0e", "−1e−09"),
        (float("nan"), "+.1f", "+nan"),
    ],
)
def test_a_number_has_a_sign_where_it_is_one_of_its_digits(value, form, text):
    assert wording.signed(value, form) == text


def test_one_seed_is_not_seeds():
    assert [wording.seeds(n) for n in (1, np.int64(1), np.float64(3))] == ["1 seed", "1 seed", "3 seeds"]
