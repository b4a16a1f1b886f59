"""The figures of a profile and the page they stand on, drawn from the published rows: what they show is what was compared,
nothing is cut, and a page is read on a phone, in the dark, and by those who see no pictures.
"""

import html
import re
import shutil

import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.container import ErrorbarContainer
from PIL import Image

from ovit_core.ablations.no_weight_update.attribution import EDGES, edges, levels
from ovit_core.study import paths, plots, profiles, report, wording
from ovit_core.study.families import Contrast, Family
from ovit_core.study.forest import MARKS, forest

PUBLISHED = ("results.csv", "per_image.npz", "no_weight_update.parameters.json", "transfer.parameters.json")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the published rows of two profiles, and with nothing else."""
    folder = tmp_path_factory.mktemp("published")
    for profile in ("quick", "fashion"):
        (folder / "figures" / profile).mkdir(parents=True)
        for name in PUBLISHED:
            if (paths.ROOT / "figures" / profile / name).is_file():
                shutil.copy(paths.ROOT / "figures" / profile / name, folder / "figures" / profile)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVIT_STUDY_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def results(place):
    return report.load("quick")


@pytest.fixture(scope="module")
def page(place, results):
    return report.write_html(results, place / "report.html", "A study")


def texts(fig) -> str:
    return "\n".join(text.get_text() for ax in fig.axes for text in ax.texts)


def test_the_first_figure_shows_the_comparisons_and_the_accuracies_of_its_cells(results):
    mine = results["no_weight_update"]
    fig, known = mine.figure("finding", save=False), edges(mine)
    assert next(iter(mine.ablation.figures)) == "finding" and set(known) == set(EDGES)
    at, shown = known["both"].sparsity_target, texts(fig).replace("\n", " ")
    assert at == mine.config.damp_sparsity and f"{100 * at:g} %" in fig.axes[0].get_title(loc="left")
    for name, line in known.items():
        size = wording.spread(line["mean"], line.high - line["mean"])
        assert size in (fig.get_label() if name == "both" else shown), name
    cells = levels(mine, at)
    drawn = {round(float(y), 9) for ax in fig.axes for line in ax.lines for y in line.get_ydata()}
    for method in ("ovit", "ovit_mask_only", "magnitude", "magnitude_joint", "dense"):
        assert round(cells[method]["mean"], 9) in drawn
        assert wording.spread(cells[method]["mean"], cells[method].half, ".1f") in shown


def test_what_is_not_resolved_is_said_to_be_in_the_first_figure(results):
    mine = results["no_weight_update"]
    sure = mine.differences().assign(verdict="resolved")
    unsure = sure.assign(verdict=sure.verdict.where(sure.family != "score", "not resolved"))
    for lines, count in ((sure, 0), (unsure, 1)):
        other = type(mine)(mine.ablation, mine.config, mine.rows)
        other.__dict__["_differences"] = lines
        assert texts(other.figure("finding", save=False)).count("(not resolved)") == count
        assert other.headline().partition(" Beyond ")[0].count("(not resolved)") == count  # on other scales it may be
    fewer = type(mine)(mine.ablation, mine.config, mine.rows[mine.rows.method != "magnitude_joint"])
    assert fewer.figure("finding", save=False) is None and "not compared" in fewer.headline()


def marks(fig):
    """(face, place along the axis) of the marks of comparisons."""
    return [
        (line.get_markerfacecolor(), line.get_xdata()[0])
        for ax in fig.axes for line in ax.lines if line.get_marker() in ("o", "D", "x") and len(line.get_xdata()) == 1
    ]  # fmt: skip


def test_forests_have_a_line_for_every_comparison_filled_where_it_is_resolved(results):
    mine = results["no_weight_update"]
    lines, figs = mine.differences(), [mine.figure(name, save=False) for name in ("effects", "effects_trained")]
    scale = np.where(lines.metric == "cross_entropy", 1, 100)
    found, shown = [mark for fig in figs for mark in marks(fig)], "\n".join(map(texts, figs))
    assert len(found) == len(lines) == (lines.n > 0).sum() and all(map(marks, figs))
    assert sorted(x for _, x in found) == pytest.approx(sorted(scale * lines["mean"]))
    faces = [face for face, _ in found]
    assert faces.count("black") == (lines.verdict == "resolved").sum() and 0 < faces.count("white") < len(lines)
    for line, unit in zip(lines.itertuples(), scale):
        form = "+.1f" if unit == 100 else "+.3f"
        assert wording.spread(lines["mean"][line.Index], line.high - lines["mean"][line.Index], form, unit) in shown
    counts = [re.search(r"(\d+) resolved after Holm", fig.get_label()) for fig in figs]
    assert sum(int(count[1]) for count in counts if count) == (lines.verdict == "resolved").sum()


def test_sets_that_tell_nothing_are_named_in_a_forest_and_not_drawn(results):
    mine = results["transfer"]
    lines, fig = mine.differences(), mine.figure("transfer_effects", save=False)
    assert len(marks(fig)) == (lines.verdict.isin(list(MARKS))).sum() < len(lines)
    silent = [family.title for family in mine.families if family.silent and family.silent(mine.rows)]
    said = fig.texts[0].get_text().replace("\n", " ")
    for what, _, how in (title.partition(", ") for title in silent):
        names = next(part for part in said.removesuffix(".").split("; ") if f"{how}: " in part)
        assert what in names.partition(": ")[2].split(", "), (what, how)  # each protocol once, with its sets
    assert silent and said.count("linear probe, as pruned at 90 %") == 1


def test_a_forest_is_linear_where_differences_are_of_one_order():
    family = Family("f", "A family", (Contrast("a", {"ovit": 1, "magnitude": -1}),), 0.01)
    line = dict(family="f", metric="top1", n=3, margin=0.01, verdict="resolved")
    for mean, scale in ((0.05, "linear"), (0.6, "symlog")):
        fig = forest([family], pd.DataFrame([line | dict(mean=mean, low=0.5 * mean, high=1.5 * mean)]))
        low, high = fig.axes[0].get_xlim()
        assert fig.axes[0].get_xscale() == scale and low < 0 < 150 * mean < high  # nothing is clipped
        fig.canvas.draw()
        ticks = [tick.get_text() for tick in fig.axes[0].get_xticklabels() if low <= tick.get_position()[0] <= high]
        assert {"0", "+2" if scale == "linear" else "+30"} <= set(ticks), ticks  # as they are said, no decimals
        assert fig.get_label() == "Of 1 comparisons: 1 resolved after Holm."
    missing = pd.DataFrame([line | dict(n=0, mean=np.nan, low=np.nan, high=np.nan, verdict="not run")])
    assert forest([family], missing) is None
    both = (*family.contrasts, Contrast("b", {"ovit": 1, "obert": -1}))
    run = pd.DataFrame([line | dict(mean=0.1, low=0.05, high=0.15)])
    fig = forest([Family("f", "A family", both, 0.01)], pd.concat([run, missing], ignore_index=True))
    assert texts(fig).count("not run") == 1 and len(marks(fig)) == 1


def test_a_forest_names_the_sets_of_its_means_once_whatever_their_order():
    made = [Contrast(name, {"ovit": 1, "magnitude": -1}) for name in "ab"]
    means = [Family(f"f{i}", f"Mean over sets, {how}", (one,), 0.01, among=lambda rows: rows)
             for i, (one, how) in enumerate(zip(made, ("by probe", "by finetuning")))]  # fmt: skip
    line = dict(metric="accuracy", n=3, margin=0.01, verdict="resolved", mean=0.05, low=0.02, high=0.08)
    lines = pd.DataFrame(
        [line | dict(family="f0", dataset="folder:a, b"), line | dict(family="f1", dataset="b, folder:a")]
    )
    said = lambda lines: forest(means, lines).texts[0].get_text().replace("\n", " ")
    assert said(lines) == "Means are over the sets that tell something: a, b."
    other = said(lines.assign(dataset=["folder:a, b", "a, c"]))
    assert other == "Over a, b: by probe: Mean over sets. Over a, c: by finetuning: Mean over sets."


def test_what_training_leaves_is_drawn_on_one_axis(results):
    fig = results["no_weight_update"].figure("recovery", save=False)
    drawn = [ax for ax in fig.axes if ax.axison]
    assert len(drawn) > 2 and len({ax.get_xlim() for ax in drawn}) == 1
    assert all(ax.xaxis.get_tick_params()["labelbottom"] for ax in drawn)


def test_labelled_are_the_sparsities_that_were_measured(results):
    mine = results["no_weight_update"]
    ax = mine.figure("no_weight_update", save=False).axes[0]
    measured = sorted(set(mine.rows[(mine.rows.phase == "one_shot") & (mine.rows.sparsity_target > 0)].sparsity_target))
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [f"{100 * at:g}" for at in measured]
    assert np.allclose(ax.get_xticks(), -np.log10(1 - np.array(measured)))
    for bars in (c for c in ax.containers if isinstance(c, ErrorbarContainer)):
        off = np.abs(np.subtract.outer(bars[0].get_xdata(), ax.get_xticks())).min(1)
        assert off.max() < 0.25 * np.diff(ax.get_xticks()).min()  # each stands at its own sparsity
    styles = {c.get_label(): c[0].get_linestyle() for c in ax.containers}
    assert styles["ovit"] == "-" and styles["ovit_mask_only"] == styles["magnitude"] == "--"


def test_labels_are_moved_apart_no_further_than_they_must():
    assert plots.apart([3.0, 1.0], 1).tolist() == [3, 1]
    assert plots.apart([1.0, 1.0, 1.0], 1) == pytest.approx([0, 1, 2])
    moved = plots.apart([0.0, 0.2, 5.0], 1)
    assert moved == pytest.approx([-0.4, 0.6, 5])


@pytest.mark.notebook
@pytest.mark.parametrize("profile", ["quick", "fashion"])
def test_figures_are_uncut_at_the_width_at_which_they_are_printed(results, profile):
    """Of wide intervals and long names too."""
    drawn = 0
    for mine in (results if profile == "quick" else report.load(profile)).values():
        for name in mine.ablation.figures:
            if (fig := mine.figure(name, save=False)) is None:
                continue
            drawn += 1
            (width, height), box = fig.get_size_inches(), fig.get_tightbbox()
            assert width == plots.COLUMN or plots.COLUMN < width <= plots.PAGE, name
            assert box.x0 > -0.02 and box.y0 > -0.02 and box.x1 < width + 0.02 and box.y1 < height + 0.02, (name, box)
            assert fig.get_label(), name
    assert drawn >= (12 if profile == "quick" else 11)


def test_figures_are_told_apart_without_colour():
    looks = {method: (str(plots.look(method)["ls"]), plots.STYLE[method][1]) for method in plots.STYLE}
    assert len(set(looks.values())) == len(looks)


def test_a_page_begins_with_what_was_asked_and_found_and_the_figure_of_it(page, results):
    text = page.read_text()
    lede, _, rest = text.partition("<figure")
    plain = html.unescape(re.sub(r"<[^>]+>", "", lede.partition("<body>")[2]))
    assert report.ASKED in plain
    for mine in results.values():
        assert mine.headline().replace("`", "") in plain
    assert "What each part is worth" in rest[: rest.index("</figure>")] and "<h2>" not in lede
    assert text.index("Parameters of no_weight_update") > text.rindex("<figure")  # provenance is folded away at the end
    folded = re.findall(r"<details><summary>(.*?)</summary>", text)
    assert folded[-1] == "Where the numbers come from" and "<details open" not in text
    compared = sum(len(mine.differences()) for mine in results.values())
    assert sum(int(n) for n in re.findall(r"In words: (\d+) comparisons", " ".join(folded))) == compared


def test_every_picture_has_words_in_its_place(page, results):
    images = re.findall(r"<img[^>]*?alt=\"([^\"]*)\"", page.read_text())
    assert len(images) == page.read_text().count("<img") >= 12
    assert all(len(alt.split()) > 12 and re.search(r"\d", alt) for alt in images)
    assert "41" not in images[0] and results["no_weight_update"].headline().split(";")[0] in images[0].replace(
        "&#x27;", "'"
    )


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_read_on_a_phone_and_in_the_dark(page, browser, scheme):
    context = browser.new_context(viewport=dict(width=420, height=900), color_scheme=scheme)
    view, said = context.new_page(), []
    view.on("console", lambda message: said.append(message.text))
    view.goto(page.as_uri())
    for opened in ("false", "true"):
        view.evaluate(f"document.querySelectorAll('details').forEach(d => d.open = {opened})")
        assert view.evaluate("document.documentElement.scrollWidth") == 420
    boxes = view.evaluate("[...document.querySelectorAll('table')].every(t => t.parentElement.className == 'box')")
    assert boxes and said == []
    ground = view.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 150) == (scheme == "dark")
    context.close()


@pytest.mark.notebook  # drawing takes seconds
def test_the_report_as_markdown_has_the_same_contents(place, results):
    for mine in results.values():
        for name in mine.ablation.figures:
            drawn = mine.figure(name)
            assert mine.shown(name) is drawn or (drawn is None and mine.shown(name).startswith("*Not drawn"))
    for picture in paths.runs("quick").glob("*.png"):  # as they are published
        shutil.copy(picture, paths.figures("quick"))
    text = report.write_markdown(results, place / "docs.md", "a command").read_text()
    for mine in results.values():
        assert mine.headline() in text
        for line in mine.differences()["what"].unique():
            assert line in text
    assert text.count("<details>") == text.count("</details>") == text.count("<summary>") >= 8
    assert not re.search(r"[^\n]\n\|[^\n]*\|\n\|---", text)  # a table begins after an empty line, or is none
    links = re.findall(r"^!\[([^\]]+)\]\((\S+)\)$", text, re.M)
    drawn = [n for mine in results.values() for n in mine.ablation.figures if mine.figure(n, save=False) is not None]
    assert [target.split("/")[-1].removesuffix(".png") for _, target in links] == drawn
    for _, target in links:
        with Image.open(place / target) as picture:
            assert min(picture.size) > 200
    assert text.index("Where the numbers come from") > text.index(links[-1][1])


@pytest.mark.notebook  # drawing takes seconds
def test_what_rows_name_cannot_write_on_the_page(place, results):
    """A dataset is a folder's name, and a failure any text."""
    evil = "<script>alert(1)</script>"
    mine = results["transfer"]
    rows = mine.rows.assign(dataset=mine.rows.dataset.replace("digits", evil))
    other = type(mine)(mine.ablation, mine.config, rows, failures=(evil,))
    text = report.write_html({"transfer": other}, place / "evil.html", evil).read_text()
    assert "<script" not in text and "&lt;script&gt;" in text


@pytest.mark.notebook
def test_the_report_as_a_notebook_shows_the_same(place, results):
    executed = nbformat.read(profiles.execute(paths.NOTEBOOKS / "report.ipynb", dict(profile="quick")), as_version=4)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    drawn = [n for mine in results.values() for n in mine.ablation.figures if mine.figure(n, save=False) is not None]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == len(drawn)
    assert outputs[0].data["text/markdown"].startswith(report.ASKED)
