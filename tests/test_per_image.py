"""What single images say: stored once a split, published, read back strictly, and enough to recompute an interval."""

import re
import shutil
import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from conftest import quick

from ovit_core.ablations.transfer.parameters import Transfer
from ovit_core.study import export, paths, per_image, registry, report, statistics
from ovit_core.study.ablation import Ablation, Results
from ovit_core.study.families import Contrast, Family
from ovit_core.study.intervals import interval
from ovit_core.study.store import Images, Measured, Store
from ovit_core.study.tasks import COLUMNS

N = 101  # images, not a multiple of eight
LABELS = np.arange(N, dtype=np.int32) % 5
PAIR = {"ovit": 1, "magnitude": -1}
LISTED = [
    Family("f", "What oViT is compared with", [
        Contrast("against magnitude", PAIR, dict(phase="one_shot", sparsity_target=0.9)),
        Contrast("in loss", PAIR, dict(phase="one_shot", sparsity_target=0.9), metric="cross_entropy"),
        Contrast("by class", PAIR, dict(dataset="b", sparsity_target=0.9), metric="mean_per_class"),
    ]),
]  # fmt: skip


def ablation(name: str, monkeypatch) -> Ablation:
    """The record of an ablation that compares, of parameters that there are."""
    package, analysis = ModuleType(f"package_{name}"), ModuleType("analysis")
    package.__path__ = []
    vars(analysis).update(answers=lambda rows: [], not_run=lambda config: "", families=lambda config: LISTED)
    vars(analysis).update(headline=lambda results: "", tables=lambda rows: "")
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, f"{package.__name__}.analysis", analysis)
    kind = type(name, (Transfer,), dict(experiment=name, __module__=__name__))
    return Ablation(f"Ablation {name}", package.__name__, kind, compares=True)


def measured(experiment: str, seeds=3) -> list[Measured]:
    """Rows as they are measured: accuracy and loss upstream, at two sparsities, and a mean over classes downstream."""
    g, out = np.random.default_rng(len(experiment)), []
    hard = g.random(N)
    fixed = dict.fromkeys(COLUMNS, "") | dict(
        experiment=experiment, profile="tiny", upstream="a", dataset="a", allocation="global", pattern="unstructured",
        scope="all", n_test=N, seconds=0.0,
    )  # fmt: skip
    for seed in range(seeds):
        for method, level in dict(ovit=0.8, magnitude=0.6).items():
            for at in (0.5, 0.9):
                row = fixed | dict(
                    method=method, sparsity_target=at, seed=seed, phase="one_shot", run_id=f"{method}{at}{seed}"
                )
                images = Images(hard + 0.1 * g.standard_normal(N) < level, 3 * g.random(N), g.random(N), LABELS)
                loss = dict(metric="cross_entropy", value=float(images.loss.mean()))
                out.append(Measured(row | dict(metric="top1", value=float(images.correct.mean())), images))
                out.append(Measured(row | loss))
            value = np.mean([images.correct[LABELS == k].mean() for k in range(5)])
            below = row | dict(phase="linear", dataset="b", metric="mean_per_class", value=float(value), C=0.1)
            out.append(Measured(below, images))
    return out


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Two ablations measured and exported, one after the other: their results."""
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    records = {name: ablation(name, monkeypatch) for name in ("first", "second")}
    configs = {name: quick(record.parameters, "profile=tiny") for name, record in records.items()}
    monkeypatch.setattr(registry, "ablations", lambda: records)
    store, results = Store("tiny"), {}
    for name, record in records.items():
        store.add(measured(name))
        found = [row for row in store.rows() if row["experiment"] == name]
        results[name] = Results.of(record, configs[name], export.table(found), store.images(found))
        results[name].export()
    return results


def test_labels_are_stored_once_a_split(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    store = Store("tiny")
    store.add(measured("first"))
    rows = store.rows()
    found = [one for one in store.images(rows) if one is not None]
    assert len(found) == 3 * 2 * 3 and len({id(one.labels) for one in found}) == 1
    assert np.array_equal(found[0].labels, LABELS)
    with store._connected() as db:
        assert db.execute("SELECT count(*) FROM splits").fetchone()[0] == 1


def test_a_store_of_before_labels_is_taken_on(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    store = Store("tiny")
    with store._writing() as db:
        db.execute("DROP TABLE splits")
        db.execute("DROP TABLE split_of")
    store = Store("tiny")
    first, *_, last = measured("first")
    store.add([Measured(last.row, Images(last.images.correct, last.images.loss, last.images.top)), first])
    old, new = store.images(store.rows())
    assert old.labels is None and np.array_equal(new.labels, LABELS)
    rows = per_image.with_images(export.table(store.rows()), [old, new])
    assert rows.each[0] is None  # a mean over classes that are not known
    assert np.array_equal(rows.each[1], first.images.correct)


def test_rows_have_what_each_image_contributes(published):
    rows = published["first"].rows
    assert list(rows.columns) == [*COLUMNS, "each", "labels"]
    for row in rows.itertuples():
        kept = row.metric != "cross_entropy" or row.sparsity_target == 0.9  # losses where a comparison uses them
        assert (row.each is not None) == kept
        assert (row.labels is not None) == (row.metric == "mean_per_class")
        if kept:
            assert row.each.dtype == np.float32
            mean = (
                np.mean([row.each[LABELS == k].mean() for k in range(5)]) if row.labels is not None else row.each.mean()
            )
            assert mean == pytest.approx(row.value, rel=1e-3)


def test_what_is_published_reads_back_the_same(published):
    loaded = report.load("tiny")
    for name, mine in published.items():
        there = loaded[name]
        assert there.rows[COLUMNS].equals(mine.rows[COLUMNS])
        for column in ("each", "labels"):
            for a, b in zip(there.rows[column], mine.rows[column]):
                assert a is b is None or np.array_equal(a, b)
        pd.testing.assert_frame_equal(there.differences(), mine.differences())
        assert there.answers() == mine.answers() and "against magnitude (one_shot, a): `ovit - " in there.answers()
        assert "new seeds and new test images" in there.setting()
    lines = pd.read_csv(paths.runs("tiny") / "differences.csv")
    assert lines.experiment.tolist() == ["first"] * 3 + ["second"] * 3
    assert lines.p_holm.tolist() == pytest.approx(
        pd.concat([r.differences() for r in published.values()]).p_holm.tolist()
    )
    with np.load(paths.runs("tiny") / "per_image.npz") as arrays:
        assert arrays["a/loss"].shape == (12, N) and arrays["a/correct"].shape == (24, 13)  # at 90 % only; all


def test_exported_again_each_line_and_image_is_there_once(published):
    folder = paths.runs("tiny")
    before = {name: (folder / name).read_bytes() for name in ("results.csv", "per_image.npz", "differences.csv")}
    for mine in (published["second"], published["first"]):
        mine.export()
    assert {name: (folder / name).read_bytes() for name in before} == before


DAMAGE = {
    "cut off": lambda b: b[:-200],
    "garbage": lambda b: b"\x80\x04" * 50,
    "empty": lambda b: b"",
    "a bit": lambda b: b[:300] + bytes([b[300] ^ 1]) + b[301:],
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_of_images_is_named_and_set_aside(published, how, caplog):
    path = paths.runs("tiny") / "per_image.npz"
    path.write_bytes(DAMAGE[how](path.read_bytes()))
    with pytest.raises(
        ValueError, match=r"per_image.npz is damaged \(.*\); restore it, or remove it and run the study"
    ):
        report.load("tiny")
    published["first"].export()
    assert "set aside as per_image.npz.damaged-1" in caplog.text
    loaded = report.load("tiny")
    assert loaded["first"].rows.each.notna().any() and loaded["second"].rows.each.isna().all()


def altered(path, **changes):
    """The file with other arrays; None removes one."""
    with np.load(path) as old:
        arrays = {name: old[name] for name in old.files} | changes
    np.savez_compressed(path, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"a/labels": LABELS[:-1]}, "the arrays of a do not fit together"),
        ({"a/loss": None}, "a/loss is not a file in the archive"),
        ({"a/correct": np.zeros((24, 13), np.uint8)}, "it belongs to another results.csv"),
        ({"b/rows": np.arange(12, dtype=np.int32) + 1000, "b/loss_rows": None}, "b/loss_rows is not a file"),
        ({"b/rows": np.arange(12) - 1}, "it belongs to another results.csv"),
        ({"b/labels": np.array([None] * N)}, "allow_pickle"),
    ],
)
def test_a_file_of_images_that_does_not_fit_is_refused(published, changes, says):
    path = paths.runs("tiny") / "per_image.npz"
    altered(path, **changes)
    with pytest.raises(ValueError, match=rf"per_image.npz is damaged \(.*{says}") as told:
        report.load("tiny")
    assert "\n" not in str(told.value)


def test_more_than_memory_is_refused_before_it_is_unpacked(published, monkeypatch):
    monkeypatch.setattr(per_image, "MOST", 1000)
    with pytest.raises(ValueError, match=r"per_image.npz is damaged \(it is too large\)"):
        report.load("tiny")


def test_another_order_of_rows_is_noticed(published):
    path = paths.runs("tiny") / "results.csv"
    head, *lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([head, *reversed(lines)]))
    with pytest.raises(ValueError, match="it belongs to another results"):
        report.load("tiny")


def test_results_without_images_are_read_with_intervals_over_seeds(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    folder = paths.runs("fashion")
    folder.mkdir(parents=True)
    for file in (paths.ROOT / "figures" / "fashion").glob("*"):
        if file.name == "results.csv" or file.suffixes == [".parameters", ".json"]:
            shutil.copy(file, folder)
    for mine in report.load("fashion").values():
        found = statistics.accuracy(mine.rows)
        assert mine.rows.each.isna().all() and (found.N == 0).all() and found.half.notna().any()
        assert "new seeds, on the same test images" in mine.setting()


def test_differences_that_cannot_be_read_are_set_aside(published, caplog):
    path = paths.runs("tiny") / "differences.csv"
    path.write_text("a,b\n1,2\n")
    published["first"].export()
    assert "set aside as differences.csv.damaged-1" in caplog.text
    assert set(pd.read_csv(path).experiment) == {"first"}


def test_rows_of_two_splits_of_a_dataset_are_kept_apart(tmp_path):
    ones = [Images(np.ones(n, bool), labels=np.zeros(n, np.int32)) for n in (8, 9, 8)]
    rows = export.table(dict.fromkeys(COLUMNS, "") | dict(dataset="a", metric="top1", value=1.0) for _ in ones)
    per_image.write(tmp_path / "per_image.npz", rows, ones)
    assert [len(one.correct) for one in per_image.read(tmp_path / "per_image.npz", rows)] == [8, 9, 8]
    per_image.write(tmp_path / "per_image.npz", rows, [None] * 3)
    assert not (tmp_path / "per_image.npz").exists()


def test_the_recipe_in_the_docs_gives_the_published_interval(published):
    text = (paths.ROOT / "docs" / "design.md").read_text()
    (recipe,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "per_image.npz" in block)
    where, found = re.search(r"^folder, .*$", recipe, re.M)[0], {}
    exec(recipe.replace(where, f'folder, experiment, dataset = {str(paths.runs("tiny"))!r}, "first", "a"'), found)
    line = published["first"].differences().iloc[0]
    assert found["half"] == pytest.approx(line.high - line["mean"]) and found["x"].mean() == pytest.approx(line["mean"])
    assert interval(found["x"].mean(1), found["x"]).half == pytest.approx(found["half"])
