"""What to take: validation decides, test accuracy stands beside it; synthetic rows whose answer is known."""

import pandas as pd
from conftest import quick

from ovit_core.ablations.no_weight_update import ABLATION
from ovit_core.ablations.no_weight_update.parameters import NoWeightUpdate
from ovit_core.methods import METHODS
from ovit_core.study.ablation import Results
from ovit_core.study.tasks import COLUMNS

SETTINGS = dict(block_size=64.0, gradients=256.0, gradient_batch=16.0, passes=1.0)


def row(method, seed, value, phase="one_shot", metric="top1", sparsity=0.9, **more):
    usual = dict(
        experiment="no_weight_update", profile="quick", dataset="glyph_letters", upstream="glyph_letters", scope="all",
        allocation="global", pattern="unstructured", damp_rule="own", damp=float("nan"), lr=float("nan"), recomputations=0.0,
        epochs=float("nan"), source_phase="", shots=float("nan"), scope_name="",
    )  # fmt: skip
    known = dict(zip(("score", "update"), METHODS[method][:2])) if method in METHODS else {}
    columns = dict(method=method, seed=seed, value=value, phase=phase, metric=metric, sparsity_target=sparsity)
    return dict.fromkeys(COLUMNS, "") | usual | SETTINGS | known | columns | more


def both(method, damp, validation, test, searched=True, **more):
    """A method on validation at its lambda and on test, two seeds that differ a little."""
    out = [row(method, s, test + 0.01 * s, damp=damp, **more) for s in (0, 1)]
    tried = dict(phase="lambda_search", metric="validation_top1", damp=damp)
    little = 1e-6 * sum(map(ord, method))
    return out + [row(method, s, validation + little * s, **tried | more) for s in (0, 1) if searched]


def results(rows, *settings):
    config = quick(NoWeightUpdate, "gradients=256", "gradient_batch=16", "block_size=64", *settings)
    return Results.of(ABLATION, config, pd.DataFrame(rows), [None] * len(rows))


def lines(said, about="**Which method.**"):
    """The table below one of the headings, a dict a line."""
    head, _, *found = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in said[said.index(about) :].split("\n\n**")[0].splitlines() if line.startswith("|")
    ]  # fmt: skip
    return [dict(zip(head, cells)) for cells in found]


NONE = float("nan")


def test_validation_decides_and_test_accuracy_stands_beside_it():
    rows = both("ovit", 1e-7, 0.80, 0.9) + both("obert_joint", 1e-5, 0.85, 0.7) + both("diag_fisher", 1e-5, 0.5, 0.6)
    rows += both("magnitude", NONE, 0, 0.4, searched=False)
    (line,) = lines(results(rows).guide())
    assert (line["pruned"], line["best"], line["λ"], line["seeds"]) == ("90 %", "`obert_joint`", "1e-5", "2")
    assert line["top-1, %"].startswith("70.5 ±") and line["validation cannot tell"] == ""
    assert line["next best"].startswith("`ovit` +20.0")  # by validation, whatever test says
    assert line["diagonal, Wanda"].startswith("`diag_fisher` −10.0") and line["magnitude"].startswith(
        "`magnitude` −30.0"
    )


def test_what_validation_does_not_tell_from_the_best_stands_beside_it():
    rows = both("ovit", 1e-7, 0.80, 0.9) + both("obert", 1e-5, 0.7, 0.7)
    near = dict(phase="lambda_search", metric="validation_top1", damp=1e-6)
    rows += both("obert_joint", 1e-6, 0, 0.7, searched=False)
    rows += [row("obert_joint", s, value, **near) for s, value in ((0, 0.83), (1, 0.75))]
    (line,) = lines(results(rows).guide())
    assert line["best"] == "`ovit`" and line["validation cannot tell"].startswith("`obert_joint` −20.0")
    assert line["next best"].startswith("`obert` −20.0")  # what it can tell, and no other column has
    rows += both("diag_fisher", 1e-5, 0.75, 0.5) + both("obert_mask_only", 1e-5, 0.6, 0.4)
    (line,) = lines(results(rows).guide())
    assert line["next best"].startswith("`obert` −20.0") and line["diagonal, Wanda"].startswith("`diag_fisher` −40.0")


def test_what_was_measured_does_not_choose():
    """A seed whose measurement failed takes no method out of the choice; a lambda that one seed tried does."""
    rows = both("ovit", 1e-7, 0.80, 0.9) + both("obert", 1e-5, 0.7, 0.7)
    (line,) = lines(
        results([r for r in rows if (r["method"], r["seed"], r["phase"]) != ("ovit", 1, "one_shot")]).guide()
    )
    assert line["best"] == "`ovit`" and line["seeds"] == "1" and line["top-1, %"] == "90.0"
    rows += [row("obert", s, 0.99, "lambda_search", "validation_top1", damp=1e-5, block_size=16.0) for s in (0, 1)]
    half = both("obert_joint", 1e-5, 0.95, 0.7)[:-1]
    (line,) = lines(results(rows + half).guide())
    assert line["best"] == "`ovit`"


def test_at_another_sparsity_methods_are_judged_at_the_lambda_that_is_theirs():
    rows = both("ovit", 1e-7, 0.80, 0.9) + both("obert", 1e-5, 0.7, 0.7)
    for method, damp, value in (("ovit", 1e-7, 0.5), ("ovit", 1e-3, 0.9), ("obert", 1e-5, 0.6), ("obert", 1e-3, 0.1)):
        tried = dict(phase="lambda_search", metric="validation_top1", damp=damp, sparsity=0.95)
        rows += [row(method, s, value, **tried) for s in (0, 1)]
    rows += [row(m, s, 0.4, damp=d, sparsity=0.95) for m, d in (("ovit", 1e-7), ("obert", 1e-5)) for s in (0, 1)]
    found = {line["pruned"]: line["best"] for line in lines(results(rows).guide())}
    assert found == {"90 %": "`ovit`", "95 %": "`obert`"}


def test_patterns_and_training_have_lines_of_their_own():
    at = dict(allocation="uniform", pattern="2:4", sparsity=0.5)
    rows = both("ovit", 1e-7, 0.80, 0.9) + both("obc", 0.1, 0.9, 0.8, **at) + both("wanda", NONE, 0, 0.7, False, **at)
    for method, value in (("ovit", 0.9), ("magnitude", 0.91)):
        for seed in (0, 1):
            rows.append(row(method, seed, value, "recovery_search", "validation_top1", lr=1e-3, epochs=2.0))
            rows += [row(method, seed, value, "recovered", lr=1e-3, epochs=e) for e in (2.0, 5.0)]
    found = lines(results(rows, "recovery_images=1000", "recovery_search_epochs=2").guide())
    assert [(line["pruned"], line["training"], line["best"]) for line in found] == [
        ("90 %", "none", "`ovit`"), ("2:4", "none", "`obc`"), ("90 %", "2,000 images", "`magnitude`"),
    ]  # fmt: skip
    assert (
        found[1]["diagonal, Wanda"].startswith("`wanda` −10.0")
        and found[1]["λ"] == "1e-1"
        and found[2]["magnitude"] == ""
    )


def test_beside_the_best_at_one_length_stand_the_leads_after_the_longest_and_the_method_of_whole_rows():
    """What is ahead where rates were chosen need not be so later, nor the best under one threshold without it."""
    rows = both("ovit", 1e-7, 0.8, 0.5) + both("magnitude", NONE, 0, 0.4, searched=False)
    rows += [row("obc", s, 0.6 + 0.012 * s, allocation="uniform", damp=1e-4) for s in (0, 1)]
    rows += [
        row(method, s, value - 0.001 * s, phase="recovered", epochs=epochs)
        for epochs, ovit in ((1.0, 0.75), (10.0, 0.7)) for method, value in (("ovit", ovit), ("magnitude", 0.69))
        for s in (0, 1)
    ]  # fmt: skip
    settings = "recovery_epochs=[1, 10]", "recovery_search_epochs=1", "recovery_images=100"
    said = results(rows, *settings).guide()
    assert "in points more than `ovit` (B = 64, one threshold): +10.1 ± 1.3 at 90 %." in said
    assert (
        "Rates were chosen at 100 images. After 1,000 `ovit` has on test, in points more: at 90 % +1.0 than `magnitude`."
        in said
    )
    assert "+6.0" not in said
    (evenly,) = [part for part in said.split("\n\n") if "need not follow" in part]
    assert evenly not in results([one for one in rows if one["method"] != "obc"], *settings).guide()
    same = results(rows, "recovery_epochs=[1, 10]", "recovery_search_epochs=10").guide()
    assert "Rates were chosen at" not in same


def test_settings_of_the_curvature_stand_with_their_own_lambda():
    rows = both("ovit", 1e-7, 0.80, 0.9) + both("ovit_mask_only", 1e-5, 0.80, 0.9)
    point = dict(experiment="sensitivity", scope_name="block_size", block_size=16.0)
    for method in ("ovit", "ovit_mask_only"):
        rows += [row(method, s, 0.6 + 0.01 * s, damp=2.5e-6, **point) for s in (0, 1)]
        tried = dict(phase="lambda_search", metric="validation_top1", block_size=16.0)
        rows += [row(method, s, 0.55, damp=2.5e-6, **tried) for s in (0, 1)]
    asked = "sensitivity_block_sizes=[16]", "sensitivity_sparsity=0.9"
    found = lines(results(rows, *asked).guide(), "**Which block")
    assert [(line["value"], line["λ"], line["validation"]) for line in found] == [
        ("16", "2.5e-6", "55.0"),
        ("64", "1e-7", "80.0"),
    ]
    assert found[0]["test"].startswith("60.5 ±") and found[1]["test"].startswith("90.5 ±")
    assert found[0]["less own"].startswith("−30.0") and found[1]["less own"] == "" and "less `obc`" not in found[0]
    rows += [row("obc", s, 0.8 + 0.01 * s, allocation="uniform") for s in (0, 1, 2)]  # of the seeds that both have
    rows += [row("obc", s, 0.3, allocation="uniform", pattern="1:10") for s in (0, 1, 2)]  # another 90 %
    found = lines(results(rows, *asked).guide(), "**Which block")
    assert found[0]["less `obc`"].startswith("−20.0") and found[1]["less `obc`"].startswith("+10.0")


def test_steps_and_one_step_are_compared_at_as_many_images():
    rows = both("ovit", 1e-7, 0.80, 0.9)
    asked = ("gradual_steps=[0.5, 0.9]", "gradual_epochs=1", "recovery_images=1000")
    for seed in (0, 1):
        rows += [row("ovit", seed, 0.7 + 0.1 * seed, "gradual"), row("ovit", seed, 0.1, "recovered", epochs=1.0)]
        rows += [row("ovit", seed, 0.8 + 0.1 * seed, "recovered", epochs=3.0), row("obert", seed, 0.9, "gradual")]
    said = results(rows, *asked).guide()
    assert said.split("\n")[-1].endswith("gradual pruning (3,000), on test, in points more: `ovit` +10.0.")


def test_what_is_free_is_so_at_every_lower_sparsity_too_with_the_whole_interval():
    rows = both("ovit", 1e-7, 0.80, 0.9) + [row("dense", s, 0.8, sparsity=0.0) for s in range(4)]
    less = {0.5: 0.001, 0.6: 0.1, 0.7: 0.001}
    rows += [row("magnitude", s, 0.8 - v + s / 10_000, sparsity=at) for at, v in less.items() for s in range(4)]
    rows += [row("diag_fisher", s, 0.8 + (s - 1.5) / 50, damp=1e-5, sparsity=0.5) for s in range(4)]  # too wide
    rows += [
        row("obc", s, 0.8 + s / 10_000, damp=0.1, sparsity=0.5, allocation="uniform", pattern="2:4") for s in range(4)
    ]
    for method, value, moves in (
        ("obc", 0.795, 1e-4),
        ("obc_sequential", 0.7899, 2e-4),
    ):  # the second too far from dense
        at = dict(damp=0.1, sparsity=0.5, allocation="uniform", pattern="4:8")
        rows += [row(method, s, value + s * moves, **at) for s in range(4)]
    said = results(rows).guide().split("\n\n**")[0].splitlines()
    assert said[0].startswith("**What is nearly free.** Pruned in one shot, at most 1 point is lost")
    assert said[2:] == [
        "- one threshold for the model: to 50 % `magnitude`.", "- 2:4: `obc`.",
        "- 4:8: `obc` (no different from one of them: `obc_sequential`).",
    ]  # fmt: skip


def test_without_searches_nothing_is_said():
    assert results([row("magnitude", s, 0.5 + s / 10) for s in (0, 1)]).guide() == ""
