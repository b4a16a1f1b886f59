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

from ovit_core import dense, explorer, masks, results, views, widgets
from ovit_core.batches import batches
from ovit_core.config import ROOT, from_parameters
from ovit_core.explorer import Explore, Explorer
from ovit_core.progress import progress, told_to
from ovit_core.study import NOTEBOOKS

README = ROOT / "README.md"
MODEL = dict(img_size=32, patch_size=16, embed_dim=24, depth=2, num_heads=2)
TINY = dict(
    upstream="digits", epochs=2, model_args=MODEL, gradients=8, damps=[1e-5, 1e-4], images=100, sparsities=[0.5, 0.9],
    methods=["ovit", "ovit_mask_only", "obert", "magnitude"], profile="tiny",
)  # fmt: skip


def parameters() -> dict:
    declared = papermill.inspect_notebook(str(NOTEBOOKS / "explore.ipynb"))
    return {name: eval(p["default"]) for name, p in declared.items()} | TINY


@pytest.fixture(scope="module")
def x(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("explore")
        patch.setattr(dense, "CACHE", folder / "cache")
        patch.setattr(results, "CACHE", folder / "cache")
        patch.setattr(explorer, "RUNS", folder / "runs")
        yield Explorer(from_parameters(Explore, parameters())).sweep()


def test_points_are_those_of_the_study(x):
    for method in TINY["methods"]:
        mine, study = x.at(0.9)[method], x.surgeon.point(method, 0.9)
        assert all(torch.equal(mine.weights[n], study.weights[n]) for n in study.weights)
    assert x.sparsity(0.9) == pytest.approx(0.9, abs=1e-4)
    assert x.measured("ovit").keys() == {0.5, 0.9} and x.measured("dense").keys() == {0.0}


@pytest.mark.parametrize("method", TINY["methods"])
def test_steps_expect_the_loss_that_the_elimination_accumulates(x, method):
    layer, block = next(iter(x.surgeon.weights)), 3
    steps = x.steps(method, layer, block)
    w = x.surgeon.weights[layer].detach().double().reshape(-1, len(steps.order))[block]
    assert torch.equal(steps.weights["none"][0].double(), w) and steps.loss["joint"][0] == 0
    assert (steps.loss["joint"] <= steps.loss["none"] * (1 + 1e-6) + 1e-12).all()  # the update is the best answer
    if method == "ovit":
        torch.testing.assert_close(
            steps.loss["joint"][1:], x.plans[method].layers[layer].loss[block], rtol=1e-5, atol=0
        )


def test_the_slider_answers_within_300_ms_and_accuracies_follow(x):
    panel = widgets.Panel(x)
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
        assert bytes(panel.pictures[panel.view].value).startswith(b"\x89PNG")


def test_settings_prune_anew_and_bad_ones_say_what_is_wrong(x):
    panel = widgets.Panel(x)
    panel.settings["pattern"].value = "3:2"
    panel.apply.click()
    assert "pattern must be" in panel.doing.value and panel.x is x
    panel.settings["pattern"].value, panel.settings["methods"].value = "2:4", ["ovit"]
    panel.apply.click()
    panel.worker.join()
    assert panel.x is not x and list(panel.x.plans) == ["ovit"] and "50.00 % sparse" in panel.status.value
    assert panel.slider.disabled and panel.x.measured("ovit").keys() == {0.5}  # whatever the slider says


def test_stop_ends_the_work_at_its_next_step_and_the_panel_goes_on():
    said, ended = [], []
    worker = widgets.Worker(lambda *words: said.append(words), ended.append)

    def job():
        for _ in progress(range(10_000), desc="long"):
            time.sleep(0.001)

    worker.start(job)
    while not said:
        time.sleep(0.01)
    worker.stop()
    assert ended == ["stopped; what was measured stays"] and said[0][:3] == ("long", 0, 10_000) and len(said) < 9_000
    worker.start(lambda: 1 / 0)
    worker.join()
    assert ended[1] == "ZeroDivisionError: division by zero"


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
    picture = x.save_figure(views.accuracy(x, 0.9), "accuracy", "ovit", 0.9)
    assert all(picture.with_suffix(s).stat().st_size > 100 for s in (".png", ".svg", ".json"))


def test_the_readme_picks_a_saved_model_up_trains_it_and_exports_it(x, tmp_path, monkeypatch, capsys):
    block = re.search(r"```python\n(from ovit_core import explorer, masks\n.*?)```", README.read_text(), re.S).group(1)
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
    with pytest.raises(FileNotFoundError, match="use ovit_core.masks.load"):
        explorer.load(tmp_path / "mine.safetensors")


def test_the_notebook_draws_statically_under_papermill(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    out = tmp_path / "explore.ipynb"
    given = TINY | dict(interactive=False)
    papermill.execute_notebook(
        str(NOTEBOOKS / "explore.ipynb"), str(out), parameters=given, kernel_name="python3", progress_bar=False
    )
    outputs = [o for c in nbformat.read(out, as_version=4).cells for o in c.get("outputs", [])]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 6
    assert not [o for o in outputs if o.output_type == "error"]
