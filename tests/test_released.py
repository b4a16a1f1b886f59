"""Dense models beside the figures: a clone repeats their rows without training, and nothing else is taken for one."""

import json
import lzma
import shutil

import pytest
from conftest import TINY as MODEL
from conftest import quick

from ovit_core.ablations.no_weight_update.parameters import NoWeightUpdate
from ovit_core.study import dense, grid, paths, plan, publish, registry, released, unit
from ovit_core.study.__main__ import main
from ovit_core.study.store import Store

ABLATION = registry.get("no_weight_update")
SETTINGS = (
    "profile=tiny", "upstream=digits", "epochs=1", f"model_args={MODEL}", "seeds=[0, 1]", "gradients=8", "workers=1",
    "methods=[ovit]", "sparsities=[0.9]", "regimes=[global]", "recovery_methods=[]", "gradual_methods=[]",
    "sensitivity_damps=[]", "sensitivity_draws=[]", "sensitivity_block_sizes=[]", "sensitivity_gradients=[]",
    "sensitivity_batches=[]", "compute_passes=[]", "damp_checks=[]", "damps=[1.0e-5]", "dense_per_seed=true",
)  # fmt: skip


def measured(config):
    """The rows of a study of this profile in this place, without what may differ between two runs."""
    unit._seeds.clear()
    assert grid.measure([(ABLATION, config)]) == []
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


@pytest.mark.parametrize("harm", ["model", "notes", "size"])
@pytest.mark.usefixtures("clone")
def test_a_damaged_one_is_named_before_any_work(monkeypatch, capsys, harm):
    for file in (paths.ROOT / "figures" / "tiny" / released.FOLDER).iterdir():
        if harm == "notes" and file.suffix == ".json":
            file.write_text("{")
        elif harm != "notes" and file.suffix == released.ENDING:
            content = lzma.compress(bytes(released.MOST + 1)) if harm == "size" else file.read_bytes()[:1000]
            file.write_bytes(content)
    monkeypatch.setattr(dense, "train", lambda *_: pytest.fail("trained"))
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    status, said = main(["quick", "--only", "no_weight_update", *words]), capsys.readouterr()
    assert status != 0 and "dense-digits-" in said.out + said.err
    assert dict(model="is damaged", notes="is damaged", size="holds more than")[harm] in said.out + said.err


def test_one_that_is_too_large_is_not_published_and_one_of_another_run_is_removed(clone, monkeypatch, caplog):
    _, config = clone
    measured(config)
    grid.run(ABLATION, config).export()
    monkeypatch.setattr(released, "LARGEST", 1000)
    other = paths.figures("tiny", released.FOLDER) / f"dense-digits-other.safetensors{released.ENDING}"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"x")
    told = publish.publish("tiny", incomplete=True, dirty=True)
    assert told.copied["dense models"] == [] and told.removed == [other] and [*other.parent.iterdir()] == []
    assert "not published" in caplog.text
