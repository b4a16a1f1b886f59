"""What there is to measure: every row is known by all it depends on, a list that grows adds rows, one lambda for all seeds."""

import pytest
from conftest import TINY as MODEL
from conftest import quick

from ovit_core import training
from ovit_core.ablations.no_weight_update.parameters import NoWeightUpdate
from ovit_core.ablations.transfer.parameters import Transfer
from ovit_core.methods import METHODS, Method
from ovit_core.study import dense, grid, identity, provenance, registry, unit
from ovit_core.study.lambdas import Regime, chosen, near, place
from ovit_core.study.tasks import HELD_OUT, KEY, VALIDATION, Found, World, best_of
from ovit_core.study.tasks import task as listed_task

SETTINGS = [
    "profile=tiny", "upstream=digits", "epochs=2", f"model_args={MODEL}", "seeds=[0]", "gradients=8", "batch_size=32",
    "methods=[ovit, magnitude]", "sparsities=[0.9]", "regimes=[global]", "damp_checks=[]", "recovery_methods=[ovit]",
    "recovery_images=100", "recovery_epochs=[1]", "recovery_search_epochs=1", "gradual_methods=[ovit]",
    "gradual_lrs=[1.0e-3, 2.0e-3]", "sensitivity_block_sizes=[12]", "sensitivity_damps=[]", "damps=[1.0e-5]",
    "compute_passes=[2]", "datasets=[digits]", "transfer_methods=[ovit]", "transfer_sparsities=[0.9]",
    "source_epochs=1", "few_shots=[5]", "probe_Cs=[0.1]", "full_methods=[ovit]", "full_sources=[recovered]",
    "full_steps=4", "scratch_steps=4", "full_lrs=[1.0e-3, 3.0e-3]", "finetune_seeds=[0]", "workers=1",
]  # fmt: skip
# Another value of everything that a measurement may read.
OTHER = dict(
    prunable="mlp", weight_decay=0.2, batch_size=48, augment=["flip"], gradients=10, gradient_batch=8, block_size=24,
    recovery_images=130, recovery_search_epochs=2, gradual_steps=[0.5, 0.9], gradual_epochs=2, gradual_final_lr=1e-4,
    full_steps=6, scratch_steps=6, full_batch_size=16, threads=2, model_args=MODEL | dict(depth=1), upstream="glyph_letters",
    model="vit_small_patch16_224", damp_sparsity=0.8, search_images=50, source_epochs=2, lr=1e-3, epochs=4,
    amp_dtype="bfloat16",
)  # fmt: skip
# What changes no number, and what lists values of a column.
FREE = {
    "profile",
    "data_dir",
    "device",
    "engine",
    "workers",
    "seeds",
    "damps",
    "input_damps",
    "recovery_lrs",
    "gradual_lrs",
    "finetune_seeds",
    "probe_Cs",
    "full_lrs",
    "dense_per_seed",
}
# Of the dense model, which is known by its weights.
GIVEN = {"pretrained", "checkpoint", "masks_from_zeros", "mixup", "cutmix", "mixup_prob", "smoothing"}


@pytest.mark.parametrize("kind", [ablation.parameters for ablation in registry.ablations().values()])
def test_a_row_is_known_by_every_parameter_that_its_measurement_reads(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    read = set()

    class Watched(kind):
        def __getattribute__(self, name):
            if name in kind.model_fields:
                read.add(name)
            return super().__getattribute__(name)

    config, ablation = quick(Watched, *SETTINGS), registry.get(kind.experiment)
    seed = ablation.seed(config, 0)
    world = World({"digits": seed.upstream.data.fingerprint, "glyph_letters": ""}, {0: seed.upstream.identity})
    values, rows, checked = config.values(), [], 0
    listed = lambda of, stage: {identity_key(t): t.columns["run_id"] for t in stage(of, 0, world, rows)}
    for stage in ablation.stages:
        varied = {
            name: listed(config.replace(**{name: value}), stage) for name, value in OTHER.items() if name in values
        }
        for task in stage(config, 0, world, rows):
            seed.surgeon(task)  # which also reads lists, to refuse less than a sparse model has
            read.clear()
            rows += [one.row for one in seed.measure(task)]
            depends = {
                name for name, tasks in varied.items() if tasks.get(identity_key(task)) != task.columns["run_id"]
            }
            assert read <= depends | FREE | GIVEN | set(KEY), (str(task), read - depends - FREE - GIVEN - set(KEY))
            checked += 1
    assert checked >= 9


TRAINED = {
    NoWeightUpdate: {"dense model", "recovery_search", "recovered", "gradual_search", "gradual"},
    Transfer: {"dense model", "recovered", "full"},
}


@pytest.mark.parametrize("kind", TRAINED)
def test_all_that_is_trained_is_trained_in_the_precision_that_is_asked_for(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    seen, train = {}, training.train

    def noted(*args, **how):
        seen[how["desc"]] = how.get("amp_dtype")
        return train(*args, **how)

    monkeypatch.setattr(training, "train", noted)
    more = ["amp_dtype=bfloat16", "recovery_lrs=[1.0e-3, 2.0e-3]"]
    config, ablation, rows = quick(kind, *SETTINGS, *more), registry.get(kind.experiment), []
    seed = ablation.seed(config, 0)
    world = World({"digits": seed.upstream.data.fingerprint}, {0: seed.upstream.identity})
    for stage in ablation.stages:
        rows += [one.row for task in stage(config, 0, world, rows) for one in seed.measure(task)]
    assert {*seen.values()} == {"bfloat16"}
    assert all(any(what in said for said in seen) for what in TRAINED[kind]), [*seen]


def test_a_method_that_is_added_leaves_all_others_measured(monkeypatch):
    """The published rows of photographs are days of work; a row more of the table changes none of their numbers."""
    (path,) = provenance._files("ovit_core.methods")
    text = provenance._TEXTS[path]
    config, world = quick(NoWeightUpdate, *SETTINGS), World({"digits": ""}, {0: ""})
    monkeypatch.setitem(METHODS, "mine", Method("diagonal", "independent", "mine"))

    def known(method, text):
        monkeypatch.setitem(provenance._TEXTS, path, text)
        provenance.code.cache_clear()
        provenance.added.cache_clear()
        return listed_task(config, 0, world, "one_shot", ["top1"], phase="one_shot", method=method).columns["run_id"]

    try:
        more = text + 'METHODS |= {"mine": Method("diagonal", "independent", "mine")}\n'
        before, mine = known("ovit", text), known("mine", more)
        assert known("ovit", more) == before and provenance.added().keys() == {"mine"}
        code = provenance.code("ovit_core.methods")
        assert (
            known("mine", text + 'METHODS |= {"mine": Method("diagonal", "independent", "mine", "inputs")}\n') != mine
        )
        assert provenance.code("ovit_core.methods") == code  # it is the row that tells them apart
        guard = provenance.guard("ovit_core.methods")  # of workers, whose table may be another
        assert known("ovit", more) == before and provenance.guard("ovit_core.methods") != guard
        for other in ('METHODS |= dict(mine=Method("diagonal", "independent", "mine"))', "if 1:\n    METHODS |= {}"):
            assert known("ovit", f"{text}{other}\n") != before  # code like all else
        inside = text.replace("METHODS = {", 'METHODS = {"mine": Method("diagonal", "independent", "mine"), ')
        assert known("ovit", inside) != before
    finally:
        monkeypatch.undo()
        provenance.code.cache_clear()
        provenance.added.cache_clear()


def identity_key(task):
    """A task but for its run."""
    return task.kind, *((k, v) for k, v in task.columns.items() if k != "run_id")


def test_another_list_adds_rows_and_overwrites_none(tmp_path, monkeypatch):
    """Of C, of datasets, of seeds; the C that is best on validation is the one whose test rows count."""
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    ablation = registry.get("transfer")

    def rows(*more):
        return grid.run(ablation, quick(Transfer, *SETTINGS, "protocols=[linear]", *more)).rows

    few = rows("probe_Cs=[1.0e-6]")
    more = rows("probe_Cs=[1.0e-6, 1.0]")
    linear = more[(more.phase == "linear") & (more.method == "ovit")]
    assert set(linear[linear.metric == VALIDATION].C) == {1e-6, 1.0}
    assert set(linear[linear.metric == "top1"].C) == {1.0}  # the other one can hardly be best
    again = rows("probe_Cs=[1.0e-6]")
    assert again.equals(few)  # seconds too: nothing was measured
    searched = set(few[few.phase == "lambda_search"].seconds)
    assert searched == set(rows("datasets=[digits, glyph_symbols]").query("phase == 'lambda_search'").seconds)


def test_ablation_b_takes_the_searches_and_the_one_shot_rows_of_ablation_a(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    a = grid.run(registry.get("no_weight_update"), quick(NoWeightUpdate, *SETTINGS)).rows
    b = grid.run(registry.get("transfer"), quick(Transfer, *SETTINGS)).rows
    for phase in ("lambda_search", "one_shot"):
        mine, its = (
            rows[(rows.phase == phase) & (rows.scope == "all") & (rows.experiment != "sensitivity")] for rows in (b, a)
        )
        assert len(mine) and set(mine.seconds) <= set(its.seconds) and set(mine.run_id) <= set(its.run_id)
    assert set(b.experiment) == {"transfer"} and set(a.experiment) == {"no_weight_update", "sensitivity"}


def test_two_threads_are_other_rows_of_another_dense_model():
    config, world = quick(NoWeightUpdate, *SETTINGS), World({"digits": "x"}, {0: "y"})
    two = config.replace(threads=2)
    stage = registry.get("no_weight_update").stages[0]
    one, other = (
        Found([dict(t.columns) | dict(metric=VALIDATION, value=1.0) for t in stage(c, 0, world, [])])
        for c in (config, two)
    )
    assert all(one.of(t) and not other.of(t) for t in stage(config, 0, world, []))
    assert identity.dense_path(config, 0, "x") != identity.dense_path(two, 0, "x")


def search(*values):
    """Rows of a search: (lambda, seed, validation accuracy)."""
    common = place(quick(NoWeightUpdate), "ovit")
    return [common | dict(damp=damp, seed=seed, value=value) for damp, seed, value in values]


def test_one_lambda_for_all_seeds_the_best_in_their_mean():
    config = quick(NoWeightUpdate, "damps=[1.0e-8, 1.0e-7, 1.0e-6]")
    rows = search((1e-8, 0, 0.90), (1e-8, 1, 0.70), (1e-7, 0, 0.80), (1e-7, 1, 0.85), (1e-6, 0, 0.1), (1e-6, 1, 0.1))
    assert chosen(config, rows, "ovit") == dict(damp=1e-7, damp_rule="own")
    assert chosen(config, rows, "ovit_mask_only", rule="shared") == dict(damp=1e-7, damp_rule="shared")
    assert chosen(config, rows, "ovit_mask_only") == dict(damp="", damp_rule="own")  # its own is not oViT's
    assert chosen(config, rows, "magnitude") == dict(damp="", damp_rule="")
    assert chosen(config, rows, "obert") == dict(damp="", damp_rule="own")  # nothing was searched
    assert chosen(config.replace(block_size=32), rows, "ovit")["damp"] == ""  # of other blocks
    assert chosen(config, rows, "ovit", Regime("uniform"))["damp"] == ""  # of another regime
    assert chosen(config, rows, "ovit", passes=2)["damp"] == "" and near(config, rows, "ovit") == (1e-8, 1e-7, 1e-6)


def test_where_a_search_is_flat_several_passes_try_around_its_largest_lambda():
    config = quick(NoWeightUpdate, "damps=[1.0e-8, 1.0e-7, 1.0e-6, 1.0e-5]")
    rows = search((1e-8, 0, 0.851), (1e-7, 0, 0.85), (1e-6, 0, 0.847), (1e-5, 0, 0.8))
    assert chosen(config, rows, "ovit")["damp"] == 1e-8 and near(config, rows, "ovit") == (1e-7, 1e-6, 1e-5)


def test_every_lambda_that_is_taken_is_searched():
    """oViT's for the others too, where it is none of the methods; at points of a sweep that would be no study."""
    world = World({"glyph_letters": "x"}, {0: "y"})
    settings = ["methods=[magnitude, obert]", "recovery_methods=[]", "gradual_methods=[]", "compute_passes=[8]"]
    settings += ["sensitivity_gradients=[100]", "sensitivity_block_sizes=[2]", "regimes=[global, 2:4]"]
    config, found = quick(NoWeightUpdate, *settings), []
    for stage in registry.get("no_weight_update").stages:
        tasks = stage(config, 0, world, found)
        assert all(task.columns["damp"] != "" or task.columns["damp_rule"] == "" for task in tasks), stage
        found += [dict(task.columns) | dict(value=0.5) for task in tasks]
    assert {task.columns["damp_rule"] for task in tasks if task.columns["method"] == "obert"} == {"own", "shared"}


def test_blocks_of_another_size_are_asked_for_with_the_update_alone_at_a_lambda_of_its_own():
    world, found = World({"glyph_letters": "x"}, {0: "y"}), []
    settings = ["sensitivity_gradients=[100]", "sensitivity_block_sizes=[2]"]
    for methods, wanted in (("[ovit, magnitude_joint]", {"own"}), ("[ovit]", set())):
        config = quick(NoWeightUpdate, *settings, f"methods={methods}", "recovery_methods=[]", "gradual_methods=[]")
        found = []
        for stage in registry.get("no_weight_update").stages:
            tasks = stage(config, 0, world, found)
            found += [dict(task.columns) | dict(value=0.5) for task in tasks]
        swept = [t.columns for t in tasks if t.columns["experiment"] == "sensitivity"]
        alone = [c for c in swept if c["method"] == "magnitude_joint"]
        assert {c["damp_rule"] for c in alone} == wanted and {c["scope_name"] for c in alone} <= {"block_size"}
        searched = [r for r in found if r["phase"] == "lambda_search" and r["block_size"] == 2]
        assert any(r["method"] == "magnitude_joint" for r in searched) == bool(wanted)


def test_equal_values_go_to_the_larger_or_the_smaller():
    rows = search((1e-8, 0, 0.1 + 0.2), (1e-7, 0, 0.3), (1e-6, 0, 0.3 - 1e-4))
    best = lambda rows, larger, values=(1e-8, 1e-7, 1e-6): best_of(rows, "damp", values, larger)
    assert best(rows, larger=True) == 1e-7 and best(rows, larger=False) == 1e-8
    assert best([], larger=True) is None


def test_nothing_is_chosen_from_a_part_of_a_search():
    rows = search((1e-8, 0, 0.9), (1e-7, 0, 0.5), (1e-8, 1, 0.9), (1e-7, 1, 0.5))
    assert best_of(rows, "damp", (1e-8, 1e-7), larger=True) == 1e-8
    assert best_of(rows, "damp", (1e-8, 1e-7, 1e-6), larger=True) is None  # one was never tried
    assert best_of(rows[:-1], "damp", (1e-8, 1e-7), larger=True) is None  # by one seed it was not
    config = quick(NoWeightUpdate, "damps=[1.0e-8, 1.0e-7, 1.0e-6]")
    assert chosen(config, rows, "ovit")["damp"] == ""


def test_a_task_is_done_when_all_its_rows_are_there(tmp_path, monkeypatch):
    ablation, config = registry.get("transfer"), quick(Transfer, *SETTINGS, "probe_Cs=[0.1, 1.0]")
    world = World({"digits": "x"}, {0: "y"})
    task = next(t for t in ablation.stages[-1](config, 0, world, []) if t.columns["phase"] == "linear")
    row = lambda metric, C, value, **more: dict(task.columns) | dict(metric=metric, C=C, value=value) | more
    rows = [row(VALIDATION, 0.1, 0.5), row(HELD_OUT, 0.1, 0.5), row("top1", 0.1, 0.6)]
    rows.append(row("top1", 0.1, 1.0, scope="class", scope_name="3"))  # more than the task asks for
    assert Found(rows).of(task) == []  # the other C was not tried
    assert len(Found([*rows, row(VALIDATION, 1.0, 0.4)]).of(task)) == 4
    assert Found([*rows, row(VALIDATION, 1.0, 0.6)]).of(task) == []  # it is better, and was not tested
    assert Found([*rows[:1], *rows[2:], row(VALIDATION, 1.0, 0.4)]).of(task) == []  # not on validation


def test_a_machine_without_the_dense_model_asks_for_it(tmp_path, monkeypatch):
    """As on a cluster without a common disk."""
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path / "driver"))
    config = quick(NoWeightUpdate, *SETTINGS)
    up = dense.upstream(config, 0)
    world = World({"digits": up.data.fingerprint}, {0: up.identity})
    task = registry.get("no_weight_update").stages[0](config, 0, world, [])[0]
    weights = identity.dense_path(config, 0, up.data.fingerprint).read_bytes()
    given = unit.Given("no_weight_update", config.model_dump())
    here = unit.one(given, 0, task, world)
    unit._seeds.clear()
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path / "elsewhere"))
    assert unit.one(given, 0, task, world) == (None, ())
    there = unit.one(given, 0, task, world, weights)
    assert there.failures == () and [m.row["value"] for m in there.value] == [m.row["value"] for m in here.value]
    unit._seeds.clear()
    other = World({"digits": "other images"}, world.dense)
    ((_, reason),) = unit.one(given, 0, task, other, weights).failures
    assert "digits has changed since the study began, or is another one" in reason


def test_code_that_changed_under_way_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    config = quick(NoWeightUpdate, *SETTINGS)
    task = registry.get("no_weight_update").stages[0](config, 0, World({"digits": ""}, {0: ""}), [])[0]
    monkeypatch.setattr(unit.provenance, "code", lambda *modules: "another")
    ((_, reason),) = unit.one(unit.Given("no_weight_update", config.model_dump()), 0, task, World()).failures
    assert "is not that which listed the tasks: start anew" in reason


@pytest.mark.parametrize("parts", [1, 2, 3, 100])
def test_parts_of_a_seed_are_all_of_it_and_leave_factorizations_whole(parts):
    config, world = quick(NoWeightUpdate), World({"glyph_letters": "x"}, {0: "y"})
    tasks = registry.get("no_weight_update").stages[1](config, 0, world, [])
    found = unit.split(tasks, parts)
    assert len(found) <= parts and sorted(map(str, sum(found, []))) == sorted(map(str, tasks))
    places = [{unit.order(task) for task in part} for part in found]
    assert sum(map(len, places)) == len(set().union(*places))  # no group in two parts
    assert max(map(len, found)) <= len(tasks) / parts + max(
        len([t for t in tasks if unit.order(t) == g]) for g in set().union(*places)
    )
