"""What a run leaves stays out of git until it is published; what is published is what was run; notebooks are copies."""

import json
import os
import shutil

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from conftest import quick, said

from ovit_core.study import export, lab, paths, per_image, plots, publish, registry, released
from ovit_core.study.ablation import Results

PUBLISHED = paths.ROOT / "figures" / "quick"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The run whose rows this repository publishes, as if it had been made just now; returns its folder."""
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path / "home"))
    folder = paths.runs("quick")
    folder.mkdir(parents=True)
    for file in publish.made_by_publishing(PUBLISHED):
        shutil.copy(file, folder)
    for name in registry.ablations():
        about, page = folder / f"{name}.parameters.json", folder / f"{name}.ipynb"
        os.utime(page, ns=2 * (about.stat().st_mtime_ns + 10,))
    return folder


def names(folder):
    return {file.name for file in folder.iterdir()}


def altered(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_all_of_the_repository_s_own_figures_is_known_as_published():
    assert names(PUBLISHED) - {file.name for file in publish.made_by_publishing(PUBLISHED)} == {
        publish.INTRODUCTION,
        released.FOLDER,
    }
    for folder in ("benchmark", "explore"):  # which other commands write
        assert not publish.made_by_publishing(paths.ROOT / "figures" / folder) - {
            paths.ROOT / "figures" / folder / f"scaling.{suffix}" for suffix in publish.FIGURE
        }


def test_what_is_published_gives_the_report_of_the_run(run, capsys):
    status, out, _ = said(capsys, "publish", "quick")
    assert status == 0 and "results.csv" in out and "MB" in out
    # Whole, for one stands elsewhere.
    assert f"{paths.figures('quick')}: {len(names(paths.figures('quick')))} files" in out
    page, texts = run.parent / "results.md", {}
    for folder in ("runs/quick", "figures/quick"):
        status, out, _ = said(capsys, "report", "quick", "--markdown", str(page))
        assert status == 0 and out.startswith(f"Results: {paths.home() / folder}\n")
        texts[folder] = page.read_text()
        shutil.rmtree(run, ignore_errors=True)
    assert texts["runs/quick"] == texts["figures/quick"]
    assert texts["figures/quick"].count("](../figures/quick/") >= 4  # where they are published, whoever was read
    for file in publish.made_by_publishing(paths.figures("quick")):
        assert file.suffix == ".ipynb" or file.read_bytes() == (PUBLISHED / file.name).read_bytes()


def test_a_published_page_names_no_place_of_the_machine_and_no_warning(run):
    page = nbformat.read(run / "transfer.ipynb", as_version=4)
    page.metadata.papermill["output_path"] = "/home/somebody/page.ipynb"
    page.cells[-1].outputs.append(nbformat.v4.new_output("stream", name="stderr", text="a warning"))
    nbformat.write(page, run / "transfer.ipynb")
    publish.publish("quick")
    text = (paths.figures("quick") / "transfer.ipynb").read_text()
    assert "/home/somebody" not in text and "a warning" not in text and "image/png" in text


@pytest.mark.parametrize(
    "harm, says",
    [
        (lambda run: altered(run / "transfer.parameters.json", failures=["seed 1, digits: no"]), "1 of transfer could not be measured; the first: seed 1, digits: no (and 1 more)"),
        (lambda run: (run / "transfer.ipynb").unlink(), "the notebook transfer was not run to its end over these rows"),
        (lambda run: os.utime(run / "transfer.parameters.json"), "the notebook transfer was not run to its end over these rows"),
        (lambda run: only(run, "no_weight_update"), "transfer was not run"),
    ],
    ids=["failures", "no page", "an older page", "an ablation"],
)  # fmt: skip
def test_a_run_that_is_not_complete_is_refused_in_one_line(run, capsys, harm, says):
    os.utime(run / "transfer.ipynb", ns=(10, 10)) if "failures" in says else None
    harm(run)
    status, out, err = said(capsys, "publish", "quick")
    assert status == 2 and out == "" and err.startswith(f"error: {run} is incomplete: {says}") and err.count("\n") == 1
    assert "--incomplete" in err and not paths.figures("quick").exists()
    assert said(capsys, "publish", "quick", "--incomplete")[0] == 0
    assert (paths.figures("quick") / "results.csv").is_file()


def only(run, *experiments, **columns):
    """The rows of some experiments alone, with other values in some columns."""
    rows = export.read(run / "results.csv")
    rows = rows[rows.experiment.isin(experiments)] if experiments else rows
    (run / "results.csv").write_text(rows.assign(**columns).to_csv(index=False))
    (run / "per_image.npz").unlink()


@pytest.mark.parametrize("commit", ["0123456789+", "unknown"])
def test_rows_that_no_commit_can_make_again_are_refused(run, capsys, commit):
    only(run, commit=commit)
    status, out, err = said(capsys, "publish", "quick")
    assert status == 2 and out == "" and f"has rows of commit {commit}: of files that no commit holds" in err
    assert said(capsys, "publish", "quick", "--incomplete")[0] == 2  # that is another question
    assert said(capsys, "publish", "quick", "--dirty")[0] == 0


def test_what_a_run_no_longer_has_is_removed_and_other_files_stay(run, capsys):
    publish.publish("quick")
    there, other = paths.figures("quick"), {"notes.md", "mine.png", "mine.json", "mine.csv", publish.INTRODUCTION}
    for name in other:
        (there / name).write_text('{"command": "mine"}')
    fig, ax = plt.subplots()
    ax.plot([0, 1])
    plots.save(fig, "dropped", export.read(run / "results.csv").iloc[:3])
    plt.close(fig)
    dropped = {f"dropped.{suffix}" for suffix in publish.FIGURE}
    for name in dropped:  # a figure of an older version of the code
        (run / name).replace(there / name)
    (there / "older.parameters.json").write_text("{}")  # and an ablation that is no more
    (there / "older.csv").write_text("a\n")
    (run / "differences.csv").unlink()
    gone = {*dropped, "older.parameters.json", "older.csv", "differences.csv"}
    before = names(there)
    assert gone <= before
    status, out, _ = said(capsys, "publish", "quick")
    assert status == 0 and names(there) == before - gone and other <= names(there)
    (line,) = (line for line in out.splitlines() if line.startswith("removed"))
    assert set(line.partition(": ")[2].split(", ")) == gone


def test_what_is_said_of_rows_that_are_as_they_were_stays_when_other_rows_are_published(run):
    publish.publish("quick")
    there = paths.figures("quick")
    before = {name: (there / name).read_bytes() for name in names(there) - {released.FOLDER}}
    rows = export.read(run / "results.csv")
    images = per_image.read(run / per_image.FILE, rows)
    left = rows[(rows.experiment != "transfer") | (rows.phase != "full")]  # the other ablation has only so much yet
    left.to_csv(run / "results.csv", index=False)
    per_image.write(run / per_image.FILE, left, [images[line] for line in left.index])
    publish.publish("quick", incomplete=True, dirty=True, pages=False)
    a, b = (registry.get(name) for name in ("no_weight_update", "transfer"))
    said_of = lambda ablation: {f"{figure}.{suffix}" for figure in ablation.figures for suffix in publish.FIGURE}
    gone = {"transfer.ipynb", "transfer.csv", *said_of(b)} & {*before}
    stay = {"no_weight_update.ipynb", "no_weight_update.csv", *said_of(a)} & {*before}
    assert names(there) - {released.FOLDER} == {*before} - gone and len(gone) > 9 and len(stay) > 9
    assert all((there / name).read_bytes() == before[name] for name in stay)
    lines = before["differences.csv"].decode().splitlines(keepends=True)
    mine = [line for line in lines if not line.startswith("transfer,")]
    assert (there / "differences.csv").read_text() == "".join(mine) and 1 < len(mine) < len(lines)
    altered(run / "no_weight_update.parameters.json", gradients=1)  # and of other parameters nothing is said
    publish.publish("quick", incomplete=True, dirty=True, pages=False)
    assert not stay & names(there) and "differences.csv" not in names(there)


def test_only_the_run_s_own_figures_are_copied(run):
    (run / "explore").mkdir()
    for name in ("explore/saved.png", "report.html", "report.ipynb", "mine.png", ".results.csv.partial"):
        (run / name).write_text("x")
    publish.publish("quick")
    assert names(paths.figures("quick")) == {f.name for f in publish.made_by_publishing(PUBLISHED)}


def test_without_a_run_it_says_how_to_make_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    shutil.copytree(PUBLISHED, paths.figures("quick"))  # as in a fresh clone
    status, _, err = said(capsys, "publish", "quick")
    assert status == 2 and "`python -m ovit_core.study quick` makes one" in err
    assert said(capsys, "publish", "../quick")[0] == 2


def test_a_link_at_a_published_file_is_replaced(run, tmp_path):
    publish.publish("quick")
    (tmp_path / "canary").write_text("sings")
    for file in paths.figures("quick").iterdir():
        file.unlink()
        file.symlink_to(tmp_path / "canary")
    publish.publish("quick")
    assert (tmp_path / "canary").read_text() == "sings"
    assert not [file for file in paths.figures("quick").iterdir() if file.is_symlink()]


def test_a_published_profile_does_not_change_what_a_new_run_exports(run, capsys):
    """Rows of another code, published in this clone, are not taken for rows of the run."""
    publish.publish("quick")
    transfer = registry.get("transfer")
    mine = export.read(run / "results.csv")
    mine = mine[mine.experiment == "transfer"].reset_index(drop=True)
    shutil.rmtree(run)
    export.export(Results.of(transfer, quick(transfer.parameters), mine, [None] * len(mine)))
    assert set(pd.read_csv(run / "results.csv", usecols=["experiment"]).experiment) == {"transfer"}


def test_notebooks_to_work_with_are_copies_that_keep_what_was_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path / "home"))
    sources = tmp_path / "notebooks"
    shutil.copytree(paths.NOTEBOOKS, sources)
    monkeypatch.setattr(paths, "NOTEBOOKS", sources)
    before = {file.name: file.read_bytes() for file in sources.glob("*.ipynb")}
    assert {file.name for file in lab.copies()} == set(before) == names(paths.lab())
    copy = paths.lab() / "explore.ipynb"
    page = nbformat.read(copy, as_version=4)
    assert [c.source for c in page.cells] == [c.source for c in nbformat.read(sources / copy.name, 4).cells]
    page.cells[0].source = "my own words"
    nbformat.write(page, copy)  # as JupyterLab saves it
    lab.copies()
    assert nbformat.read(copy, as_version=4).cells[0].source == "my own words"
    assert before == {file.name: file.read_bytes() for file in sources.glob("*.ipynb")}
    newer = nbformat.read(sources / copy.name, as_version=4)
    newer.cells[0].source = "a newer version"
    nbformat.write(newer, sources / copy.name)
    lab.copies()
    assert nbformat.read(copy, as_version=4).cells[0].source == "a newer version"
    assert nbformat.read(copy.with_name("explore-1.ipynb"), as_version=4).cells[0].source == "my own words"
    copy.write_text("no notebook")
    lab.copies()
    assert nbformat.read(copy, as_version=4).cells[0].source == "a newer version"
    assert copy.with_name("explore-2.ipynb").read_text() == "no notebook"
