"""What a profile would take is said before it runs: at once, without torch, from rows or from a model of the cost."""

import csv
import json
import math
import os
import re
import subprocess
import sys
import time

import pytest
from conftest import TINY as MODEL
from conftest import quick

from ovit_core import models
from ovit_core.ablations.no_weight_update.parameters import NoWeightUpdate
from ovit_core.ablations.transfer.parameters import Transfer
from ovit_core.data import catalog, manifest
from ovit_core.study import cost, earlier, grid, machine, paths, plan, profiles, registry
from ovit_core.study.cost import Costs, Estimate
from ovit_core.study.store import Store
from ovit_core.study.tasks import World

SMALL = [
    "profile=tiny", "upstream=digits", "epochs=1", f"model_args={MODEL}", "seeds=[0, 1]", "gradients=8", "workers=1",
    "methods=[ovit]", "sparsities=[0.9]", "regimes=[global]", "recovery_methods=[]", "gradual_methods=[]",
    "sensitivity_damps=[]", "sensitivity_draws=[]", "damp_checks=[]", "damps=[1.0e-5]", "datasets=[digits]", "protocols=[linear]", "transfer_methods=[ovit]",
    "transfer_sparsities=[0.9]", "probe_Cs=[0.1]",
]  # fmt: skip


def asked(*more):
    values = profiles.read_profile("quick", [*SMALL, *more])
    return [(a, registry.build(a.parameters, values)) for a in registry.ablations().values()]


@pytest.mark.parametrize("profile", ["quick", "imagenet"])
def test_it_is_there_at_once_without_torch_and_without_data(tmp_path, profile):
    code = "import sys; from ovit_core.study.__main__ import main; assert main(sys.argv[1:]) == 0; print('torch' in sys.modules)"
    words = [sys.executable, "-c", code, "plan", profile, "--set", f"data_dir={tmp_path / 'nothing'}"]
    begin = time.monotonic()
    environment = os.environ | {"OVIT_STUDY_DIR": str(tmp_path / "home")}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=paths.ROOT)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begin < 5 and done.stdout.endswith("False\n")
    assert not (tmp_path / "home").exists()  # asking leaves nothing behind
    assert f"next: python -m ovit_core.study {profile}" in done.stdout
    lacking = re.findall(r"^missing: (\w+)", done.stdout, re.M)
    assert (lacking == ["nothing"]) if profile == "quick" else {"imagenet", "stanford_cars", "timm"} <= set(lacking)


def test_what_is_done_is_not_planned_again(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    left = lambda of: {
        line.what: (line.asked, len(line.left)) for line in plan.made(of, Store("tiny").rows(), []).lines
    }
    before = left(asked())
    assert before["dense models"] == (1, 1) and all(n == todo for n, todo in before.values())
    grid.measure(asked())
    after = left(asked())
    assert after == {what: (n, 0) for what, (n, _) in before.items()}
    more = left(asked("sparsities=[0.9, 0.5]"))
    assert more["no_weight_update, one_shot"] == (before["no_weight_update, one_shot"][0] + 2, 2)
    more = left(asked("methods=[ovit, magnitude]"))  # a copy, its layers, and what it has in common with oViT's, a seed
    assert more["no_weight_update, one_shot"] == (before["no_weight_update, one_shot"][0] + 6, 6)
    assert "left" in plan.of(asked(), "command") and "missing: nothing\nnext: command" in plan.of(asked(), "command")
    assert "all is measured" in plan.short(asked())
    monkeypatch.setattr(plan.manifest, "known", lambda *_: None)  # as in a clone that took published rows
    assert plan.short(asked()).endswith("by earlier rows; which of these are done shows once digits has been read")


def test_seconds_of_earlier_rows_are_the_estimate():
    config = quick(NoWeightUpdate, "seeds=[0]", "methods=[ovit, magnitude]", "recovery_epochs=[1, 3]")
    world = World({"glyph_letters": ""}, {0: ""})
    tasks = registry.get("no_weight_update").stages[-1](config, 0, world, [])
    one_shot = [t for t in tasks if t.kind == "one_shot"]
    row = lambda method, seconds, phase="one_shot", **more: (
        dict(phase=phase, dataset="glyph_letters", method=method, seconds=seconds) | more
    )
    rows = [row("ovit", 2.0, seed=0), row("ovit", 1.0, seed=0), row("ovit", 5.0, seed=1)]  # 3 s and 5 s
    costs = Costs(config, rows, None)
    of = lambda method: {costs.of(t).seconds for t in one_shot if t.columns["method"] == method}
    assert of("ovit") == {4.0}
    assert of("magnitude") == {4.0}  # of the same phase and set
    one = next(t for t in one_shot if t.columns["method"] == "magnitude")
    assert Costs(config, [row("magnitude", 7.0), *rows], None).of(one).seconds == 7.0
    # Tasks that differ in nothing but a length or an amount are not one task, and a longer one takes longer.
    rows = [row("ovit", 2.0, "recovered", epochs=1), row("ovit", 4.0, "recovered", epochs=2)]
    recovered = {t.columns["epochs"]: t for t in tasks if t.kind == "recovered" and t.columns["method"] == "ovit"}
    costs = Costs(config, rows, None)
    assert {n: costs.of(t).seconds for n, t in recovered.items()} == {1: 2.0, 3: 6.0}
    masks = next(t for t in tasks if t.kind == "where_it_acts")
    assert Costs(config, [row("ovit", 9.0)], None).of(masks).seconds == 0  # of copies that are made anyhow
    old = Costs(config, [row("ovit", 99.0, "recovered")], None)  # of before lengths had a column: another measurement
    assert old.of(recovered[3]) == Costs(config, [], None).of(recovered[3])


def phases(ablation, *settings):
    """The tasks of all stages by phase, as if nothing had been measured."""
    config = quick(ablation.parameters, "seeds=[0]", *settings)
    world, found = World(dict.fromkeys(config.every_dataset, ""), {0: ""}), {}
    for task in (t for stage in ablation.stages for t in stage(config, 0, world, [])):
        found.setdefault(task.columns["phase"], []).append(task)
    return config, found


def test_every_phase_has_an_estimate_of_its_own(monkeypatch):
    """The model of the cost in passes over images, at a speed at which nothing else counts."""
    monkeypatch.setattr(cost, "speed", lambda: 1e6)
    monkeypatch.setattr(cost, "elimination", lambda: None)
    c, a = phases(registry.get("no_weight_update"), "recovery_epochs=[1, 5]", "gradual_lrs=[1.0e-3, 3.0e-3]")
    costs = Costs(c, [], (10_000, 2_000))
    passes = lambda task: costs.of(task).seconds * 0.45 * 1e6 / cost.shape(c).flops
    gradients, epoch = 3 * c.gradients * c.gradient_batch, 3 * c.recovery_images
    by = lambda phase, column: {t.columns[column]: passes(t) for t in a[phase] if t.columns["method"] == "magnitude"}
    one = pytest.approx
    assert by("recovered", "epochs") == {1: one(epoch + 2000), 5: one(5 * epoch + 2000)}
    assert by("recovery_search", "epochs") == {2: one(2 * epoch + 1000)}
    assert by("gradual", "epochs") == {5: one(5 * epoch + 2000)}
    assert by("gradual_search", "epochs") == {5: one(5 * epoch + 1000)}
    ovit = {t.columns["passes"]: passes(t) for t in a["gradual"] if t.columns["method"] == "ovit"}
    assert ovit == {4: one(5 * epoch + 2000 + 4 * gradients)}
    trained = costs.dense([]).seconds
    whole, half = (costs.of(t).seconds for t in a["dense_length"])
    assert whole < 0.02 * trained and half == one(trained / 2, rel=0.02)  # the whole one is the dense model itself
    c, b = phases(registry.get("transfer"))
    full = lambda task: 3 * c.steps(task.columns["method"]) * c.full_batch_size
    assert c.steps("from_scratch") == c.scratch_steps > c.steps("dense") == c.full_steps
    costs = Costs(c, [], (10_000, 2_000))
    each = dict(full=(1, 2000), full_length=(1, 2000), lr_search=(0.5, 1000), knn=(0, 2000), features=(0, 2000))
    assert all(passes(t) == one(n * full(t) + more) for phase, (n, more) in each.items() for t in b[phase])
    monkeypatch.setattr(cost, "speed", lambda: 1e15)  # at which nothing else counts than what is no pass
    few = {t.columns["shots"]: costs.of(t).seconds for t in b["linear"]}
    assert few[""] == one(cost.PROBE, abs=0.1) and few[5] == one(cost.PROBE / 8, abs=0.1)


def test_published_seconds_are_for_the_size_and_the_budget_that_is_asked_for(tmp_path, monkeypatch):
    """Half the epochs, a third of the images of recovery, a model of half the depth."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    folder = tmp_path / "figures" / "quick"
    folder.mkdir(parents=True)
    deep = dict(img_size=32, patch_size=4, embed_dim=64, depth=4, num_heads=2)
    theirs = quick(NoWeightUpdate, f"model_args={deep}", "epochs=10", "recovery_images=3000")
    told = theirs.values() | dict(dense=[dict(epochs=10, seconds=100.0)])
    (folder / "no_weight_update.parameters.json").write_text(json.dumps(told))
    where = "experiment,phase,dataset,method,seconds,sparsity_target"
    lines = ["no_weight_update,one_shot,a,ovit,8,0.9", "no_weight_update,recovered,a,ovit,60,0.9"]
    (folder / "results.csv").write_text("\n".join([where, *lines, "transfer,linear,a,ovit,5,0.9"]) + "\n")
    seconds = lambda *configs, what="seconds": [row[what] for row in earlier.published("quick", configs)]
    assert seconds() == seconds(theirs) == [8.0, 60.0, 5.0] and earlier.dense_seconds(theirs) == [100.0]
    other = theirs.replace(epochs=5, recovery_images=1000, model_args=deep | dict(depth=2))
    assert seconds(other) == [4.0, 10.0, 5.0] and seconds(other, what="told") == [8.0, 60.0, 5.0]
    assert earlier.dense_seconds(other) == [25.0]


@pytest.mark.parametrize(
    "file, text",
    [
        ("results.csv", "<<<<<<< HEAD\nexperiment,seconds,sparsity_target\n"),
        ("results.csv", "experiment,phase,seconds,sparsity_target\na,b,Intel(R) Xeon,0.9\n"),
        ("transfer.parameters.json", '{"model": "m", "model_args": {}, "dense": null}'),
        ("transfer.parameters.json", '{"model": "m", "model_args": {}, "dense": [{}]}'),
        ("transfer.parameters.json", '{"model": "m", "model_args": {}, "dense": [{"epochs": 1, "seconds": "x"}]}'),
    ],
)
def test_published_seconds_that_are_damaged_are_done_without(tmp_path, monkeypatch, caplog, file, text):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    folder = tmp_path / "figures" / "quick"
    folder.mkdir(parents=True)
    (folder / "results.csv").write_text("experiment,seconds,sparsity_target\n")
    (folder / file).write_text(text)
    config = quick(Transfer)
    assert earlier.published("quick", [config]) == [] and earlier.dense_seconds(config) == []
    assert f"no time is estimated by {folder}" in caplog.text and "is damaged (" in caplog.text


def test_seconds_that_were_taken_with_their_rows_are_not_this_machine_s():
    """Nor where other parameters make more of them."""
    row = dict(run_id="x", phase="linear", dataset="a", method="ovit", seconds=3.0, device="fast")
    here, nothing = row | dict(device="slow", seconds=9.0), row | dict(seconds=0.0)
    assert earlier.own([row, here, nothing], [row | dict(seconds=12.0, told=3.0)]) == [here, nothing]


@pytest.mark.parametrize(
    "seen, device, count",
    [("0,1", "auto", 2), ("0,-1,1", "auto", 1), ("-1", "auto", 0), ("0,1", "cuda:1", 1), ("0", "cpu", 0)],
)
def test_without_torch_a_plan_knows_the_gpus(monkeypatch, seen, device, count):
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert machine.gpus(device) == count
    assert machine.workers(0, device, 1) == (count or machine.cores()) and machine.workers(3, device, 1) == 3


def test_units_are_taken_up_by_whoever_is_free():
    assert cost.makespan([4, 3, 2, 1], 2) == 5 and cost.makespan([1, 1, 1], 2) == 2
    assert cost.makespan([], 2) == 0 and cost.makespan([3, 3], 1) == 6


@pytest.mark.parametrize(
    "name, prunable, flops", [("deit_tiny_patch16_224", 5.31e6, 2.5e9), ("vit_base_patch16_224", 84.9e6, 35e9)]
)
def test_a_vision_transformer_is_known_by_its_name(name, prunable, flops):
    """Sizes of the papers: 1.26 and 17.6 billion multiply-adds."""
    found = cost.shape(quick(NoWeightUpdate, f"model={name}", "model_args={}"))
    assert found.prunable == pytest.approx(prunable, rel=0.01) and found.flops == pytest.approx(flops, rel=0.05)


def test_the_shape_of_the_quick_model_is_that_of_the_model():
    config = quick(NoWeightUpdate)
    weights = models.prunable(models.create(config.model, 26, **config.model_args))
    assert cost.shape(config).prunable == sum(w.numel() for w in weights.values())
    assert cost.shape(config.replace(model="resnet18", model_args={})) is None


def test_the_model_of_elimination_meets_the_benchmark_within_its_error():
    fit, factor = cost.elimination()
    assert 1 < factor < 3
    with (paths.ROOT / "figures" / "benchmark" / "scaling.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["varies"] == "d"]
    for size in {row["d"] for row in rows}:
        mine = [row for row in rows if row["d"] == size]
        x = [1, *(math.log(float(mine[0][name])) for name in ("d", "B", "m"))]
        said, taken = math.exp(sum(a * b for a, b in zip(fit, x))), sum(float(row["seconds"]) for row in mine)
        assert taken / factor < said < taken * factor


def test_without_rows_the_model_of_the_cost_gives_an_order_of_magnitude(monkeypatch):
    monkeypatch.setattr(cost, "speed", lambda: 1e11)
    config = quick(NoWeightUpdate, "model=deit_tiny_patch16_224", "model_args={}", "seeds=[0]", "epochs=6")
    dense = Costs(config, [], (10_000, 2_000)).dense([])
    # 3 passes x 6 epochs x 9,000 images x 2.5 GFLOP at 0.45 x 100 GFLOP/s
    assert dense == Estimate(pytest.approx(3 * 6 * 9_000 * 2.5e9 / 45e9, rel=0.05), cost.ROUGH)
    assert Costs(config, [], None).dense([10.0, 20.0]) == Estimate(15.0, 1.25)


def test_training_in_bfloat16_is_planned_at_half_the_time(monkeypatch):
    monkeypatch.setattr(cost, "speed", lambda: 1e6)
    monkeypatch.setattr(cost, "elimination", lambda: None)
    estimates = {}
    for amp_dtype in ("", "bfloat16"):
        c, found = phases(registry.get("transfer"), f"amp_dtype={amp_dtype}", "full_lrs=[1.0e-3, 3.0e-3]")
        costs = Costs(c, [], (10_000, 2_000))
        estimates[amp_dtype] = {phase: costs.of(tasks[0]).seconds for phase, tasks in found.items()}
        estimates[amp_dtype]["dense"] = costs.dense([]).seconds
    plain, mixed = estimates.values()
    assert mixed["dense"] == plain["dense"] / 2 and mixed["linear"] == plain["linear"]
    assert all(0.5 <= mixed[phase] / plain[phase] < 0.8 for phase in ("recovered", "full", "lr_search"))


def test_pictures_that_will_be_decoded_are_told_with_the_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    record = manifest.Record("print", 100_000, 10_000, 200)
    known = lambda cache, name, data_dir: record if name == "folder:mine" else None
    monkeypatch.setattr(plan.manifest, "known", known)
    said = lambda **args: plan.of(asked("datasets=['folder:mine']", f"model_args={MODEL | args}"), "command")
    assert re.search(r"and up to 1\.4 GB for decoded images, of \d+ GB", said(img_size=64))
    assert "decoded" not in said(img_size=96)  # opened one by one
    paths.cache().mkdir(parents=True)
    with (paths.cache() / "decoded-0.npy").open("wb") as file:
        file.truncate(1_351_680_128)
    assert "decoded" not in said(img_size=64)  # they are there


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "unreachable", lambda source: "down")
    more = ["datasets=[cifar10, 'folder:mine']", f"data_dir={tmp_path}", "engine=ray", "checkpoint=none.pth"]
    monkeypatch.setattr(plan, "find_spec", lambda name: None)
    said = list(plan.lacks(asked(*more)))
    for text in (
        "cifar10 is not in",
        "folder:mine needs the folders",
        "the checkpoint none.pth",
        "pip install -e '.[ray]'",
    ):
        assert any(text in line for line in said), (text, said)


@pytest.mark.parametrize("words", [("plan", "quick"), ("parameters", "quick", "--only", "transfer")])
def test_whoever_has_seen_enough_of_it_is_told_of_no_error(words):
    command = [sys.executable, "-m", "ovit_core.study", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=paths.ROOT) as run:
        run.stdout.close()  # as `head` does
        assert (run.stderr.read(), run.wait()) == (b"", 141)
