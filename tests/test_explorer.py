"""The explorer: the same numbers as the pruner's, a slider that answers in time, work that stops, a static page."""

import re
import time

import nbformat
import onnx
import onnxruntime
import papermill
import pytest
import timm
import torch
from conftest import TINY as MODEL

from ovit_core import explorer, masks
from ovit_core.data.batches import batches
from ovit_core.explorer import views
from ovit_core.explorer.panel import Panel, Worker
from ovit_core.explorer.parameters import Explore
from ovit_core.explorer.solve import Explorer
from ovit_core.progress import progress, told_to
from ovit_core.study import paths, registry
from ovit_core.study.surgeon import Surgeon

TINY = dict(
    upstream="digits", epochs=2, model_args=MODEL, gradients=8, damps=[1e-5, 1e-4], images=100, sparsities=[0.5, 0.9],
    methods=["ovit", "ovit_mask_only", "obert", "magnitude", "obc", "wanda"], profile="tiny",
)  # fmt: skip


def explore(**changes) -> Explore:
    """The notebook's parameters, made tiny."""
    declared = papermill.inspect_notebook(str(paths.NOTEBOOKS / "explore.ipynb"))
    values = {name: eval(p["default"]) for name, p in declared.items()}
    return registry.build(Explore, values | TINY | changes)


@pytest.fixture(scope="module")
def x():
    return Explorer(explore()).sweep()


def test_methods_that_are_solved_anew_for_each_sparsity_are_refused_before_any_work():
    with pytest.raises(ValueError, match="obc_sequential is solved anew for each sparsity"):
        explore(methods=["ovit", "obc_sequential"])


def test_magnitude_is_told_its_cost_by_blocks_like_its_own(x):
    alone = Explorer(x.config.replace(methods=["magnitude", "obc"]), before=x)
    with pytest.raises(ValueError, match="explore it beside a method such as ovit"):
        alone.steps("magnitude", "blocks.1.mlp.fc2.weight", 0)  # rows of 96, blocks of 48: the Fisher's


def test_points_are_those_of_the_study(x):
    for method in TINY["methods"]:
        mine, study = x.at(0.9)[method], x.surgeon.point(method, 0.9, x.damp(method))
        assert all(torch.equal(mine.weights[n], study.weights[n]) for n in study.weights)
    assert x.sparsity(0.9) == pytest.approx(0.9, abs=1e-4)
    assert x.measured("ovit").keys() == {0.5, 0.9} and x.measured("dense").keys() == {0.0}


@pytest.mark.parametrize("layer", ["blocks.0.attn.qkv.weight", "blocks.1.mlp.fc2.weight"])
@pytest.mark.parametrize("method", TINY["methods"])
def test_steps_expect_the_loss_that_the_elimination_accumulates(x, method, layer):
    block = 3
    steps = x.steps(method, layer, block)
    w = x.surgeon.weights[layer].detach().double().reshape(-1, len(steps.order))[block]
    assert torch.equal(steps.weights["none"][0].double(), w) and steps.loss["joint"][0] == 0
    assert (steps.loss["joint"] <= steps.loss["none"] * (1 + 1e-6) + 1e-12).all()  # the update is the best answer
    if method in ("ovit", "obc"):
        torch.testing.assert_close(
            steps.loss["joint"][1:], x.plans[method].layers[layer].loss[block], rtol=1e-5, atol=0
        )


def test_the_slider_answers_within_300_ms_and_accuracies_follow(x):
    panel = Panel(x)
    panel.slider.value = 0.7
    panel.worker.join()
    slowest = 0.0
    for at in (0.6, 0.65, 0.75, 0.8):
        before = panel.pictures["Accuracy"].value
        panel.slider.value = at
        slowest = max(slowest, panel.seconds[0])
        assert panel.pictures["Accuracy"].value != before and f"{100 * at:.2f} % sparse" in panel.status.value
    assert slowest < 0.3
    panel.worker.join()
    assert 0.8 in x.measured("ovit") and 0.65 not in x.measured("ovit")  # only where it rested
    for i in range(len(panel.views)):
        panel.tabs.selected_index = i
        assert bytes(panel.pictures[panel.view].value).startswith(b"\x89PNG"), panel.note.value


def test_settings_prune_anew_and_bad_ones_say_what_is_wrong(x):
    panel = Panel(x)
    panel.settings["pattern"].value = "3:2"
    panel.apply.click()
    assert "pattern must be" in panel.note.value and panel.x is x
    panel.settings["pattern"].value, panel.settings["methods"].value = "2:4", ["ovit"]
    panel.apply.click()
    panel.worker.join()
    assert panel.x is not x and list(panel.x.plans) == ["ovit"] and "50.00 % sparse" in panel.status.value
    assert panel.slider.disabled and panel.x.measured("ovit").keys() == {0.5}  # whatever the slider says


def test_after_new_settings_the_slider_measures_again(x):
    panel = Panel(x)
    panel.settings["methods"].value = ["magnitude"]
    panel.apply.click()
    panel.worker.join()
    panel.slider.value = 0.55
    panel.worker.join()
    assert panel.x.has_measured("magnitude", 0.55) and panel.stop.disabled
    panel.tabs.selected_index = list(panel.views).index("Elimination")  # nothing here has a Fisher
    assert bytes(panel.pictures["Elimination"].value).startswith(b"\x89PNG") and not panel.note.value


def test_a_view_that_fails_says_so_and_accuracies_are_measured_all_the_same(x, monkeypatch):
    panel = Panel(x)
    panel.worker.join()
    monkeypatch.setitem(panel.views, "Accuracy", lambda: 1 / 0)
    panel.slider.value = 0.45
    assert "ZeroDivisionError" in panel.note.value
    monkeypatch.undo()
    panel.worker.join()
    assert panel.x.has_measured("ovit", 0.45)


def test_another_model_begins_without_the_arguments_of_this_one(x):
    panel = Panel(x)
    panel.settings["model"].value = "deit_tiny_patch16_224"
    assert panel.settings["model_args"].value == "{}"


def test_published_weights_of_other_classes_are_refused():
    with pytest.raises(ValueError, match="know 1000 classes, digits has 10"):
        Explorer(explore(pretrained=True))


def test_layer_inputs_are_those_of_the_estimate_alone(x):
    """While the estimate listens to its layers, the explorer may run the dense model on other images."""
    before = [len(m._forward_pre_hooks) for m in x.upstream.model.modules()]
    seen = []
    with told_to(lambda *words: seen.append([len(m._forward_pre_hooks) for m in x.upstream.model.modules()])):
        Surgeon(x.config, x.upstream, 0).curvature("inputs")
    assert len(seen) > 3 and all(now == before for now in seen)


def test_stop_ends_the_work_at_its_next_step_and_the_panel_goes_on():
    said, ended = [], []
    worker = Worker(lambda *words: said.append(words), ended.append)

    def job():
        for _ in progress(range(10_000), desc="long"):
            time.sleep(0.001)

    worker.start(job)
    while not said:
        time.sleep(0.01)
    worker.stop()
    worker.join()
    assert ended == ["stopped; what was measured stays"] and said[0][:3] == ("long", 0, 10_000) and len(said) < 9_000
    worker.start(lambda: 1 / 0)
    worker.join()
    assert ended[1] == "ZeroDivisionError: division by zero"
    with told_to(lambda *words: None):
        assert list(progress("ab", desc="next")) == ["a", "b"]  # the bar that was stopped holds none up


def test_bars_are_told_with_the_time_left():
    said = []
    with told_to(lambda *words: said.append(words)):
        assert list(progress("abc", desc="letters")) == ["a", "b", "c"]
    assert [words[:3] for words in said] == [("letters", k, 3) for k in range(4)]
    assert said[0][3] is None and said[-1][3] == 0


def test_a_saved_model_loads_with_its_masks(x):
    path = x.save("ovit", 0.9)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, **MODEL)
    masks.load(model, path)
    assert masks.sparsity(model) == pytest.approx(0.9, abs=1e-4)
    assert x.save("ovit", 0.9) == path and masks.sparsity(explorer.load(path)) == masks.sparsity(model)
    other = Explorer(x.config.replace(damp=1e-3), before=x).save("ovit", 0.9)
    assert other.name == "ovit-90-2.safetensors" and path.exists()  # another lambda does not write over it
    picture = x.save_figure(views.accuracy(x, 0.9), "accuracy", 0.9)
    assert all(picture.with_suffix(s).stat().st_size > 100 for s in (".png", ".svg", ".json"))


def test_the_documents_pick_a_saved_model_up_train_it_and_export_it(x, tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (paths.ROOT / "docs" / "running.md").read_text(), re.S)
    (block,) = (b for b in blocks if "explorer.load(" in b and "onnx.export(" in b)
    monkeypatch.chdir(tmp_path)
    path = x.save("ovit", 0.9)
    block = block.replace("runs/quick/explore/ovit-90.safetensors", str(path))
    names = dict(torch=torch, loader=batches(x.images, 32))
    exec(block, names)
    assert capsys.readouterr().out.startswith("0.9000\n")
    model, image = names["model"], names["image"]
    assert masks.sparsity(model) == pytest.approx(0.9, abs=1e-4)  # after an epoch of AdamW
    assert not torch.equal(model.head.weight, x.upstream.model.head.weight)
    session = onnxruntime.InferenceSession("pruned.onnx", providers=["CPUExecutionProvider"])
    (said,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    torch.testing.assert_close(torch.from_numpy(said), model(image).detach(), rtol=1e-4, atol=1e-4)
    stored = [onnx.numpy_helper.to_array(t) for t in onnx.load("pruned.onnx").graph.initializer]
    assert not [a for a in stored if a.dtype == bool]  # no masks
    zeros = sum(int((a == 0).sum()) for a in stored if a.ndim == 2)
    assert zeros >= sum(int((~m).sum()) for m in masks.of(model).values())


def test_a_model_without_its_settings_says_how_to_load_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"use ovit_core\.masks\.load"):
        explorer.load(tmp_path / "mine.safetensors")


@pytest.mark.notebook
def test_the_notebook_draws_statically_under_papermill(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    out = tmp_path / "explore.ipynb"
    given, source = TINY | dict(interactive=False), str(paths.NOTEBOOKS / "explore.ipynb")
    papermill.execute_notebook(source, str(out), parameters=given, kernel_name="python3", progress_bar=False)
    outputs = [o for c in nbformat.read(out, as_version=4).cells for o in c.get("outputs", [])]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 6
    assert not [o for o in outputs if o.output_type == "error"]
