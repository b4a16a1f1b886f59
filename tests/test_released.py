"""Dense models and rows beside the figures: a clone repeats rows without training, or goes on from them, and nothing else
is taken for them.
"""

import json
import lzma
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import TINY as MODEL
from conftest import quick, said

from ovit_core.ablations.no_weight_update import tasks as tasks_of_a
from ovit_core.ablations.no_weight_update.parameters import NoWeightUpdate
from ovit_core.study import (
    course,
    dense,
    engines,
    export,
    grid,
    identity,
    paths,
    per_image,
    plan,
    provenance,
    publish,
    registry,
    released,
    unit,
)  # fmt: skip
from ovit_core.study.__main__ import main
from ovit_core.study.store import Store

ABLATION = registry.get("no_weight_update")
SETTINGS = (
    "profile=tiny", "upstream=digits", "epochs=1", f"model_args={MODEL}", "seeds=[0, 1]", "gradients=8", "workers=1",
    "methods=[ovit]", "sparsities=[0.9]", "regimes=[global]", "recovery_methods=[]", "gradual_methods=[]",
    "sensitivity_damps=[]", "sensitivity_draws=[]", "sensitivity_block_sizes=[]", "sensitivity_gradients=[]",
    "sensitivity_batches=[]", "compute_passes=[]", "damp_checks=[]", "damps=[1.0e-5]", "dense_per_seed=true",
)  # fmt: skip
WORDS = [word for setting in SETTINGS for word in ("--set", setting)]
ONLY = "--only", "no_weight_update"


def measured(config):
    """The rows of a study of this profile in this place, without what may differ between two runs."""
    unit._seeds.clear()
    assert grid.measure([(ABLATION, config)]) == []
    return stored()


def stored():
    """The rows that are there, without what may differ between two runs."""
    kept = [{k: v for k, v in row.items() if k not in ("seconds", "commit")} for row in Store("tiny").rows()]
    return sorted(kept, key=repr)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A study whose run was published in a repository, from which a clone is made; returns its rows and its config."""
    config = quick(NoWeightUpdate, *SETTINGS)
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path / "first"))
    rows = measured(config)
    grid.run(ABLATION, config).export()
    told = publish.publish("tiny", incomplete=True, dirty=True)
    assert len(told.copied["dense models"]) == 4
    shutil.copytree(paths.figures(), tmp_path / "clone" / "figures")
    monkeypatch.setattr(paths, "ROOT", tmp_path / "clone")
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path / "second"))
    return rows, config


def test_a_clone_repeats_the_rows_without_training_a_dense_model(clone, monkeypatch):
    rows, config = clone
    monkeypatch.setattr(dense, "train", lambda *_: pytest.fail("trained"))
    for name in config.every_dataset:
        dense.read(config, name)
    (line,) = (line for line in plan.of([(ABLATION, config)], "").splitlines() if line.startswith("dense models"))
    assert line.split()[2:5] == ["2", "2", "0"], line  # all, there, left
    assert measured(config) == rows
    results = grid.run(ABLATION, config)
    results.export()
    told = json.loads((paths.runs("tiny") / "no_weight_update.parameters.json").read_text())["dense"]
    assert [about["seed"] for about in told] == [0, 1] and all(about["curve"] for about in told)


def test_another_recipe_is_trained(clone):
    _, config = clone
    assert dense.upstream(config.replace(epochs=2), 0).identity != dense.upstream(config, 0).identity


def files(ending):
    return sorted((paths.ROOT / "figures" / "tiny" / released.FOLDER).glob(f"*{ending}"))


def other_weights(file):
    file.write_bytes(lzma.compress(released.content(file)[:-1] + b"x"))


HARMS = {
    "model": (lambda file: file.write_bytes(file.read_bytes()[:1000]), "is damaged"),
    "size": (lambda file: file.write_bytes(lzma.compress(bytes(released.MOST + 1))), "holds more than"),
    "another": (other_weights, "is not the model that"),
    "notes": (lambda file: file.with_suffix(".json").write_text("{"), "is damaged"),
    "no notes": (lambda file: file.with_suffix(".json").unlink(), "is damaged"),
    "wrong notes": (lambda file: file.with_suffix(".json").write_text('{"curve": 1, "sha256": "x"}'), "is damaged"),
}


@pytest.mark.parametrize("harm, says", HARMS.values(), ids=HARMS)
@pytest.mark.usefixtures("clone")
def test_a_damaged_one_is_named_before_any_work(monkeypatch, capsys, harm, says):
    for file in files(released.ENDING):
        harm(file)
    monkeypatch.setattr(dense, "train", lambda *_: pytest.fail("trained"))
    status, out, err = said(capsys, "quick", *ONLY, *WORDS)
    assert status != 0 and "dense-digits-" in out + err and says in out + err


def test_one_that_is_too_large_is_not_published_and_one_of_another_run_is_removed(clone, monkeypatch, caplog):
    _, config = clone
    measured(config)
    grid.run(ABLATION, config).export()
    monkeypatch.setattr(released, "LARGEST", 1000)
    other = paths.figures("tiny", released.FOLDER) / f"dense-digits-other.safetensors{released.ENDING}"
    mine = other.with_name("mine.json")
    other.parent.mkdir(parents=True)
    other.write_bytes(b"x")
    mine.write_bytes(b"x")
    told = publish.publish("tiny", incomplete=True, dirty=True)
    assert told.copied["dense models"] == [] and told.removed == [other] and [*other.parent.iterdir()] == [mine]
    assert "not published" in caplog.text
    other.write_bytes(b"x")
    about = paths.runs("tiny") / "no_weight_update.parameters.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | dict(dense=[])))  # as after its cache was emptied
    assert publish.publish("tiny", incomplete=True, dirty=True).removed == [] and other.is_file()


@pytest.mark.parametrize("name", ["../../x.safetensors", "/etc/passwd", 3, None])
def test_what_a_run_from_elsewhere_calls_a_model_is_no_path(clone, name):
    _, config = clone
    measured(config)
    grid.run(ABLATION, config).export()
    about = paths.runs("tiny") / "no_weight_update.parameters.json"
    noted = json.loads(about.read_text())
    about.write_text(json.dumps(noted | dict(dense=[noted["dense"][0] | dict(file=name)])))
    with pytest.raises(ValueError, match="is no name of a dense model"):
        publish.publish("tiny", incomplete=True, dirty=True)


def test_a_model_that_was_trained_again_is_not_published_as_that_of_the_rows(clone):
    _, config = clone
    measured(config)
    grid.run(ABLATION, config).export()
    file = next(paths.cache().glob("dense-*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=f"{file} is not the model that the run's rows are of"):
        publish.publish("tiny", incomplete=True, dirty=True)


def test_notes_without_their_model_are_no_model_and_damaged_ones_are_named(clone):
    """A damaged model is set aside, and what is noted of it stays until it is trained again."""
    _, config = clone
    measured(config)
    first, second = sorted(paths.cache().glob("dense-*.safetensors"))
    first.unlink()
    assert [about["file"] for about in identity.about_dense(config)] == [second.name]
    second.with_suffix(".json").write_text("{")
    with pytest.raises(ValueError, match=f"{second.with_suffix('.json')} is damaged"):
        identity.about_dense(config)


def test_a_model_published_below_the_study_s_own_folder_is_taken_too(clone, monkeypatch):
    _, config = clone
    shutil.move(paths.ROOT / "figures", paths.home() / "figures")
    monkeypatch.setattr(dense, "train", lambda *_: pytest.fail("trained"))
    assert dense.upstream(config, 0).identity


def test_of_two_profiles_the_own_one_s_model_is_taken_and_a_damaged_cache_has_it_again(clone, monkeypatch):
    _, config = clone
    figures = paths.ROOT / "figures"
    shutil.copytree(figures / "tiny", figures / "a[first]")  # in the alphabet, and no pattern
    for file in (figures / "a[first]" / released.FOLDER).glob(f"*{released.ENDING}"):
        file.write_bytes(b"x")
    monkeypatch.setattr(dense, "train", lambda *_: pytest.fail("trained"))
    first = dense.upstream(config, 0)
    file = next(file for file in paths.cache().glob("dense-*.safetensors"))
    before = file.read_bytes()
    file.write_bytes(b"garbage")
    assert dense.upstream(config, 0).identity == first.identity and file.read_bytes() == before
    shutil.rmtree(figures / "tiny")
    file.unlink()
    with pytest.raises(ValueError, match="is damaged"):
        dense.upstream(config, 0)


def test_a_cluster_s_driver_takes_it_up_too(clone, monkeypatch):
    rows, config = clone
    monkeypatch.setattr(unit, "dense_epoch", lambda *_: pytest.fail("trained"))
    monkeypatch.setattr(dense, "train", lambda *_: pytest.fail("trained"))
    store = Store("tiny")
    here = lambda calls: (function(*arguments) for function, arguments in calls)
    fingerprint = dense.read(config, config.upstream).fingerprint
    damaged = identity.dense_path(config, 0, fingerprint)
    damaged.parent.mkdir(parents=True, exist_ok=True)
    damaged.write_bytes(b"x" * 100)  # set aside: the published one takes its place
    with course.of([(ABLATION, config)], store) as way:
        found = engines.Cluster(config, store, way, here).dense_models(ABLATION, config, [0, 1], fingerprint)
    assert all(not outcome.failures for outcome in found.values())
    assert len(list(paths.cache().glob("dense-*.safetensors"))) == 2 and rows


def test_a_cluster_keeps_the_curve_and_the_notes_of_what_it_trains(tmp_path, monkeypatch):
    """Each epoch may be trained on another machine, away from the cache."""
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    monkeypatch.setattr(unit, "_data", {})
    config = quick(NoWeightUpdate, *SETTINGS, "epochs=2", "seeds=[0]")
    store, here = Store("tiny"), lambda calls: (function(*arguments) for function, arguments in calls)
    fingerprint = dense.read(config, config.upstream).fingerprint
    with course.of([(ABLATION, config)], store) as way:
        (found,) = engines.Cluster(config, store, way, here).dense_models(ABLATION, config, [0], fingerprint).values()
    path = identity.dense_path(config, 0, fingerprint)
    assert not found.failures and path.is_file() and not path.with_suffix(".resume.pt").exists()
    (about,) = identity.about_dense(config)
    assert about["seed"] == 0 and about["seconds"] > 0 and sorted(about["curve"]) == [1, 2]


def test_weights_of_a_local_folder_are_known_by_what_they_are(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"first")
    config = quick(NoWeightUpdate, "pretrained=true", f"model=local-dir:{folder}", "model_args={}")
    before, elsewhere = identity.of_dense(config, 0, ""), quick(NoWeightUpdate, "pretrained=true", "model_args={}")
    assert identity.of_dense(config, 0, "") == before and identity.of_dense(elsewhere, 0, "") != before
    (folder / "model.safetensors").write_bytes(b"other")
    assert identity.of_dense(config, 0, "") != before


def test_a_dense_model_of_a_folder_with_spaces_has_a_name_to_publish():
    assert released.NAME.fullmatch("dense-folder_my photos (2)-0123456789ab.safetensors")


def left(config):
    """How many tasks a plan has left."""
    return plan.made([(ABLATION, config)], Store("tiny").rows(), []).left


def test_a_clone_goes_on_from_published_rows_and_measures_none_of_them(clone, monkeypatch, capsys):
    rows, config = clone
    status, out, _ = said(capsys, "take", "tiny")
    assert status == 0 and out.startswith(f"{len(rows)} published rows taken") and out.endswith("study tiny\n")
    monkeypatch.setattr(unit, "one", lambda *_, **__: pytest.fail("measured"))
    there = measured(config)
    assert all(row in there for row in rows)
    grid.run(ABLATION, config).export()
    for name in ("results.csv", "differences.csv", "per_image.npz"):
        assert (paths.runs("tiny") / name).read_bytes() == (paths.ROOT / "figures" / "tiny" / name).read_bytes()
    assert main(["take", "tiny"]) == 0 and stored() == there


@pytest.mark.parametrize(
    "change, some",
    [(dict(sparsities=(0.8, 0.9)), True), (dict(damps=(1e-5, 1e-4)), True), (dict(gradients=16), False), (dict(lr=1e-4), False)],
    ids=["a sparsity more", "a lambda more", "other gradients", "another dense model"],
)  # fmt: skip
def test_only_what_is_new_is_measured(clone, change, some):
    rows, config = clone
    other = config.replace(**change)
    dense.read(config, config.upstream)
    before = left(other)
    assert main(["take", "tiny"]) == 0
    assert (left(other) < before) == some and left(config) == 0
    if some:
        more = measured(other)
        assert left(other) == 0 and len(more) > len(rows)


def test_rows_of_other_code_lie_idle(clone, monkeypatch):
    _, config = clone
    dense.read(config, config.upstream)
    monkeypatch.setattr(provenance, "code", lambda *_: "other")
    before = left(config)
    assert main(["take", "tiny"]) == 0 and left(config) == before > 0


def test_what_was_never_published_or_is_damaged_cannot_be_taken(clone, capsys):
    folder = paths.ROOT / "figures" / "tiny"
    (folder / "per_image.npz").write_bytes(b"x")
    status, _, err = said(capsys, "take", "tiny")
    assert status == 2 and err.startswith(f"error: {folder / 'per_image.npz'} is damaged") and not Store.exists("tiny")
    shutil.rmtree(folder)
    status, _, err = said(capsys, "take", "tiny")
    assert status == 2 and "error: no rows of profile 'tiny' were published: there is no " in err


@pytest.mark.usefixtures("clone")
def test_of_two_lines_of_one_row_that_with_losses_is_taken():
    file = paths.ROOT / "figures" / "tiny" / "results.csv"
    rows = export.read(file)
    images = per_image.read(file.with_name(per_image.FILE), rows)
    line = next(i for i, one in enumerate(images) if one is not None)
    losses = np.ones(len(images[line].correct), np.float16)
    images[line] = replace(images[line], loss=losses, top=losses)
    twin = rows.iloc[[line]].assign(experiment="transfer")  # another ablation's, which compares no losses
    both = pd.concat([twin, rows], ignore_index=True)
    both.to_csv(file, index=False)
    per_image.write(file.with_name(per_image.FILE), both, [replace(images[line], loss=None, top=None), *images])
    assert main(["take", "tiny"]) == 0
    asked = {column: twin[column].iloc[0] for column in ("run_id", "method", "metric", "phase", "seed", "damp_rule")}
    rows = [row for row in Store("tiny").rows() if asked.items() <= row.items()]
    told = {row["experiment"]: one.loss is not None for row, one in zip(rows, Store("tiny").images(rows))}
    assert told["shared"] and told["no_weight_update"] and not told["transfer"]


def so_far(capsys, *more):
    """The exit status of publishing what a study has so far, and what it printed."""
    return said(capsys, "publish", "quick", "--rows", "--dirty", *ONLY, *WORDS, *more)


def test_what_there_is_so_far_is_published_without_pages(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    status, _, err = so_far(capsys)
    assert status == 2 and "has neither rows nor a finished dense model yet" in err
    config = quick(NoWeightUpdate, *SETTINGS)
    dense.upstream(config, 0)
    status, out, _ = so_far(capsys)
    assert status == 0 and "dense models, 2 files" in out and "figures/tiny: 2 files" in out
    paths.runs("tiny").mkdir(parents=True)
    (paths.runs("tiny") / "no_weight_update.ipynb").write_text("{}")  # of an earlier run
    with monkeypatch.context() as patch:
        patch.setattr(tasks_of_a, "STAGES", tasks_of_a.STAGES[:1])  # killed after the searches
        measured(config)
    assert so_far(capsys)[0] == 0
    there = {file.name for file in paths.figures("tiny").iterdir()}
    assert {"results.csv", "no_weight_update.parameters.json", "dense"} <= there
    assert not {"no_weight_update.ipynb", "differences.csv"} & there  # conclusions, which half a study has not
    assert len([*paths.figures("tiny", "dense").iterdir()]) == 4
    status, _, err = so_far(capsys, "--set", "gradients=16")
    assert status == 2 and "is of these parameters: give those of the run" in err
    status, _, err = said(capsys, "publish", "quick", "--set", "profile=tiny")
    assert status == 2 and "--set and --only go with --rows" in err


def test_a_fuller_publication_is_not_replaced_by_what_there_is_so_far(clone, capsys):
    _, config = clone
    shutil.copytree(paths.ROOT / "figures", paths.figures())
    seeds = lambda: sorted(export.read(paths.figures("tiny") / "results.csv").seed.unique())
    one = "--set", "seeds=[0]", "--set", "finetune_seeds=[0]"
    measured(config.replace(seeds=(0,), finetune_seeds=(0,)))
    status, _, err = so_far(capsys, *one)
    assert status == 2 and "would lose 1 files of pages, figures and means: `take tiny` and run the study first" in err
    (paths.figures("tiny") / "no_weight_update.csv").unlink()
    status, _, err = so_far(capsys, *one)
    assert status == 2 and re.search(r"would lose \d+ rows: `take tiny`", err) and seeds() == [0, 1]
    assert so_far(capsys, "--incomplete", *one)[0] == 0 and seeds() == [0]
    assert so_far(capsys, *one)[0] == 0
