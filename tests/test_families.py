"""Comparisons listed beforehand: what they are made of, Holm's p, margins, and the sentences."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_statistics import rows

from ovit_core.study import statistics
from ovit_core.study.families import TABLE, Contrast, Family, differences, holm, sentence, sentences, used
from ovit_core.study.intervals import interval

N = 400


def models(accuracies, seeds=3, noise=0.0, **columns):
    """Rows of methods at 90 % (dense at 0) that are right on the easiest images, a little differently for each seed."""
    g, values = np.random.default_rng(0), {}
    hard = g.permutation(N) / N
    for method, accuracy in accuracies.items():
        for seed in range(seeds):
            right = (hard + noise * g.standard_normal(N) < accuracy).astype(np.float32)
            values[method, 0.0 if method == "dense" else 0.9, seed] = right
    return rows(values, **columns)


def test_a_family_holds_one_to_five():
    one = Contrast("a", {"ovit": 1, "magnitude": -1})
    assert len(Family("f", "F", [one] * 5).contrasts) == 5
    for many in (0, 6):
        with pytest.raises(ValueError, match=f"family 'f' has {many} contrasts: 1 to 5"):
            Family("f", "F", [one] * many)


def test_holm_by_hand():
    # sorted .01, .02, .04 times 3, 2, 1; a missing one does not count
    assert holm([0.02, np.nan, 0.01, 0.04]) == pytest.approx([0.04, np.nan, 0.03, 0.04], nan_ok=True)
    assert np.isnan(holm([np.nan])[0])


def test_differences_have_the_interval_of_their_images_and_holms_p():
    r = models(dict(ovit=0.7, magnitude=0.6, obert=0.69, dense=0.9), noise=0.05)
    family = Family("f", "F", [
        Contrast("against magnitude", {"ovit": 1, "magnitude": -1}, dict(phase="one_shot", sparsity_target=0.9)),
        Contrast("against oBERT", {"ovit": 1, "obert": -1}),
        Contrast("what is lost", {"dense": 1, "ovit": -1}, dict(sparsity_target=0.9)),
        Contrast("against random", {"ovit": 1, "random": -1}, dict(phase="one_shot", dataset=("d", "e"))),
    ])  # fmt: skip
    table = differences(r, [family])
    assert list(table.columns) == TABLE and len(table) == 4
    first = table.iloc[0]
    x = np.stack(list(r[r.method == "ovit"].each)).astype(float) - np.stack(list(r[r.method == "magnitude"].each))
    wanted = interval(x.mean(1), x)
    assert first[["mean", "s", "n", "sigma", "sigma_e", "N", "df", "low", "high", "p"]].tolist() == pytest.approx(
        [wanted.mean, wanted.s, 3, wanted.sigma, wanted.sigma_e, N, wanted.df, wanted.low, wanted.high, wanted.p]
    )
    assert table.p_holm[:3].tolist() == pytest.approx(holm(table.p[:3].tolist())) and table.p_holm[0] > table.p[0]
    assert table.verdict.tolist() == ["resolved", "not resolved", "resolved", "not run"]
    said = [sentence(line) for line in table.to_dict("records")]
    size = f"{100 * wanted.mean:+.1f} ± {100 * wanted.half:.1f} points, p after"
    assert said[0].startswith(f"against magnitude (one_shot, d, 90 %): `ovit - magnitude` = {size}")
    assert said[0].endswith("p after Holm 0.002: resolved.") and said[1].endswith(": not resolved.")
    assert said[3] == "against random (one_shot, d, e): `ovit - random`: not run."


def test_sameness_needs_the_whole_interval_inside_the_margin():
    r = models(dict(ovit=0.7, obert=0.7, magnitude=0.69), noise=0.02)
    pairs = [Contrast("a", {"ovit": 1, "obert": -1}), Contrast("b", {"ovit": 1, "magnitude": -1})]
    told = {m: differences(r, [Family("f", "F", pairs, m)]) for m in (None, 0.005, 0.05)}
    assert told[None].verdict[0] == "not resolved" and told[0.05].verdict[0] == "same"
    wide = max(-told[None].low[0], told[None].high[0])
    for margin, verdict in ((wide + 1e-6, "same"), (wide - 1e-6, "not resolved")):
        assert differences(r, [Family("f", "F", pairs, margin)]).verdict[0] == verdict
    line = told[0.05].iloc[0].to_dict()
    assert sentence(line).endswith("no difference beyond the margin of ± 5 points.")
    sure = line | dict(verdict="resolved")
    assert sentence(sure).endswith("resolved, though inside the margin of ± 5 points.")


def test_one_seed_and_equal_models():
    r = models(dict(ovit=0.7, obert=0.7, magnitude=0.6), seeds=1)
    one = differences(r, [Family("f", "F", [Contrast("a", {"ovit": 1, "magnitude": -1})])]).iloc[0].to_dict()
    assert one["verdict"] == "no interval" and sentence(one).endswith("(no interval: one seed, or nothing varies).")
    equal = models(dict(ovit=0.7, obert=0.7), noise=0)
    same = differences(equal, [Family("f", "F", [Contrast("a", {"ovit": 1, "obert": -1})], 0.01)]).iloc[0]
    assert (same["mean"], same.low, same.high, same.p, same.verdict) == (0, 0, 0, 1, "same")


def test_more_than_one_point_is_refused():
    r = pd.concat([models(dict(ovit=0.7, obert=0.6), epochs=e) for e in (1, 3)], ignore_index=True)
    pairs = {"ovit": 1, "obert": -1}
    with pytest.raises(ValueError, match=r"a \(ovit - obert\) is asked for .*: name its epochs in `where`"):
        differences(r, [Family("f", "F", [Contrast("a", pairs)])])
    assert differences(r, [Family("f", "F", [Contrast("a", pairs, dict(epochs=3))])]).n.item() == 3


def test_a_mean_over_datasets_by_hand():
    a = models(dict(ovit=0.7, obert=0.6), noise=0.1)
    b = models(dict(ovit=0.9, obert=0.85), seeds=2, noise=0.05, dataset="b", metric="mean_per_class")
    labels = np.arange(N) % 4
    b["labels"] = [labels] * len(b)
    b["value"] = [np.mean([each[labels == k].mean() for k in range(4)]) for each in b.each]
    what = Contrast("a", {"ovit": 1, "obert": -1}, metric="accuracy")
    found = differences(pd.concat([a, b], ignore_index=True), [Family("f", "F", [what])]).iloc[0]
    each = {}
    for name, here in dict(a=a, b=b).items():
        x = [np.stack(list(here[(here.method == m) & (here.seed < 2)].each)).astype(float) for m in ("ovit", "obert")]
        each[name] = x[0] - x[1]
    seeds = [(p + q) / 2 for p, q in zip(each["a"].mean(1), each["b"].mean(1))]
    assert (
        found.n == 2 and found.N == 2 * N and found.dataset == "d, b" and found["mean"] == pytest.approx(np.mean(seeds))
    )
    assert found.s == pytest.approx(np.std(seeds, ddof=1))
    over = each["b"].mean(0)
    image = each["a"].mean(0).var(ddof=1) / N + sum(over[labels == k].var(ddof=1) / 100 for k in range(4)) / 16
    assert found.sigma**2 / found.N == pytest.approx(image / 4)
    assert found.p == pytest.approx(
        2 * stats.t.sf(abs(found["mean"]) * stats.t.ppf(0.975, found.df) / (found.high - found["mean"]), found.df)
    )


def test_a_row_that_failed_is_not_replaced_by_one_of_another_variant():
    """Dense's probe on 5 images a class failed; that on all images is no stand-in."""
    few = models(dict(ovit=0.5, dense=0.6), noise=0.05, phase="linear", source_phase="one_shot", shots=5.0)
    whole = models(dict(dense=0.9), phase="linear", source_phase="one_shot", shots=np.nan)
    at = dict(phase="linear", source_phase="one_shot", sparsity_target=0.9, shots=5.0)
    family = Family("f", "F", [Contrast("against dense", {"ovit": 1, "dense": -1}, at)])
    every = pd.concat([few, whole], ignore_index=True)
    assert differences(every, [family])["mean"].item() == pytest.approx(-0.1, abs=0.02)
    failed = every[(every.method == "ovit") | every.shots.isna()]
    assert differences(failed, [family]).verdict.item() == "not run"
    pairs, on = {"ovit": 1, "dense": -1}, ["phase", "shots", "sparsity_target"]
    assert statistics.contrast(failed, pairs, on).empty and len(statistics.contrast(every, pairs, on)) == 3


def test_a_set_that_tells_nothing_is_resolved_nowhere():
    """Neither on the page nor in the table that is published."""
    r = models(dict(ovit=0.7, magnitude=0.5), noise=0.05)
    pairs = [Contrast("a", {"ovit": 1, "magnitude": -1}), Contrast("b", {"ovit": 1, "obert": -1})]
    told, silent = (Family("f", "F", pairs, silent=lambda rows, why=why: why) for why in ("", "the floor is as good"))
    table = differences(r, [told, silent])
    assert table.verdict.tolist() == ["resolved", "not run", "tells nothing", "not run"]
    assert table["mean"][2] == table["mean"][0]
    assert sentence(table.iloc[2].to_dict()).endswith(": nothing is said, for the set tells nothing.")


def test_a_line_says_how_many_images_a_class_and_how_long():
    few = models(dict(ovit=0.7, obert=0.6), noise=0.05, phase="linear", shots=5.0, epochs=3.0)
    family = Family("f", "F", [
        Contrast("a", {"ovit": 1, "obert": -1}, dict(phase="linear", shots=5)),
        Contrast("b", {"ovit": 1, "random": -1}, dict(phase="linear", shots=5, epochs=3)),
    ])  # fmt: skip
    table = differences(few, [family])
    assert table[["shots", "epochs"]].values.tolist() == [[5, 3]] * 2
    assert sentence(table.iloc[0].to_dict()).startswith("a (linear, d, 5 images a class, trained 3, 90 %): `ovit")
    assert sentences(table)[0].startswith("a: `ovit - obert`")  # nothing tells them apart
    named = table.iloc[0].to_dict() | dict(what="a (90 %)")  # what it tells already says where
    assert sentence(named).startswith("a (90 %) (linear, d, 5 images a class, trained 3): `ovit")
    assert sentence(named | dict(what="of 190 %")).startswith("of 190 % (linear, d, 5 images a class, trained 3, 90 %)")
    assert sentence(named | dict(what="dense, 90 %")).startswith("dense, 90 % (linear, d, 5")  # a set's name in a word


def test_a_control_that_was_trained_is_free_of_no_length():
    trained = [models(dict(ovit=0.7, dense=0.9), phase="recovered", epochs=e) for e in (1.0, 3.0)]
    before = models(dict(dense=0.9), epochs=np.nan)
    odd = models(dict(dense=0.1), phase="recovered", epochs=np.nan)  # a row of no length, where others have one
    every = pd.concat([*trained, before, odd], ignore_index=True)
    at = dict(phase="recovered", sparsity_target=0.9, epochs=3.0)
    family = Family("f", "F", [Contrast("against dense", {"ovit": 1, "dense": -1}, at)])
    assert differences(every, [family])["mean"].item() == pytest.approx(-0.2, abs=0.02)
    failed = every[~((every.method == "dense") & (every.epochs == 3))]
    assert differences(failed, [family]).verdict.item() == "not run"


def test_losses_are_no_points_and_the_rule_is_the_contrasts():
    own = rows({("ovit_no_update", 0.9, k): 0.5 + k / 10 for k in range(3)}, damp_rule="own", metric="cross_entropy")
    shared = own.assign(damp_rule="shared", value=own.value + 1)
    other = rows({("ovit", 0.9, k): 0.25 + k / 100 for k in range(3)}, damp_rule="own", metric="cross_entropy")
    r = pd.concat([own, shared, other], ignore_index=True)
    pairs = {"ovit_no_update": 1, "ovit": -1}
    family = Family("f", "F", [Contrast("a", pairs, rule=rule, metric="cross_entropy") for rule in ("own", "shared")])
    table = differences(r, [family])
    assert table["mean"].tolist() == pytest.approx([0.34, 1.34])
    assert "`ovit_no_update - ovit` = +1.340 ± 0.224, p after" in sentence(table.iloc[1].to_dict())
    half = Family("f", "F", family.contrasts[:1])
    assert used(r, [half]).tolist() == [True] * 3 + [False] * 3 + [True] * 3 and not used(r, []).any()
