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
    """A method on validation at its lambda and on test, two seeds."""
    out = [row(method, s, test + 0.01 * s, damp=damp, **more) for s in (0, 1)]
    tried = dict(phase="lambda_search", metric="validation_top1", damp=damp)
    return out + [row(method, s, validation, **tried | more) for s in (0, 1) if searched]


def results(rows, *settings):
    config = quick(NoWeightUpdate, "gradients=256", "gradient_batch=16", "block_size=64", *settings)
    return Results.of(ABLATION, config, pd.DataFrame(rows), [None] * len(rows))


def lines(said):
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines() if line.startswith("| ")
    ]


def test_validation_decides_and_test_accuracy_stands_beside_it():
    rows = both("ovit", 1e-7, 0.80, 0.9) + both("obert_joint", 1e-5, 0.85, 0.7) + both("diag_fisher", 1e-5, 0.5, 0.6)
    rows += both("magnitude", float("nan"), 0, 0.4, searched=False)
    rows += [
        row("ovit", s, 0.99, "lambda_search", "validation_top1", damp=1e-3) for s in (0, 1)
    ]  # not what was measured
    _, line = lines(results(rows).guide())
    assert line[:4] == ["one shot", "90 %", "`obert_joint`", "1e-5"] and line[4].startswith("70.5 ±")
    assert line[5].startswith("`ovit` +20.0") and line[6].startswith("`diag_fisher` −10.0")
    assert line[7].startswith("`magnitude` −30.0")


def test_points_of_a_sweep_and_lambdas_that_one_seed_tried_do_not_decide():
    rows = both("ovit", 1e-7, 0.80, 0.9) + both("obert", 1e-5, 0.7, 0.7)
    rows += [row("obert", s, 0.99, "lambda_search", "validation_top1", damp=1e-5, block_size=16.0) for s in (0, 1)]
    half = both("obert_joint", 1e-5, 0.95, 0.7)[:-1]
    _, line = lines(results(rows + half).guide())
    assert line[2] == "`ovit`"


def test_patterns_and_every_length_of_training_have_a_line():
    at = dict(allocation="uniform", pattern="2:4", sparsity=0.5)
    rows = (
        both("ovit", 1e-7, 0.80, 0.9)
        + both("obc", 0.1, 0.9, 0.8, **at)
        + both("wanda", float("nan"), 0, 0.7, False, **at)
    )
    for method, value in (("ovit", 0.9), ("magnitude", 0.91)):
        for seed in (0, 1):
            rows.append(row(method, seed, value, "recovery_search", "validation_top1", lr=1e-3, epochs=1.0))
            rows += [row(method, seed, value, "recovered", lr=1e-3, epochs=e) for e in (1.0, 5.0)]
    said = results(rows, "recovery_images=1000", "recovery_search_epochs=1").guide()
    _, *found = lines(said)
    assert [line[:3] for line in found] == [
        ["one shot", "90 %", "`ovit`"], ["one shot", "2:4", "`obc`"], ["one shot, then 1,000 images", "90 %", "`magnitude`"],
        ["one shot, then 5,000 images", "90 %", "`magnitude`"],
    ]  # fmt: skip
    assert found[1][6].startswith("`wanda` −10.0") and found[2][7] == "" and found[2][5].startswith("`ovit` −1.0")
    assert "trained models after 1,000 images" in said


def test_settings_of_the_curvature_stand_with_their_own_lambda():
    rows = both("ovit", 1e-7, 0.80, 0.9) + both("ovit_mask_only", 1e-5, 0.80, 0.9)
    point = dict(experiment="sensitivity", scope_name="block_size", block_size=16.0)
    for method in ("ovit", "ovit_mask_only"):
        rows += [row(method, s, 0.6 + 0.01 * s, damp=1e-6, **point) for s in (0, 1)]
        tried = dict(phase="lambda_search", metric="validation_top1", block_size=16.0)
        rows += [row(method, s, 0.55, damp=1e-6, **tried) for s in (0, 1)]
    said = results(rows, "sensitivity_block_sizes=[16]").guide().split("**Which block")[1]
    _, *found = lines(said)
    assert [line[:4] for line in found] == [
        ["block size B", "16", "1e-6", "55.0"],
        ["block size B", "64", "1e-7", "80.0"],
    ]
    assert found[0][4].startswith("60.5 ±") and found[1][4].startswith("90.5 ±")


def test_without_searches_nothing_is_said():
    assert results([row("magnitude", s, 0.5 + s / 10) for s in (0, 1)]).guide() == ""
