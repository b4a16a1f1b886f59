"""What ablation B's rows say: sets that tell are found on validation, and what is said of them follows from the rows."""

import numpy as np
import pandas as pd
import pytest
from conftest import quick

from ovit_core.ablations.transfer import analysis, figures, ranking, relations, telling
from ovit_core.ablations.transfer.families import drawn
from ovit_core.ablations.transfer.parameters import FLOORS, Transfer
from ovit_core.study import families, plots, registry
from ovit_core.study.ablation import Results
from ovit_core.study.families import SILENT
from ovit_core.study.tasks import COLUMNS, HELD_OUT, NUMBERS, VALIDATION

N = 400  # images of a split


def table(lines):
    """Rows from dicts of what is not usual, each with the images behind it."""
    usual = dict.fromkeys(COLUMNS, "") | dict.fromkeys(NUMBERS, np.nan)
    usual |= dict(experiment="transfer", profile="tiny", allocation="global", pattern="unstructured", scope="all",
                  metric="top1", sparsity_target=0.0, source_phase="one_shot", block_size=64, labels=None, each=None)  # fmt: skip
    rows = pd.DataFrame([usual | line for line in lines])
    return rows.assign(each=[behind(*one) for one in zip(rows.value, rows.method, rows.metric)])


def behind(value, method, metric):
    """(N,) images of which `value` are right, others for each method; None where rows have none."""
    if metric not in ("top1", HELD_OUT) or np.isnan(value):
        return None
    right = np.arange(N) < round(N * value)
    return np.random.default_rng(len(method)).permutation(right).astype(np.float32)


def measured(dataset, dense, floor, phase="linear", shots=np.nan, seeds=2, val=None, **pruned):
    """Dense and its floors on test, and on validation (`val` for both levels, else the same); methods at 90 %."""
    at = dict(phase=phase, dataset=dataset, shots=shots)
    out, levels = [], val or (dense, floor)
    for seed in range(seeds):
        for i, name in enumerate(("dense", *FLOORS[phase])):
            one = dict(at, method=name, seed=seed, source_phase="" if i else "one_shot")
            out.append(one | dict(value=floor if i else dense))
            where = dict(phase="full_length") if phase == "full" else {}
            out.append(one | dict(metric=HELD_OUT, value=levels[bool(i)]) | where)
        for method, value in pruned.items():
            value = value[seed] if isinstance(value, tuple) else value
            out.append(dict(at, method=method, seed=seed, value=value, sparsity_target=0.9, damp_rule="own"))
    return out


def upstream(seeds=2, **methods):
    return [
        dict(phase="one_shot", dataset="up", source_phase="", method=m, seed=seed, sparsity_target=0.9 * (m != "dense"),
             value=v[seed] if isinstance(v, tuple) else v)
        for seed in range(seeds) for m, v in methods.items()
    ]  # fmt: skip


def test_a_set_tells_where_dense_is_five_points_above_its_better_floor_and_surely_above_it():
    clear = measured("clear", 0.80, 0.60)
    near = measured("near", 0.80, 0.76)
    few = measured("one", 0.80, 0.60, seeds=1)
    found = telling.sets(table([*clear, *near, *few])).set_index("dataset")
    assert found.tells.to_dict() == dict(clear=True, near=False, one=False)
    assert found.loc["clear", "mean"] == pytest.approx(0.2) and found.low.clear > 0.05
    apart = table(
        [
            *clear,
            dict(
                phase="linear",
                dataset="clear",
                method="raw_pixels",
                metric=HELD_OUT,
                seed=0,
                value=0.1,
                source_phase="",
            ),
        ]
    )
    apart = apart.drop_duplicates(["phase", "dataset", "method", "metric", "seed"], keep="last")
    assert telling.sets(apart).floor.item() == "random_init"  # the better one, in the mean over seeds


def test_the_verdict_is_decided_on_validation_alone():
    rows = table(measured("a", 0.8, 0.6) + measured("b", 0.9, 0.1, val=(0.60, 0.58)))
    found = telling.sets(rows)
    assert dict(zip(found.dataset, found.tells)) == dict(a=True, b=False)
    tested = rows.metric == "top1"
    for level in (0.0, 1.0):
        other = rows.assign(value=rows.value.where(~tested, level), each=rows.each.where(~tested, None))
        assert telling.sets(other).equals(found)


def test_nothing_is_decided_before_every_floor_is_measured_of_two_seeds():
    config = quick(Transfer, "datasets=[a]", "full_datasets=[a]", "few_shots=[]")
    full = measured("a", 0.80, 0.40, phase="full", ovit=0.7, ovit_mask_only=0.6, magnitude=0.5)
    rows = measured("a", 0.8, 0.6, ovit=0.7, ovit_mask_only=0.6, magnitude=0.5) + full
    lacking = {
        "linear": lambda row: row["method"] == "raw_pixels",
        "full": lambda row: row["method"] == "from_scratch",
        "linear, full": lambda row: row["method"] in ("random_init", "from_scratch") or row["seed"] == 1,
    }
    for protocols, lacks in lacking.items():
        left = table([row for row in rows if not lacks(row)])
        for one in map(telling.Protocol, protocols.split(", ")):
            assert telling.undecided(left, one, ["a"]) == {"a"} and not telling.telling(left, one)
            assert (
                telling.silent(left, one, "a") == "undecided"
                and "| yes |" not in analysis.tables(left).splitlines()[-1]
            )
            assert "not decided yet" in telling.too_few(left, [one], ["a", "b"])
        if protocols == "linear, full":
            results = Results(registry.get("transfer"), config, left)
            assert results.headline() == analysis.UNDECIDED
    assert telling.too_few(table(rows), [telling.Protocol("linear")], ["a"]) == "fewer than two sets tell something"
    assert not telling.undecided(table(rows), telling.Protocol("full"), ["a"])


def test_full_finetuning_has_to_beat_the_floors_of_the_linear_probe_too():
    full = measured("a", 0.80, 0.40, phase="full")
    low, high = (table([*full, *measured("a", 0.9, floor)]) for floor in (0.5, 0.78))
    one = lambda rows: telling.of(telling.sets(rows), telling.Protocol("full")).iloc[0]
    assert one(low).tells and not one(high).tells and one(high).floor in FLOORS["linear"]
    assert one(table([*full, *measured("a", 0.9, 0.3)])).floor == "from_scratch"


def test_few_shots_are_judged_for_themselves():
    rows = table(measured("a", 0.8, 0.6) + measured("a", 0.5, 0.6, shots=5.0))
    found = telling.sets(rows)
    assert found.tells.tolist() == [True, False]
    assert set(telling.told(rows).shots.fillna(0)) == {0}


def test_families_are_listed_from_parameters_and_silent_where_a_set_tells_nothing():
    config = quick(Transfer, "datasets=[digits, glyph_symbols]", "few_shots=[5]")
    listed = analysis.families(config)
    assert max(len(family.contrasts) for family in listed) <= families.MOST
    assert len({family.name for family in listed}) == len(listed) == 2 * 3 * 2 + 3  # and upstream of both sources
    assert listed[-1].contrasts[0].weights == {"ovit": 1, "dense": -1}
    rows = measured("digits", 0.8, 0.6, ovit=0.7, ovit_mask_only=0.5, magnitude=0.3)
    rows += measured("glyph_symbols", 0.5, 0.5, ovit=0.4, ovit_mask_only=0.3)
    results = Results(registry.get("transfer"), config, table(rows))
    said = results.answers()
    assert "`ovit - ovit_mask_only` = +20.0" in said and "`ovit - dense` = −10.0" in said
    silent = [line for line in said.splitlines() if "nothing is said about transfer here" in line]
    assert (
        len(silent) == 1 and "glyph_symbols" in silent[0] and said.count("for the same reason") == 1
    )  # recovered ones
    assert "(linear, glyph_symbols" not in said
    lines = results.differences()  # published all the same
    published = lines[(lines.dataset == "glyph_symbols") & (lines.n > 0)]
    assert len(published) and set(published.verdict) == {"tells nothing"} and "resolved" in set(lines.verdict)


def test_the_same_models_are_compared_upstream():
    """Beside which what is lost downstream is read: each source at its own sparsity, for all seeds that it has."""
    config = quick(Transfer, "transfer_sparsities=[0.8]", "source_sparsities=[0.9]", "damp_sparsity=0.8")
    own, recovered = (family for family in analysis.families(config) if family.name.startswith("upstream"))
    assert (own.title, recovered.title) == ("Upstream, as pruned at 80 %", "Upstream, recovered at 90 %")
    assert own.later and recovered.margin == 0.01
    where = recovered.contrasts[0].where
    assert where == dict(phase="recovered", dataset=config.upstream, sparsity_target=0.9)


def test_error_increase_averages_the_telling_datasets_within_a_seed():
    values = measured("a", 0.9, 0.1, ovit=(0.8, 0.9)) + measured("b", 0.5, 0.1, ovit=(0.25, 0.5))
    values += measured("c", 0.5, 0.49, ovit=(0.0, 0.0))  # cannot tell, so it does not count
    (found,) = relations.error_increase(table(values)).to_dict("records")
    # seed 0: errors 0.1 -> 0.2 (+100 %) and 0.5 -> 0.75 (+50 %), mean +75 %; seed 1: none
    assert found["mean"] == pytest.approx(0.375) and (found["datasets"], found["seeds"]) == ("a, b", 2)
    assert any("errors relative to dense over the datasets that can tell (a, b): `ovit` +38 ±" in s
               for s in analysis.answers(table(values)))  # fmt: skip


def test_errors_are_averaged_over_all_datasets_or_not_at_all():
    """Of one seed the hard set is missing: its easy one alone is no mean over both."""
    rows = table(
        measured("easy", 0.9, 0.1, seeds=3, ovit=0.8, magnitude=0.8)
        + measured("hard", 0.5, 0.1, seeds=3, ovit=0.45, magnitude=0.4)
    )
    failed = rows[~((rows.dataset == "hard") & (rows.method == "ovit") & (rows.seed == 1))]
    found = relations.error_increase(failed).set_index("method")
    assert found["mean"].to_dict() == pytest.approx(dict(ovit=0.55, magnitude=0.6))  # (100 + 10) / 2, (100 + 20) / 2
    assert found.seeds.to_dict() == dict(ovit=2, magnitude=2)  # and side by side the same seeds
    none = rows[~((rows.dataset == "hard") & (rows.method == "ovit"))]
    assert list(relations.error_increase(none).method) == ["magnitude"]
    apart = rows[(rows.metric == HELD_OUT) | ((rows.dataset == "easy") == (rows.seed == 0))]
    assert relations.error_increase(apart).empty and figures.errors(apart) is None  # no seed has both


METHODS = ("ovit", "obert", "magnitude", "ovit_mask_only", "ovit_no_update", "random")


def beside(values, others, **columns):
    """Models' (seeds, n) accuracies beside (seeds, n) of another column."""
    lines = [
        dict(phase="linear", shots=np.nan, dataset="a", source_phase="one_shot", method=f"m{i}", sparsity_target=0.9,
             seed=seed, value=v, other=w) | {name: one[i] for name, one in columns.items()}
        for seed, (x, y) in enumerate(zip(values, others)) for i, (v, w) in enumerate(zip(x, y))
    ]  # fmt: skip
    return pd.DataFrame(lines)


def test_a_correlation_that_its_ends_make_is_told_without_them():
    """oViT above and magnitude below in both, the four between them the other way round."""
    names = ["ovit", "m1", "m2", "m3", "m4", "magnitude"]
    x = np.tile([9.0, 3, 4, 5, 6, 1] * 2, (3, 1))
    y = np.tile([9.0, 6, 5, 4, 3, 1] * 2, (3, 1))
    both = beside(x, y, method=names * 2, sparsity_target=[0.9] * 6 + [0.5] * 6)
    rho = lambda **more: relations.correlation(both, "other", within=True, **more).rho.tolist()
    assert rho()[0] > 0 and rho(but=relations.ENDS) == [pytest.approx(-1)]


def test_a_correlation_is_by_rank_over_the_models_of_a_seed_with_an_interval_over_seeds():
    rng = np.random.default_rng(0)
    models = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 12).T  # (2, 12): the same in all seeds
    seeds = lambda n: models[:, None] + rng.normal(0, 0.5, (2, n, 12))
    found = lambda x, y, **more: relations.correlation(beside(x, y), "other", **more).iloc[0]
    expected = np.mean([relations.ranked(pd.Series(x), pd.Series(y)) for x, y in zip(*seeds(3000))])
    tried = [found(*seeds(5)) for _ in range(200)]
    assert np.mean([one.low <= expected <= one.high for one in tried]) > 0.93  # what the interval claims at least
    assert {(one.models, one.seeds) for one in tried} == {(12, 5)}
    perfect = found(np.tile(np.arange(8.0), (3, 1)), np.tile(np.arange(8.0) ** 3, (3, 1)))
    assert perfect.rho == perfect.high == 1
    most = np.arctanh(1 - 12 / (8 * 63))  # of seeds that agree wholly, what ranks of eight models vary by chance
    assert perfect.low == pytest.approx(np.tanh(most - 1.959964 * np.sqrt(1.06 / 5 / 3)))
    mixed = found(np.array([np.arange(6.0), np.arange(6.0), np.full(6, 0.3)]), np.tile(np.arange(6.0), (3, 1)))
    assert (mixed.rho, mixed.seeds) == (pytest.approx(1), 2)  # a seed in which nothing varies says nothing
    one = found(np.arange(8.0)[None], -np.arange(8.0)[None])
    assert one.rho == -1 and np.isnan(one.low)  # one seed says nothing of others
    assert np.isnan(found(np.tile(np.arange(6.0), (3, 1)), np.full((3, 6), 0.3)).to_list()[-3:]).all()


def test_the_sparser_a_model_the_smaller_its_mark():
    lines = measured("a", 0.9, 0.1, ovit=0.8)
    lines += [row | dict(sparsity_target=0.5) for row in lines if row.get("sparsity_target")]
    up = upstream(dense=0.9, ovit=0.8)
    up += [row | dict(sparsity_target=0.5) for row in up if row["sparsity_target"]]
    fig = figures.beside(table(lines + up), relations.beside_upstream, "upstream_top1", "")
    assert sorted(bars.lines[0].get_markersize() for bars in fig.axes[0].containers) == [
        figures.SMALLEST, np.mean([figures.SMALLEST, figures.LARGEST]), figures.LARGEST
    ]  # fmt: skip


def test_models_that_were_all_recovered_have_their_names_too():
    again = lambda rows: [row | dict(source_phase="recovered") for row in rows if row.get("source_phase") != ""]
    made = [row for row in measured("a", 0.9, 0.1, ovit=0.8, magnitude=0.7) if row.get("metric") != HELD_OUT]
    alike = [row | dict(phase="features", metric="cka", value=0.5) for row in again(made) if row.get("sparsity_target")]
    decide = measured("a", 0.9, 0.1) + measured("b", 0.9, 0.88) + again(measured("b", 0.9, 0.8, ovit=0.7))
    up = [row | dict(phase="recovered") for row in upstream(dense=0.9, ovit=0.8, magnitude=0.5)]
    rows = table([*decide, *again(made), *alike, *up])
    names = lambda fig: sorted(text.get_text() for text in fig.legends[0].get_texts())
    assert names(figures.beside(rows, relations.beside_upstream, "upstream_top1", "")) == ["dense", "magnitude", "ovit"]
    assert names(figures.beside(rows, relations.beside_similarity, "cka", "")) == ["magnitude", "ovit"]


def test_upstream_and_downstream_intervals_are_for_new_images_both():
    rows = table(measured("a", 0.9, 0.1, ovit=0.8) + upstream(dense=0.9, ovit=0.8))
    fig = figures.beside(rows, relations.beside_upstream, "upstream_top1", "")
    across = [bars.lines[2][0].get_segments()[0] for bars in fig.axes[0].containers]  # each from left to right
    assert all(0.01 < abs(right[0] - left[0]) < 0.1 for left, right in across)  # no seed differs: images alone


def test_within_a_sparsity_a_relation_is_told_from_that_of_sparsity_itself():
    """At each of two sparsities transfer falls with the other number; both fall with sparsity."""
    x = np.tile([5.0, 4, 3, 2, 1, 15, 14, 13, 12, 11], (3, 1))
    y = np.tile([1.0, 2, 3, 4, 5, 11, 12, 13, 14, 15], (3, 1))
    both = beside(x, y, sparsity_target=[0.9] * 5 + [0.5] * 5)
    (over,) = relations.correlation(both, "other").to_dict("records")
    (within,) = relations.correlation(both, "other", within=True).to_dict("records")
    assert over["rho"] > 0.5 and (within["models"], within["seeds"]) == (10, 3)
    assert within["rho"] == pytest.approx(-1) and within["high"] < 0
    assert relations.correlation(both[both.sparsity_target == 0.9], "other", within=True).empty  # it is that over all
    assert relations.correlation(both, "other", within=True, but=["m0", "m1", "m5", "m6"]).empty  # too few are left


def test_what_does_not_vary_predicts_nothing_and_is_said_so():
    up = upstream(seeds=5, dense=0.9, **dict(zip(METHODS, (0.8, 0.7, 0.6, 0.5, 0.4, 0.3))))
    flat = analysis.answers(table(measured("a", 0.95, 0.1, seeds=5, **dict.fromkeys(METHODS, 0.8)) + up))
    assert any(
        "o relation of transfer accuracy to upstream top-1 can be seen, for one does not vary: a" in s for s in flat
    )
    rising = dict(zip(METHODS, (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)))
    said = analysis.answers(table(measured("a", 0.95, 0.1, seeds=5, **rising) + up))
    assert any("ransfer accuracy rises with upstream top-1: a, linear probe (+1.00, +0." in s for s in said)
    silent = analysis.answers(table(measured("a", 0.95, 0.94, seeds=5, **rising) + up))
    assert not any("ank correlation" in s for s in silent)
    few = analysis.answers(table(measured("a", 0.95, 0.1, ovit=0.9, obert=0.8) + up))
    assert not any("upstream top-1" in s for s in few)


def test_a_relation_is_between_means_over_the_same_seeds():
    """Models as pruned have five seeds, recovered ones three; the two more are bad ones."""
    up = upstream(
        seeds=5, dense=0.9, **{m: (v, v, v, v / 9, v / 9) for m, v in zip(METHODS, (0.8, 0.7, 0.6, 0.5, 0.4, 0.3))}
    )
    level = dict(zip(METHODS, (0.85, 0.8, 0.75, 0.7, 0.65, 0.6)))
    pruned = measured("a", 0.95, 0.1, seeds=5, **{m: (v, v, v, v / 5, v / 5) for m, v in level.items()})
    again = [
        dict(line, source_phase="recovered")
        for line in measured("a", 0.95, 0.1, seeds=3, ovit=0.86)[:]
        if line["method"] == "ovit"
    ]
    trained = [dict(line, phase="recovered", value=0.82) for line in upstream(seeds=3, ovit=0.82)]
    rows = table(pruned + up + again + trained)
    (found,) = relations.correlation(relations.beside_upstream(rows), "upstream_top1").to_dict("records")
    assert (found["models"], found["seeds"], found["rho"]) == (7, 3, 1)
    both = relations.beside_upstream(rows)
    mean = both[both.seed < 3].groupby(relations.MODEL).value.mean()
    drawn = figures.beside(rows, relations.beside_upstream, "upstream_top1", "upstream top-1")
    assert drawn.axes[0].get_xlabel() == "upstream top-1"
    heights = {round(float(y), 6) for line in drawn.axes[0].lines for y in line.get_ydata()}
    assert {round(v, 6) for v in mean} <= heights and round(np.mean([0.85] * 3 + [0.17] * 2), 6) not in heights
    said = [s for s in analysis.answers(rows) if "upstream top-1" in s]
    assert len(said) == 2 and "; " not in said[0] and "7 models, 3 seeds" in said[0]
    assert said[1].startswith("Among models of one source and sparsity, ") and "6 models, 3 seeds" in said[1]
    alike = [dict(line, metric="cka", phase="features") for line in pruned if line.get("sparsity_target")]
    said = analysis.answers(table(pruned + up + alike))
    assert any("are not corrected for their number (2)" in s for s in said)


def test_panels_show_means_over_the_same_seeds():
    pruned = measured("a", 0.9, 0.2, seeds=3, ovit=0.8)
    for line in pruned:
        if line["method"] == "raw_pixels" and line["seed"] == 2:
            line["value"] = 0.5
    kinds = ("dense", "ovit")
    again = [dict(line, source_phase="recovered") for line in pruned if line["seed"] < 2 and line["method"] in kinds]
    fig = figures.transfer(table(pruned + again))
    levels = [bars.lines[0].get_xdata()[0] for bars in fig.axes[0].containers]
    assert levels == pytest.approx([0.9, 0.9, 0.8, 0.8])  # dense and ovit, as pruned and recovered
    rows = table(pruned + again)
    rows.loc[(rows.method == "ovit") & (rows.source_phase == "one_shot") & (rows.seed == 2), "value"] = 0.2
    fig = figures.transfer(rows.assign(each=None))
    seen = {round(float(bars.lines[0].get_xdata()[0]), 6) for bars in fig.axes[0].containers}
    assert {0.6, 0.8} <= seen  # as pruned three seeds, recovered two


MANY = quick(Transfer, "datasets=[a, b, c, d]", "protocols=[linear]", "few_shots=[]", "transfer_sources=[one_shot]",
             "full_datasets=[a]")  # fmt: skip


def four_sets(last=0.60):
    """Dense clears its floor on three sets, and on the fourth if `last` says so."""
    return (
        measured("a", 0.8, 0.6, seeds=3, ovit=(0.75, 0.75, 0.7), magnitude=0.7, ovit_mask_only=0.3)
        + measured("b", 0.8, 0.6, seeds=3, ovit=0.7, magnitude=0.6, ovit_mask_only=0.5)
        + measured("c", 0.8, 0.6, seeds=3, ovit=(0.5, 0.6, 0.6), magnitude=0.5, ovit_mask_only=0.2)
        + measured("d", 0.8, 0.6, seeds=3, val=(0.8, last), ovit=0.1, magnitude=0.9, ovit_mask_only=0.05)
    )


def test_over_many_sets_the_mean_of_those_that_tell_is_a_comparison_of_its_own():
    results = Results(registry.get("transfer"), MANY, table(four_sets(last=0.79)))
    first = results.ablation.families(MANY)[0]
    assert first.title == "Mean over sets, linear probe, as pruned at 90 %"
    lines = results.differences().set_index(["family", "pair"]).loc["linear_one_shot_over_sets"]
    assert set(lines.dataset) == {"a, b, c"}
    mean = lines.loc["ovit - magnitude", "mean"]
    assert mean == pytest.approx(np.mean([[0.05, 0.05, 0.0], [0.1] * 3, [0.0, 0.1, 0.1]]))
    over_seeds = np.std([0.05, 0.25 / 3, 0.2 / 3], ddof=1)
    assert lines.loc["ovit - magnitude", "s"] == pytest.approx(over_seeds) and lines.N.tolist() == [3 * N] * len(lines)
    every = Results(registry.get("transfer"), MANY, table(four_sets())).differences()
    assert every.dataset.iloc[0] == "a, b, c, d"
    said = results.headline()
    assert "linear probe, as pruned at 90 % (a, b, c, of 4 sets): −13.3 ± " in said and "comparisons" not in said
    assert said.count(" against ") == 3 and said.count("(not resolved)") == (lines.verdict == "not resolved").sum()


def over_sets(lines):
    """Verdict and datasets of the means over sets, by pair."""
    found = Results(registry.get("transfer"), MANY, table(lines)).differences()
    found = found[found.family.str.endswith("over_sets")].set_index("pair")
    return found.verdict.to_dict(), found.dataset.to_dict()


BOTH = MANY.replace(protocols=("linear", "full"), full_datasets=tuple("abcd"), full_methods=("ovit", "magnitude"),
                    transfer_sources=("one_shot", "recovered"), source_sparsities=(0.9,), full_sources=("recovered",),
                    full_sparsities=(0.9,))  # fmt: skip


def recovered(lines):
    """The same rows as those of recovered models, dense among them."""
    there = [row for row in lines if row.get("metric") != HELD_OUT and row.get("source_phase") != ""]
    return [row | dict(source_phase="recovered") for row in there]


def both_protocols(full=(0.79, 0.4)):
    """Four sets by linear probe and by full finetuning, of models as pruned and recovered; `full` is validation on "d"."""
    tuned = [
        measured(
            name, 0.9, 0.4, "full", seeds=3, val=full if name == "d" else None, ovit=0.89, magnitude=(0.8, 0.8, 0.7)
        )
        for name in "abcd"
    ]
    probed = [measured(name, 0.8, 0.6, seeds=3, ovit=0.75, magnitude=0.7) for name in "abcd"]
    pruned = [measured(name, 0.8, 0.6, seeds=3, ovit=(0.5, 0.5, 0.6), magnitude=0.4) for name in "abcd"]
    floors = [row for one in tuned for row in one if row.get("metric") == HELD_OUT or row.get("source_phase") == ""]
    return (
        [row for one in pruned for row in one] + floors + [row for one in (*probed, *tuned) for row in recovered(one)]
    )


def test_what_a_protocol_and_what_training_changes_are_comparisons_of_their_own():
    results = Results(registry.get("transfer"), BOTH, table(both_protocols()))
    lines = results.differences().set_index("family")
    by = lines.loc["by_protocol_recovered_over_sets"].set_index("pair")
    pair = "ovit@full - dense@full - ovit@linear + dense@linear"
    assert by["mean"][pair] == pytest.approx((0.89 - 0.9) - (0.75 - 0.8)) and by.dataset[pair] == "a, b, c, d"
    assert by.n[pair] == 3
    trained = lines.loc["by_training_over_sets"].set_index("pair")
    pair = "ovit@recovered - dense@recovered - ovit@one_shot + dense@one_shot"
    assert trained["mean"][pair] == pytest.approx(0.75 - 1.6 / 3)
    # What training gives dense as well is not what it brings back.
    more = lambda row: row | dict(value=row["value"] + 0.05) if row.get("source_phase") == "recovered" else row
    again = Results(registry.get("transfer"), BOTH, table([*map(more, both_protocols())])).differences()
    assert again.set_index("pair")["mean"][pair] == pytest.approx(trained["mean"][pair])
    said = results.headline()
    assert said.count("of 4 sets") == 3 and "By " not in said  # as pruned and recovered by probe, recovered finetuned
    told = results.comparisons().body
    assert "full finetuning, recovered at 90 % (a, b, c, d)**" in told  # which sets a mean is over


def test_a_mean_over_two_protocols_is_over_the_sets_that_tell_by_both():
    results = Results(registry.get("transfer"), BOTH, table(both_protocols(full=(0.5, 0.6))))
    lines = results.differences().set_index("family")
    assert set(lines.loc["by_protocol_recovered_over_sets"].dataset) == {"a, b, c"}
    assert set(lines.loc["linear_recovered_over_sets"].query("n > 0").dataset) == {"a, b, c, d"}


def test_a_protocol_whose_mean_is_silent_is_named():
    quiet = [
        row | dict(value=0.4) if row.get("metric") == HELD_OUT and row["phase"] == "full_length" else row
        for row in both_protocols()
    ]
    results = Results(registry.get("transfer"), BOTH, table(quiet))
    assert results.headline().endswith("By full finetuning fewer than two sets tell something.")
    lines = results.differences().set_index("family")
    assert set(lines.loc["by_protocol_recovered_over_sets"].verdict) == {SILENT}


@pytest.mark.parametrize("tell", [0, 1])
def test_of_a_mean_over_fewer_than_two_sets_nothing_is_said(tell):
    quiet = [
        row | dict(value=0.8) if row.get("metric") == HELD_OUT and row["dataset"] not in "abcd"[:tell] else row
        for row in four_sets()
    ]
    assert set(over_sets(quiet)[0].values()) == {families.SILENT}  # they were run


def test_a_mean_that_lacks_a_set_is_not_run_and_its_method_is_not_ranked():
    less = [row for row in four_sets(last=0.79) if (row["dataset"], row["method"]) != ("c", "magnitude")]
    verdicts, datasets = over_sets(less)
    assert verdicts["ovit - magnitude"] == "not run" and datasets["ovit - dense"] == "a, b, c"
    found = ranking.ranking(table(less))
    assert found.method.tolist() == ["ovit", "ovit_mask_only"] and found["mean"].tolist() == [1, 2]


def test_families_have_names_of_their_own_whatever_is_finetuned():
    for full in (["a"], ["a", "b"], ["a", "b", "c", "d"]):
        config = quick(
            Transfer, "datasets=[a, b, c, d]", "protocols=[linear, full]", f"full_datasets=[{', '.join(full)}]"
        )
        names = [family.name for family in analysis.families(config)]
        assert len(set(names)) == len(names)
        assert any(name.startswith("full") and name.endswith("over_sets") for name in names) == (len(full) > 2)


def test_methods_are_ranked_over_the_sets_that_tell_and_not_over_fewer_than_three():
    found = ranking.ranking(table(four_sets(last=0.79)))
    assert found.method.tolist() == ["ovit", "magnitude", "ovit_mask_only"] and set(found.datasets) == {"a, b, c"}
    each = [np.mean([1, 1, 1.5]), np.mean([1, 1, 1]), np.mean([1.5, 1, 1])]  # seeds; two are equal on a, on c
    assert found["mean"].iloc[0] == pytest.approx(np.mean(each)) and found.seeds.tolist() == [3] * 3
    assert found.half.iloc[0] == pytest.approx(4.3027 * np.std(each, ddof=1) / 3**0.5, rel=1e-4)
    assert found["mean"].iloc[-1] == 3 and found["mean"].sum() == pytest.approx(6)
    text = analysis.tables(table(four_sets(last=0.79)))
    assert (
        "Mean place of each method" in text and "| linear probe | as pruned at 90 % | a, b, c | 3 | `ovit` 1.1" in text
    )
    assert "`ovit_mask_only` 3.0 in every seed |" in text  # for want of an interval
    two = [row for row in four_sets(last=0.79) if row["dataset"] != "c"]
    assert ranking.ranking(table(two)).empty and "Mean place" not in analysis.tables(table(two))
    none = analysis.tables(
        table([row | dict(value=0.8) if row.get("metric") == HELD_OUT else row for row in four_sets()])
    )
    assert "No ranking by linear probe of models as pruned: fewer than three sets tell something." in none
    alone = table([row for row in four_sets() if row["method"] not in ("magnitude", "ovit_mask_only")])
    assert ranking.ranking(alone).empty and "anking" not in analysis.tables(alone)  # of one method there is no place


def test_every_source_is_ranked_at_the_sparsity_at_which_it_was_measured():
    lines = four_sets(last=0.79)
    pruned = [row for row in lines if row.get("sparsity_target")]
    recovered = [row | dict(source_phase="recovered") for row in pruned]
    lower = [row | dict(sparsity_target=0.7) for row in pruned]
    chosen = [dict(phase="lambda_search", method="ovit", metric=VALIDATION, sparsity_target=0.7, seed=0, value=0.5)]
    found = ranking.ranking(table([*chosen, *lines, *lower, *recovered]))
    assert found.groupby("source_phase")["at"].first().to_dict() == dict(one_shot=0.7, recovered=0.9)


def test_figures_and_table_show_every_source_at_its_own_sparsity():
    """λ is chosen at 70 %, recovered models are at 90 %: neither is left out, and beside the recovered ones stand those of
    the same sparsity as pruned, or training would be taken for what sparsity does.
    """
    lines = four_sets(last=0.79)
    pruned = [row for row in lines if row.get("sparsity_target")]
    recovered = [row | dict(source_phase="recovered", value=row["value"] / 2) for row in pruned]
    lower = [row | dict(sparsity_target=0.7, value=row["value"] + 0.05) for row in pruned]
    less = [row | dict(sparsity_target=0.5, value=0.02) for row in pruned]  # spoken of by nobody
    chosen = [dict(phase="lambda_search", method="ovit", metric=VALIDATION, sparsity_target=0.7, seed=0, value=0.5)]
    rows = table([*chosen, *lines, *lower, *less, *recovered])
    fig = figures.transfer(rows)
    assert [text.get_text() for text in fig.legends[0].texts[:3]] == [
        "as pruned at 70 %", "as pruned at 90 %", "recovered at 90 %"
    ]  # fmt: skip
    marks = [bars.lines[0] for bars in fig.axes[1].containers]
    drawn_at = {round(float(mark.get_xdata()[0]), 6): mark for mark in marks}
    at_70, at_90, after = (drawn_at[value] for value in (0.75, 0.7, 0.35))  # oViT on b
    assert 0.02 not in drawn_at and at_70.get_markersize() > at_90.get_markersize() == after.get_markersize()
    assert [mark.get_markerfacecolor() == "white" for mark in (at_70, at_90, after)] == [False, False, True]
    text = analysis.tables(rows)
    assert all(f"| {models} |" in text for models in ("as pruned, 70 %", "recovered, 90 %", "as pruned, 90 %"))


def test_many_comparisons_are_two_figures_of_means_and_of_sets():
    config = quick(Transfer, "datasets=[digits, glyph_symbols, glyph_typefaces]", "few_shots=[5, 20]")
    listed = analysis.families(config)
    heard = lambda families: pd.DataFrame(
        [dict(family=f.name, verdict="resolved") for f in families for _ in f.contrasts]
    )
    mean, single = (drawn(listed, heard(listed), single) for single in (False, True))
    assert {f.name.endswith("over_sets") or f.name.partition("_")[0] for f in mean} == {True, "upstream"} and len(
        single
    )
    named = analysis.families(quick(Transfer, "datasets=[folder:my_upstream, digits]", "full_datasets=[digits]"))
    assert len([f for f in named if f.name.startswith("upstream_")]) == 2  # of a set that is called so they are none
    assert {f.name.partition("_")[0] for f in single} == {"linear", "full"}
    assert not any(family.name.endswith("over_sets") for family in single)
    few = analysis.families(config.replace(datasets=("digits",), full_datasets=("digits",), few_shots=()))
    assert drawn(few, heard(few), single=False) == few and drawn(few, heard(few), single=True) == []
    assert drawn(listed, heard(listed).assign(verdict=SILENT), single=False) == []
    one = heard(listed).assign(verdict=lambda lines: np.where(lines.family == listed[0].name, "resolved", SILENT))
    assert drawn(listed, one, single=False) == listed  # the titles of others take little room
    two = analysis.families(quick(Transfer, "datasets=[digits, glyph_symbols]", "few_shots=[5, 10, 20, 40]"))
    assert len(heard(two)) > 60 and drawn(two, heard(two), single=False) == two  # there are no means to fall back on


def test_damage_that_helps_is_said_even_where_a_set_tells_nothing():
    up = upstream(dense=0.9, ovit=0.8, magnitude=0.2, obert=0.95)
    said = analysis.answers(table(measured("a", 0.5, 0.7, ovit=0.5, magnitude=0.8, obert=0.8) + up))
    (found,) = [s for s in said if "transfer BETTER than dense" in s]
    assert "`magnitude` (at 90 %, as pruned) by +30.0" in found and "(−70.0 ± 5.2 upstream)" in found
    assert "ovit" not in found and "obert" not in found  # as good as dense; better upstream too
    none = analysis.answers(table(measured("a", 0.5, 0.7, ovit=0.5, magnitude=0.4) + up))
    assert not any("BETTER" in s for s in none)
    # What is looked at is counted over all sets: one of many that is just below .05 is none.
    edge = lambda *names: [row for name in names for row in measured(name, 0.5, 0.7, ovit=0.4, magnitude=0.59)]
    told = lambda rows: any("`magnitude`" in s for s in analysis.answers(table(rows + up)) if "BETTER" in s)
    assert told(edge("a")) and not told(edge(*"abcdefghijkl"))
    near = upstream(dense=(0.9, 0.9), magnitude=(0.87, 0.92))  # dense is better upstream in the mean, but not surely
    unsure = analysis.answers(table(measured("a", 0.5, 0.7, magnitude=0.8) + near))
    assert not any("BETTER" in s for s in unsure)


def test_rows_of_an_older_study_say_nothing_about_transfer():
    older = [row for row in measured("a", 0.9, 0.1, ovit=0.8) if row.get("metric") != HELD_OUT]
    (said,) = analysis.answers(table(older))
    assert "nothing is said about transfer" in said


def lengths(full, half, other=0.2, lr=(1e-3, 3e-3, 9e-3)):
    """Validation after half the length at three rates, the middle one the best, and after the whole length."""
    out = []
    for seed, method in ((s, m) for s in range(2) for m in ("dense", "from_scratch")):
        one = dict(dataset="a", method=method, seed=seed, source_phase="" if method == "from_scratch" else "one_shot")
        for i, rate in enumerate(lr):
            value = half if i == 1 else other
            out.append(one | dict(phase="lr_search", metric=VALIDATION, lr=rate, value=value))
        out.append(one | dict(phase="full_length", metric=HELD_OUT, lr=lr[1], value=full))
    return out


def test_finetuning_is_long_enough_where_half_of_it_is_nearly_as_good():
    assert analysis.length(table(lengths(0.905, 0.90))).enough.tolist() == [True, True]
    short = table(lengths(0.915, 0.90) + measured("a", 0.9, 0.1))
    assert not analysis.length(short).enough.any()
    (said,) = [s for s in analysis.answers(short) if "full finetuning is NOT long enough" in s]
    assert "90.0 and 91.5 %" in said and "short training; dense is ahead of its floor (from scratch) by 0.0" in said


def test_a_floor_that_is_not_at_its_end_is_not_taken_for_a_short_finetuning():
    scratch = [row | dict(value=0.5 * row["value"]) for row in lengths(0.905, 0.8) if row["method"] != "dense"]
    rows = table([row for row in lengths(0.905, 0.90) if row["method"] == "dense"] + scratch + measured("a", 0.9, 0.1))
    assert dict(zip(analysis.length(rows).method, analysis.length(rows).enough)) == dict(dense=True, from_scratch=False)
    (said,) = [s for s in analysis.answers(rows) if "full finetuning is" in s]
    assert "full finetuning is long enough" in said and "short training" not in said
    assert "from scratch is not at its end, so the floor may lie higher; dense is ahead of its floor (from s" in said


def test_the_runner_up_is_shown_and_a_best_value_at_an_edge_told():
    rows = table(lengths(0.9, 0.89, other=0.8))
    shown = analysis.rates(rows).reset_index()
    assert shown["best"].tolist() == ["0.003 (89.0 %)"] * 2 and shown["runner-up"].str.contains("80.0 %").all()
    assert not any("edge" in s for s in analysis.answers(rows))
    at_edge = analysis.answers(table(lengths(0.9, 0.7, other=0.8, lr=(1e-3, 3e-3))))
    assert any("full finetuning: at the edge of the list of learning rates is the lowest (0.001)" in s for s in at_edge)
    tried = [dict(phase="linear", dataset="a", method=m, seed=0, metric=VALIDATION, C=C, value=C, source_phase=s)
             for m, s in (("dense", "one_shot"), ("raw_pixels", "")) for C in (0.1, 1.0)]  # fmt: skip
    said = [s for s in analysis.answers(table(tried)) if "list of C" in s]
    assert len(said) == 1 and "the highest (1) for `dense` (as pruned, in 1 of 1 seed), `raw_pixels`" in said[0]


def test_of_C_the_edge_is_told_that_seeds_chose():
    """The best in the mean over seeds is nobody's choice: each seed takes a C of its own."""
    tried = lambda method, *accuracies: [
        dict(phase="linear", dataset="a", method=method, seed=s, metric=VALIDATION, C=C, value=v, source_phase="one_shot")
        for s, of_seed in enumerate(accuracies) for C, v in zip((0.1, 1.0, 10.0), of_seed)
    ]  # fmt: skip
    inside, edge = (0.2, 0.5, 0.4), (0.2, 0.4, 0.5)
    said = [s for s in analysis.answers(table(tried("dense", inside, inside, (0, 0, 1.0)))) if "list of C" in s]
    assert said == []  # though 10 is the best in the mean
    (said,) = [s for s in analysis.answers(table(tried("dense", edge, edge, (0, 0.9, 0.2)))) if "list of C" in s]
    assert "the highest (10) for `dense` (as pruned, in 2 of 3 seeds)" in said
    flat = (0.2, 0.497, 0.5)
    assert not any("list of C" in s for s in analysis.answers(table(tried("dense", flat, flat, flat))))


def test_figures_are_grey_where_a_set_tells_nothing():
    rows = table(measured("a", 0.9, 0.1, ovit=0.8) + measured("b", 0.9, 0.88, ovit=0.8))
    fig = figures.transfer(rows)
    said = [ax.get_xlabel() for ax in fig.axes]
    assert [ax.get_ylabel() for ax in fig.axes] == ["a", "b"] and said == ["", "tells nothing"]
    colours = [{bars.lines[0].get_color() for bars in ax.containers} for ax in fig.axes]
    assert colours[1] == {figures.GREY} and figures.GREY not in colours[0]
    floors = [next(line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":") for ax in fig.axes]
    assert floors == pytest.approx([0.1, 0.88])
    assert figures.transfer(rows[rows.sparsity_target == 0]) is None


def test_a_protocol_stands_in_a_column_and_a_few_images_first():
    values = measured("a", 0.9, 0.1, ovit=0.8) + measured("a", 0.5, 0.1, shots=5.0, ovit=0.4)
    fig = figures.transfer(table(values + measured("a", 0.7, 0.1, phase="knn", ovit=0.6)))
    assert [ax.get_title() for ax in fig.axes] == ["probe, 5 a class", "linear probe", "neighbours"]
    text = analysis.tables(table(values))
    assert (
        "| a | top-1 | linear probe on 5 images a class | as pruned, 90 % | 2 | 50.0 ± 4.9 | 40.0 ± 4.8 | 10.0 ± 3.0 (random init, linear probe) | yes |"
        in text
    )


def test_the_floor_of_a_panel_is_that_of_its_protocol_and_of_the_table():
    rows = table(measured("a", 0.9, 0.4, ovit=0.8) + measured("a", 0.7, 0.1, phase="knn", ovit=0.6))
    drawn = {
        ax.get_title(): [float(line.get_xdata()[0]) for line in ax.lines if line.get_linestyle() == ":"]
        for ax in figures.transfer(rows).axes
    }
    assert drawn == {"linear probe": [pytest.approx(0.4)], "neighbours": [pytest.approx(0.1)]}
    assert "10.0 ± 3.0 (random init, nearest neighbours)" in analysis.tables(rows)
    full = pd.concat([rows, rows[(rows.phase == "linear") & (rows.method == "dense")].assign(phase="full")])
    assert telling.nothing(full, telling.Protocol("full")).value.max() == pytest.approx(0.4)  # the linear probe's


def test_the_sentence_counts_what_is_resolved_where_a_set_tells_something():
    config = quick(Transfer, "datasets=[digits, glyph_symbols]", "few_shots=[]", "protocols=[linear]",
                   "transfer_methods=[ovit, magnitude]", "transfer_sources=[one_shot]")  # fmt: skip
    ablation = registry.get("transfer")
    worse = measured("digits", 0.9, 0.1, seeds=3, ovit=(0.8, 0.81, 0.8), magnitude=(0.5, 0.5, 0.51))
    silent = measured("glyph_symbols", 0.5, 0.49, seeds=3, ovit=0.5, magnitude=0.1)
    said = Results(ablation, config, table(worse + silent)).headline()
    assert "(digits, of 2 sets)" in said and "below `dense` in 1 of 1 comparisons (−9.7 points)" in said
    assert "above `magnitude` in 1 of 1 comparisons (+30.0 points)" in said and "not resolved" not in said
    near = measured("digits", 0.9, 0.1, seeds=3, ovit=(0.85, 0.9, 0.8), magnitude=(0.8, 0.85, 0.9))
    said = Results(ablation, config, table(near + silent)).headline()
    assert "not resolved from `magnitude` in any of 1" in said
    said = Results(ablation, config, table(silent)).headline()
    assert said.startswith("No set tells anything about transfer")


def test_what_was_not_run_is_listed():
    said = analysis.not_run(quick(Transfer, "protocols=[linear]", "few_shots=[]", "transfer_sources=[one_shot]"))
    for words in ("nearest neighbours", "full finetuning", "a few images a class", "models recovered", "`obert`"):
        assert words in said
    more = "transfer_methods=[ovit, ovit_mask_only, ovit_no_update, magnitude]"
    said = analysis.not_run(quick(Transfer, "transfer_sparsities=[0.9, 0.95]", more))
    for words in (
        "recovered models at 95 %",
        "full finetuning on glyph_symbols",
        "full finetuning of `ovit_no_update`",
    ):
        assert words in said


def test_at_a_glance_the_same_models_stand_upstream_and_downstream():
    lines = measured("folder:a", 0.8, 0.6, ovit=0.7, magnitude=0.5) + measured("b", 0.8, 0.79, ovit=0.7, magnitude=0.6)
    lines += [row | dict(sparsity_target=0.5, value=row["value"] + 0.05) for row in lines if row.get("sparsity_target")]
    up = upstream(dense=0.9, ovit=(0.8, 0.82), magnitude=0.3)
    up += [row | dict(sparsity_target=0.5, value=0.88) for row in up if row.get("sparsity_target")]
    again = [row for row in recovered(lines) if row.get("sparsity_target") != 0.5]
    again += [row | dict(phase="recovered") for row in up if row.get("sparsity_target") != 0.5]
    again = [row | dict(value=row["value"] + 0.1 * (row["method"] != "magnitude")) for row in again]
    fig = figures.FIGURES["glance"].make(table([*lines, *up]))
    assert [ax.get_title() for ax in fig.axes] == ["upstream", "a", "b"]
    curves = [{bars.get_label(): bars.lines[0].get_ydata().tolist() for bars in ax.containers} for ax in fig.axes]
    assert curves[0]["ovit"] == pytest.approx([-0.02, -0.09]) and curves[1]["magnitude"] == pytest.approx([-0.25, -0.3])
    assert len({ax.get_ylim() for ax in fig.axes}) == 1  # what is lost upstream is seen beside what is lost downstream
    assert [ax.get_xlabel() for ax in fig.axes] == ["sparsity, % (log axis)"] * 2 + [
        "sparsity, % (log axis)\ntells nothing"
    ]
    assert "upstream at 90 % as pruned (2 seeds): ovit −9.0 ± " in fig.get_label()
    assert "a at 90 % as pruned (2 seeds): ovit −10.0" in fig.get_label()
    assert curves[0].keys() == {"ovit", "magnitude"}  # no other was measured
    (floor,) = [line for line in fig.axes[1].lines if line.get_linestyle() == ":"]
    assert floor.get_ydata()[0] == pytest.approx(0.6 - 0.8)  # on the axis of what is lost
    bars = next(bars for bars in fig.axes[0].containers if bars.get_label() == "ovit")
    low, high = bars[2][0].get_segments()[1][:, 1]
    assert high - low > 0.01  # oViT's interval at 90 %, from 0.80 and 0.82
    assert " b at 90 %" not in fig.get_label()
    assert {bars.lines[0].get_color() for bars in fig.axes[2].containers} == {figures.GREY}
    # Models that were trained on stand beside them, hollow, less a dense model trained on as long.
    both = figures.FIGURES["glance"].make(table([*lines, *up, *again]))
    for ax, magnitude in zip(both.axes, (-0.7, -0.4)):
        marks = [bars.lines[0] for bars in ax.containers if bars.lines[0].get_markerfacecolor() == "white"]
        assert marks[-1].get_ydata().tolist() == pytest.approx([magnitude])
        assert [label.get_text() for label in ax.get_xticklabels()] == ["50", "90", "90\ntrained"]
    # What is missing on one set takes nothing from the others.
    on_b = lambda row: row["dataset"] == "b" and row.get("metric") != HELD_OUT
    for missing, titles in (
        (lambda row: on_b(row) and row["sparsity_target"], ["upstream", "a"]),  # dense alone was measured
        (lambda row: on_b(row) and row["method"] == "dense", ["upstream", "a"]),
        (lambda row: on_b(row) and row["source_phase"] == "recovered", ["upstream", "a", "b"]),
        (lambda row: on_b(row) and row["sparsity_target"] == 0.5, ["upstream", "a", "b"]),
    ):
        usual = dict(sparsity_target=0, source_phase="one_shot")
        left = [row for row in (*lines, *up, *again) if not missing(usual | row)]
        fig = figures.FIGURES["glance"].make(table(left))
        assert [ax.get_title() for ax in fig.axes] == titles
        assert [label.get_text() for label in fig.axes[0].get_xticklabels()] == ["50", "90", "90\ntrained"]
    one = [row for row in (*lines, *up) if row.get("sparsity_target") != 0.5]
    assert figures.FIGURES["glance"].make(table(one)) is None


@pytest.mark.parametrize("protocols", [["linear"], ["linear", "knn"]])
def test_the_legend_of_a_narrow_figure_is_whole(protocols):
    """Three kinds of models and the floor are wider than a column."""
    rows = []
    for protocol in protocols:
        lines = four_sets(last=0.79)
        pruned = [row for row in lines if row.get("sparsity_target")]
        lines += recovered(lines) + [row | dict(sparsity_target=0.7) for row in pruned]
        rows += [row | dict(phase=protocol) for row in lines]
    chosen = [dict(phase="lambda_search", method="ovit", metric=VALIDATION, sparsity_target=0.7, seed=0, value=0.5)]
    with plots.style(**plots.PAPER):
        for make in (figures.transfer, figures.errors):
            fig = make(table([*chosen, *rows]))
            fig.draw_without_rendering()
            box = fig.legends[0].get_window_extent().transformed(fig.dpi_scale_trans.inverted())
            assert len(fig.legends[0].texts) >= 3 and box.x0 >= -0.01 and box.x1 <= fig.get_figwidth() + 0.01
