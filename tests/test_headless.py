"""A backbone without a head is pruned without labels and transferred by probe; what needs its top-1 says so."""

import pandas as pd
import pytest
import timm
from conftest import TINY
from safetensors.torch import save_file

from ovit_core.study import engine, registry
from ovit_core.study.paths import ROOT


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Parameters of an ablation with a headless checkpoint of the tiny model."""
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    path = tmp_path / "backbone.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY).state_dict(), path)
    given = dict(
        profile="headless", upstream="digits", checkpoint=str(path), model_args=TINY, seeds=[0], gradients=8,
        damps=[1e-5, 1e-3], datasets=["digits"], protocols=["linear"], transfer_methods=["ovit", "magnitude"],
        transfer_sparsities=[0.5, 0.9], probe_Cs=[0.1],
    )  # fmt: skip
    assert (ROOT / str(path)) == path  # an absolute path is itself
    return lambda name: registry.build(registry.get(name).parameters, engine.read_profile("quick", []) | given)


def test_ablation_b_reads_its_features(config):
    results = registry.get("transfer").run(config("transfer"))
    rows = results.rows
    assert set(rows.metric) == {"validation_r2", "top1"} and set(rows.phase) == {"lambda_search", "linear"}
    r2 = rows[rows.metric == "validation_r2"]
    assert r2.value.max() <= 1 and rows[rows.method == "ovit"].damp.notna().all()
    best = r2.loc[r2.value.idxmax(), "damp"]
    assert set(rows[(rows.method == "ovit") & (rows.phase == "linear")].damp) == {best}
    assert "no head, and so no top-1" in results.setting() and "digits, linear" in results.tables()
    again = registry.get("transfer").run(config("transfer")).rows
    pd.testing.assert_frame_equal(rows, again)


def test_ablation_a_says_that_there_is_no_top1(config):
    with pytest.raises(ValueError, match="has no classifier head here, and so no top-1: run ablation B alone"):
        registry.get("no_weight_update").run(config("no_weight_update"))
