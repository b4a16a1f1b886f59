"""The explorer: the same numbers as the pruner's, a slider that answers in time, work that stops, a static page."""

import inspect
import json
import multiprocessing
import os
import re
import threading
import time
from concurrent.futures import CancelledError

import nbformat
import numpy as np
import onnx
import onnxruntime
import papermill
import pytest
import timm
import torch
from conftest import TINY as MODEL
from matplotlib.text import Text

from ovit_core import explorer, masks
from ovit_core.data.batches import batches
from ovit_core.explorer import chart, page, paper, pins, price, readout, settings, structure, views
from ovit_core.explorer.answers import Answers
from ovit_core.explorer.panel import VIEWS, Panel
from ovit_core.explorer.parameters import Explore, differences
from ovit_core.explorer.solve import Explorer
from ovit_core.explorer.stopping import Stoppable
from ovit_core.explorer.worker import Worker
from ovit_core.progress import progress, told_to
from ovit_core.study import paths, plots, registry
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
    assert {0.5, 0.9} <= x.curve("ovit").keys() and x.curve("dense").keys() == {0.0}


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


def panel_of(x) -> Panel:
    """A panel whose explorer is there, with what `x` has measured."""
    panel = Panel(x.config)
    panel.worker.replace()
    panel.worker.join()
    panel.x = x
    panel.apply.click()
    panel.worker.join()
    assert not panel.note.value and not panel.doing.value, panel.doing.value
    return panel


def test_the_panel_is_there_before_its_explorer_and_says_what_it_does(x):
    panel = Panel(x.config)
    assert panel.x is None and panel.doing.value == "loading torch and timm" and not panel.stop.disabled
    panel.slider.value = 0.5  # nothing to answer yet
    panel.worker.join()
    assert panel.x is not None and "50.00 % sparse" in panel.status.value and panel.stop.disabled


def test_the_slider_answers_within_300_ms_and_accuracies_follow(x):
    panel = panel_of(x)
    panel.slider.value = 0.7
    panel.worker.join()
    slowest = 0.0
    for at in (0.6, 0.65, 0.75, 0.8):
        before = panel.pictures["Accuracy"].value
        panel.slider.value = at
        slowest = max(slowest, panel.seconds)
        assert panel.pictures["Accuracy"].value != before and f"{100 * at:.2f} % sparse" in panel.status.value
        assert panel.numbers.value.count("…") == 18 * (x.answers("ovit", at) is None)  # of six methods
    assert slowest < 0.3
    panel.worker.join()
    assert 0.8 in panel.x.curve("ovit") and 0.65 not in panel.x.curve("ovit")  # only where it rested
    for i, view in enumerate(VIEWS):
        panel.tabs.selected_index = i
        assert panel.pictures[view].value.endswith("</div>") and not panel.note.value


def test_views_take_what_the_panel_gives_them():
    for name, arguments in VIEWS.values():
        assert list(inspect.signature(getattr(views, name)).parameters) == ["x", *arguments]


def test_settings_prune_anew_and_bad_ones_say_what_is_wrong(x):
    panel = panel_of(x)
    before = panel.x
    panel.settings.widgets["pattern"].value = "3:2"
    panel.apply.click()
    assert "pattern must be" in panel.note.value and panel.x is before
    for box in panel.settings.methods.values():
        box.value = False
    panel.apply.click()
    assert "tick one at least" in panel.note.value
    panel.settings.widgets["pattern"].value, panel.settings.methods["ovit"].value = "2:4", True
    panel.slider.value = 0.9
    panel.apply.click()
    panel.worker.join()
    assert panel.x is not before and list(panel.x.plans) == ["ovit"] and "50.00 % sparse" in panel.status.value
    assert panel.slider.disabled and panel.slider.value == 0.5 and panel.slider.description == "2:4 is"
    assert panel.x.curve("ovit").keys() == {0.5}
    panel.settings.widgets["pattern"].value = "unstructured"
    panel.apply.click()
    panel.worker.join()
    assert not panel.slider.disabled and panel.slider.value == 0.9  # where the reader had left it


def test_after_new_settings_the_slider_measures_again(x):
    panel = panel_of(x)
    for name, box in panel.settings.methods.items():
        box.value = name == "magnitude"
    panel.apply.click()
    panel.worker.join()
    panel.slider.value = 0.55
    panel.worker.join()
    assert panel.x.answers("magnitude", 0.55) and panel.stop.disabled
    panel.tabs.selected_index = list(VIEWS).index("Elimination")  # nothing here has a Fisher
    assert "explore it beside a method such as ovit" in panel.pictures["Elimination"].value and not panel.note.value


def test_a_view_that_fails_says_so_and_accuracies_are_measured_all_the_same(x, monkeypatch):
    panel = panel_of(x)
    monkeypatch.setattr(views, "accuracy", lambda *_, **__: 1 / 0)
    panel.slider.value = 0.45
    assert "ZeroDivisionError" in panel.note.value
    monkeypatch.undo()
    panel.worker.join()
    assert panel.x.answers("ovit", 0.45)


def test_another_model_begins_without_the_arguments_of_this_one(x):
    panel = panel_of(x)
    panel.settings.widgets["model"].value = "deit_tiny_patch16_224"
    assert panel.settings.widgets["model_args"].value == "{}"


@pytest.mark.parametrize(
    "text, said",
    [
        ("img_size=32", r"expected a YAML mapping such as \{img_size: 32\}, not 'img_size=32'"),
        ("img_size 32, depth 4", r"such as \{img_size: 32, depth: 4\}"),
        ("{img_size:32}", r"such as \{img_size: 32\}"),
        ("[1, 2]", r"such as \{img_size: 32, patch_size: 8\}"),
        ("{", "is no YAML"),
    ],
)
def test_arguments_that_are_no_mapping_are_told_what_would_be_right(text, said):
    with pytest.raises(ValueError, match=said):
        settings.arguments(text)
    assert settings.arguments(" ") == {} and settings.arguments("{depth: 4}") == {"depth": 4}


@pytest.mark.parametrize(
    "args, said",
    [
        (MODEL | {"patchsize": 8}, "patchsize is not known to vit_tiny_patch16_224; did you mean patch_size"),
        (MODEL | {"num_heads": 5}, "its arguments: .*divisible"),
        (MODEL | {"img_size": 8}, "its arguments: .*smaller than a patch"),
    ],
)
def test_arguments_that_timm_refuses_are_told_in_a_line(args, said):
    with pytest.raises(ValueError, match=said) as caught:
        settings.check(explore(model_args=args))
    assert "\n" not in str(caught.value)


def test_apply_is_priced_from_measured_speed(x):
    assert price.price(x.config, x) == {"curvature": 0, "choosing λ": 0, "factorizing": 0, "measuring": pytest.approx(
        price.price(x.config, x)["measuring"])}  # fmt: skip
    longer = price.price(x.config.replace(epochs=20), x)
    assert longer["training"] > 5 * price.price(x.config.replace(epochs=3), x)["training"] > 0
    wider = price.price(x.config.replace(model_args=MODEL | dict(embed_dim=96)), x)
    assert wider["factorizing"] == pytest.approx(16 * longer["factorizing"]) and wider["curvature"] > 0
    assert price.price(x.config.replace(damp=1e-6), x)["choosing λ"] == 0
    assert price.price(x.config.replace(upstream="fashion_mnist"), x)["training"] is None
    assert price.worded(dict(training=300.0, curvature=0.1, measuring=20.0)) == (
        "Apply will take about 5.3 min: training 5.0 min, measuring 20 s."
    )
    assert "the dataset has to be read first" in price.worded(dict(training=None, measuring=20.0))


@pytest.mark.parametrize(
    ("model", "args"),
    [
        ("vit_tiny_patch16_224", MODEL),
        (
            "vit_tiny_patch16_224",
            MODEL | dict(drop_rate=0.1, attn_drop_rate=0.1, proj_drop_rate=0.1, drop_path_rate=0.1),
        ),
        ("vit_tiny_patch16_224", MODEL | dict(patch_drop_rate=0.5, pos_drop_rate=0.5)),
        ("levit_128s", {}),
        ("swin_tiny_patch4_window7_224", dict(img_size=64, window_size=2, depths=(1, 1, 1, 1))),
        ("xcit_nano_12_p8_224", dict(img_size=32)),
        ("resnet18", {}),
    ],
    ids=["vit", "dropout", "patches dropped", "levit", "swin", "xcit", "resnet"],
)
def test_a_price_draws_no_random_number_that_a_dense_model_is_made_of(model, args):
    """Torch has one stream for all threads. A model that is trained meanwhile would be another, under the same name."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert price.speed.__wrapped__(model, json.dumps(args), "cpu", 8, 1, "") > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_a_price_holds_up_no_process_that_opens_images():
    """Where one was forked while a price drew random numbers, their lock stayed locked in it: it never gave an image."""
    enough, opened, ended = threading.Event(), [], []
    pricing = Worker(lambda *words: None, ended.append, helpers=False)
    work = Worker(lambda *words: None, ended.append)

    def priced():
        while not enough.is_set():
            price.speed.__wrapped__("deit_tiny_patch16_224", "{}", "cpu", 8, 1, "")

    def job():
        for _ in range(20):
            opened.extend(batches(Slow(64), 32, workers=2))

    pricing.start(priced)
    work.start(job)
    work.thread.join(60)
    enough.set()
    work.stop()
    work.join()
    pricing.join()
    assert len(opened) == 40 and ended == ["", ""]


def test_settings_are_priced_or_refused_before_they_are_applied(x):
    panel = panel_of(x)
    panel.settings.widgets["epochs"].value = 40
    panel.pricing.join()
    assert "Apply will take about" in panel.takes.value and "training" in panel.takes.value
    panel.settings.widgets["model_args"].value = "img_size=32"
    panel.pricing.join()
    assert "expected a YAML mapping" in panel.takes.value


def test_saving_while_another_model_is_prepared_names_what_it_saves(x, monkeypatch):
    panel = panel_of(x)
    go_on = threading.Event()
    monkeypatch.setattr("ovit_core.explorer.panel.check", lambda config: go_on.wait(60))
    panel.slider.value = 0.65
    panel.settings.widgets["epochs"].value = 1
    panel.apply.click()
    panel.save.click()
    go_on.set()
    assert "of the model on show (epochs = 2), not of the one that is being prepared (epochs = 1)" in panel.note.value
    panel.worker.stop()
    panel.worker.join()


def test_what_is_saved_can_be_read_by_whom_the_umask_says(x):
    before = os.umask(0o022)
    try:
        path = x.save("magnitude", 0.77)
        picture = x.save_figure(paper.figure(views.layers(x, 0.77)), "layers", 0.77)
    finally:
        os.umask(before)
    files = [path, path.with_suffix(".json"), *(picture.with_suffix(s) for s in (".png", ".svg", ".json"))]
    assert {oct(file.stat().st_mode & 0o777) for file in files} == {"0o644"}


def test_pinned_curves_lie_under_the_next_ones_named_by_what_differs(x):
    pinned = pins.pin(x)
    other = Explorer(x.config.replace(damp=1e-4, methods=["ovit", "magnitude"]), before=x).sweep()
    assert differences(x.config, other.config) == ("λ = own", "λ = 0.0001")
    shown = [key.label for key in views.accuracy(other, 0.9, pinned=[pinned]).legend]
    assert {"ovit, λ = own", "ovit, λ = 0.0001", "magnitude, λ = 0.0001"} <= {*shown} or x.damp("ovit") == 1e-4
    assert "magnitude, λ = own" not in shown  # the same curve: it has none
    lines = readout.table(other, 0.9, [pinned])
    assert [*lines.index[:3]] == ["dense", "ovit", "magnitude"] and "obert, λ = own" in lines.index


def test_numbers_are_those_of_the_images(x):
    lines = readout.table(x, 0.9)
    ovit, dense = x.answers("ovit", 0.9), x.answers("dense", 0)
    assert lines.loc["ovit", "top-1 in %"].startswith(f"{100 * ovit.correct.mean():.1f} [")
    assert lines.loc["ovit", "points from dense"].startswith(
        f"{100 * (ovit.correct.mean() - dense.correct.mean()):.1f} ["
    )
    assert lines.loc["ovit", "loss"] == f"{ovit.loss.mean():.3f}"
    masks_of = x.at(0.9)["ovit"].masks
    most = max(masks_of, key=lambda name: 1 - masks_of[name].float().mean())
    assert lines.loc["ovit", "most removed from"].startswith(most.removesuffix(".weight"))
    assert (readout.table(x, 0.123).loc["ovit"][:3] == readout.WAITING).all()
    assert x.measure("ovit", 0.9) is ovit and "top-1" in readout.head(x)


def answers(correct, labels=None) -> Answers:
    correct = np.array(correct, bool)
    n = len(correct)
    labels = np.arange(n) % 10 if labels is None else np.array(labels)
    return Answers(correct, np.ones(n), np.ones(n), labels, labels)


def test_intervals_cover_the_paired_difference():
    """Of 2,000 draws of 200 images, on which two models of 80 % and 70 % disagree in a quarter."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(2000):
        kind = rng.choice(4, 200, p=[0.6, 0.175, 0.075, 0.15])  # both, first, second, none
        found = answers(kind <= 1).minus(answers((kind == 0) | (kind == 2)))
        covered += found.low <= 0.1 <= found.high
    assert 0.93 < covered / 2000 < 0.97
    same = answers([True] * 50).minus(answers([True] * 50))
    assert same.value == 0 and same.low < 0 < same.high


def test_a_model_near_chance_is_warned_of(x):
    tenths = lambda share: answers(np.arange(500) < 500 * share)
    assert tenths(0.14).near_chance == pytest.approx(0.2) and tenths(0.6).near_chance is None
    halves = answers(np.arange(500) < 300, np.arange(500) % 2)  # 60 % of two classes
    assert halves.near_chance == pytest.approx(0.75)
    weak = Explorer(explore(epochs=0, methods=["magnitude"])).sweep()
    assert "Near chance" in readout.head(weak) and "Near chance" not in readout.head(x)


def test_the_axis_begins_where_the_curves_part(x):
    class Curves:
        plans = ["a", "b"]

        def curve(self, method):
            good, bad = answers(np.arange(500) < 450), answers(np.arange(500) < 300)
            return {"dense": {0.0: good}, "a": dict.fromkeys((0.3, 0.5, 0.7), good),
                    "b": {0.3: good, 0.5: good, 0.7: bad}}[method]  # fmt: skip

    assert views.parting(Curves()) == 0.5
    whole, zoomed = (views.accuracy(x, 0.9, zoom).body[0] for zoom in ((0.0, 0.99), (0.8, 0.95)))
    assert whole.x.low == 0 and whole.x.high == pytest.approx(2) and zoomed.x.low == pytest.approx(views.left(0.8))
    ticks = dict(whole.x.ticks)
    assert ticks[views.left(0.9)] == "90 %" and views.left(0.9) == pytest.approx(1)


def test_methods_of_one_mask_are_shown_once(x):
    shared = Explorer(x.config.replace(damp=1e-5), before=x)
    layer, _ = views.first(shared)
    titles = [axes.title for axes in views.mask(shared, 0.8, layer).body]
    assert sum(title.startswith("ovit = ovit_mask_only:") for title in titles) == 1 and len(titles) == 5


def test_queries_keys_values_and_heads_are_marked(x):
    model = x.upstream.model
    found = structure.parts(model, "blocks.0.attn.qkv.weight")
    assert found.rows == [("q", 0, 24), ("k", 24, 48), ("v", 48, 72)] and found.heads == list(range(0, 72, 12))
    assert structure.parts(model, "blocks.0.attn.proj.weight").columns == [("head 1", 0, 12), ("head 2", 12, 24)]
    assert structure.parts(model, "blocks.0.mlp.fc1.weight") == ([], [], [])
    axes = views.mask(x, 0.9, "blocks.0.attn.qkv.weight").body[0]
    assert [label for _, label in axes.y.ticks] == ["q", "k", "v"]


def test_images_in_dispute_come_first_and_every_method_has_a_row(x):
    look = x.look(0.9, 100)
    differ = sum((look.answers[m].taken != look.answers["dense"].taken).astype(int) for m in x.plans)
    assert list(differ) == sorted(differ, reverse=True) and look.disputed == (differ > 0).sum() and look.of == 100
    rows = views.examples(x, 0.9).body.rows
    assert list(rows) == ["dense", *x.plans] and {len(cells) for cells in rows.values()} == {8}
    glance = x.look(0.31)  # not measured
    assert 8 <= glance.of <= 100 and x.answers("ovit", 0.31) is None


def test_pictures_are_sharp_fill_the_page_and_are_read_aloud(x):
    picture = views.accuracy(x, 0.9)
    text = picture.html()
    assert "width='100%'" in text and "<img" not in text and "tabindex='0'" in text
    assert re.search(r"aria-label='ovit at 90 %: [\d.]+ \[[\d.]+, [\d.]+\] %'", text)
    assert "&lt;b&gt;" in page.html(chart.Drawing([], [chart.Key("<b>")]))
    axes = picture.body[0]
    cursor = [
        mark for mark in axes.marks if isinstance(mark, chart.Line) and mark.x[0] == mark.x[-1] == views.left(0.9)
    ]
    assert chart.INK in {line.colour for line in cursor} and chart.INK not in {look[0] for look in plots.STYLE.values()}


@pytest.mark.parametrize("number", range(6))
def test_every_view_is_drawn_for_a_page_and_for_paper(x, number):
    picture = views.every(x, 0.9)[number]
    assert picture._repr_png_().startswith(b"\x89PNG") and len(picture.html()) > 1000
    fig = paper.figure(picture)
    fig.draw_without_rendering()
    whole = fig.bbox
    for text in fig.findobj(lambda artist: hasattr(artist, "get_text") and artist.get_text() and artist.get_visible()):
        box = text.get_window_extent()
        assert box.x0 >= -1 and box.x1 <= whole.x1 + 1, f"{text.get_text()!r} is cut"


def test_class_names_in_words_do_not_run_into_each_other():
    names = ["bullfrog", "European fire salamander", "sunglasses, dark glasses, shades", "Rhodesian ridgeback"]
    names += ["W" * 40, "$5_a_b$", "ELECTRIC LOCOMOTIVE OF THE SWISS", "n"]
    cells = [chart.Cell(f"{name} 100 %", wrong=True, faint=False) for name in names]
    images = list(np.zeros((8, 64, 64, 3), np.uint8))
    gallery = chart.Gallery(images, names, dict.fromkeys(["dense", "ovit_no_update_joint"], cells))
    fig = paper.figure(chart.Drawing(gallery, note="A sentence. " * 20))
    fig.draw_without_rendering()
    boxes = {text: text.get_window_extent() for text in fig.findobj(Text) if text.get_text() and text.get_visible()}
    assert len(boxes) == 8 + 2 * 9 + 1
    for text, box in boxes.items():
        assert 0 <= box.x0 and box.x1 <= fig.bbox.x1 and 0 <= box.y0 and box.y1 <= fig.bbox.y1, text
        assert not any(box.overlaps(other) for one, other in boxes.items() if one is not text), text
    sides = [ax.get_window_extent().height for ax in fig.axes]
    assert min(sides) >= 100  # pixels at 100 a inch: a picture of 64 can be seen


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


def test_a_worker_without_helpers_ends_nobody_elses():
    """The panel's price is worked out again with every key, while its measurements open images."""
    pricing, busy = Worker(lambda *words: None, lambda why: None, helpers=False), threading.Event()
    pricing.start(lambda: busy.wait(10))
    while not pricing.turn.locked():
        time.sleep(0.01)
    loader = multiprocessing.Process(target=time.sleep, args=(60,), daemon=True)  # another worker's
    loader.start()
    pricing.replace()
    busy.set()
    pricing.join()
    assert multiprocessing.active_children() == [loader]
    loader.kill()
    loader.join()


def test_a_lambda_that_cannot_be_inverted_is_not_chosen(monkeypatch):
    """As in a study: it is right on no image, and the others are tried."""
    real = Surgeon.pruned

    def pruned(self, method, sparsity, damp, regime):
        if damp == 1e-5:
            raise torch.linalg.LinAlgError("not positive definite")
        return real(self, method, sparsity, damp, regime)

    monkeypatch.setattr(Surgeon, "pruned", pruned)
    assert Explorer(explore()).damp("ovit") == 1e-4


def test_a_method_without_a_look_of_its_own_is_drawn_in_black(x, monkeypatch):
    monkeypatch.setattr(plots, "STYLE", {name: its for name, its in plots.STYLE.items() if name != "ovit"})
    for view in (views.layers(x, 0.9), views.weights(x, 0.9, next(iter(x.surgeon.weights)), "ovit")):
        assert "#000000" in page.html(view)


class Slow(torch.utils.data.Dataset):
    """Images that take most of a minute each, but for the first few."""

    def __init__(self, at_once):
        self.at_once, self.draw = at_once, 0

    def __len__(self):
        return 64

    def __getitem__(self, i):
        time.sleep(0 if i < self.at_once else 50)
        return torch.zeros(3, 8, 8), 0


@pytest.mark.parametrize("where", ["in a step", "between two", "before they are opened"])
def test_stop_waits_for_no_image_that_is_being_opened(where):
    """A loader that is left in the middle waits up to 5 s for each of its processes; one that waits for images itself
    looks every 5 s whether they are still being opened, and if they are, waits on.
    """
    ended, busy, mine = [], threading.Event(), multiprocessing.Process(target=time.sleep, args=(60,), daemon=True)
    mine.start()  # the reader's own
    worker = Worker(lambda *words: None, ended.append)

    def job():
        for _ in batches(Slow(8), 8, workers=2):
            busy.set()
            while where == "in a step":
                torch.zeros(1).add(1)

    worker.start(job)
    assert busy.wait(60)
    begin = time.perf_counter()
    if where == "before they are opened":  # by processes that were not there yet when Stop ended all there were
        worker.stopped.set()
    else:
        worker.stop()
    worker.join()
    assert time.perf_counter() - begin < 2 and ended == ["stopped; what was measured stays"]
    assert multiprocessing.active_children() == [mine]
    mine.kill()
    mine.join()


def test_a_loader_outside_of_work_that_can_be_stopped_looks_as_torch_does():
    asked = []
    with Stoppable(lambda: asked.append(1)):
        assert len(list(batches(Slow(64), 8, workers=1))) == 8
    inside = len(asked)
    assert inside >= 8
    assert len(list(batches(Slow(64), 8, workers=1))) == 8
    slow = torch.utils.data.DataLoader(Slow(0), 8, num_workers=1, timeout=1)  # its own patience is kept
    with Stoppable(lambda: None), pytest.raises(RuntimeError, match="timed out after 1"):
        next(iter(slow))
    assert len(asked) == inside


def test_work_is_stopped_inside_a_step_and_on_the_way_back():
    calls = dict(forward=0, back=0)
    stop = threading.Event()

    def check():
        if stop.is_set():
            raise KeyboardInterrupt

    net = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(4)))
    plain = torch.autograd.grad(net(torch.ones(2, 8)).sum(), net[0].weight)[0]
    with Stoppable(check):
        assert torch.equal(torch.autograd.grad(net(torch.ones(2, 8)).sum(), net[0].weight)[0], plain)
        hook = net[1].register_forward_hook(lambda *_: (calls.update(forward=calls["forward"] + 1), stop.set())[0])
        with pytest.raises(KeyboardInterrupt):
            net(torch.ones(2, 8))
        assert calls["forward"] == 1
        hook.remove()
        stop.clear()
        loss = net(torch.ones(2, 8)).sum()
        net[3].register_full_backward_hook(lambda *_: (calls.update(back=calls["back"] + 1), stop.set())[0])
        loss = net(torch.ones(2, 8)).sum()
        with pytest.raises(KeyboardInterrupt):
            loss.backward()
    assert calls["back"] == 1 and net[0].weight.grad is None


def test_factorizing_can_be_stopped_between_layers(x):
    def listener(what, done, *_):
        if what == "factorizing, layer" and done == 2:
            raise CancelledError

    with pytest.raises(CancelledError), told_to(listener):
        Explorer(x.config.replace(damp=2e-5), before=x)


def test_the_notebook_leaves_what_takes_seconds_to_the_panel():
    names = {name: getattr(explore(), name) for name in Explore.model_fields} | dict(device="cuda:9")
    names = {name: list(value) if isinstance(value, tuple) else value for name, value in names.items()}
    assert registry.from_notebook(Explore, names, world=False).device == "cuda:9"
    with pytest.raises(ValueError, match="device must be auto or cpu here"):
        registry.from_notebook(Explore, names)
    panel = Panel(registry.from_notebook(Explore, names, world=False))
    panel.worker.join()
    assert "device must be auto or cpu here" in panel.doing.value and panel.x is None and panel.stop.disabled


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
    picture = x.save_figure(paper.figure(views.accuracy(x, 0.9)), "accuracy", 0.9)
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
