"""Given checkpoints in a study: without a head, pruned without labels and transferred by probe; and sparse ones."""

import pandas as pd
import pytest
import timm
from conftest import TINY
from safetensors.torch import save_file

from ovit_core import masks
from ovit_core.pattern import UNSTRUCTURED, Pattern
from ovit_core.pruning import prune
from ovit_core.study import dense, grid, profiles, registry
from ovit_core.study.paths import ROOT
from ovit_core.study.surgeon import Surgeon


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Parameters of an ablation with a headless checkpoint of the tiny model."""
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    path = tmp_path / "given.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY).state_dict(), path)
    given = dict(
        profile="headless", upstream="digits", checkpoint=str(path), model_args=TINY, seeds=[0], gradients=8,
        damps=[1e-5, 1e-3], datasets=["digits"], protocols=["linear"], transfer_methods=["ovit", "magnitude"],
        transfer_sparsities=[0.5, 0.9], probe_Cs=[0.1], workers=1,
    )  # fmt: skip
    assert (ROOT / str(path)) == path  # an absolute path is itself
    return lambda name, **more: registry.build(
        registry.get(name).parameters, profiles.read_profile("quick", []) | given | more
    )


def test_ablation_b_reads_its_features(config):
    results = grid.run(registry.get("transfer"), config("transfer"))
    rows = results.rows
    assert set(rows.metric) == {"validation_r2", "validation_top1", "held_out_top1", "top1", "cka"}
    assert set(rows.phase) == {"lambda_search", "linear", "features"}  # there is nothing to recover it by
    r2 = rows[rows.metric == "validation_r2"]
    assert r2.value.max() <= 1 and rows[rows.method == "ovit"].damp.notna().all()
    best = r2.loc[r2.value.idxmax(), "damp"]
    assert set(rows[(rows.method == "ovit") & (rows.phase == "linear")].damp) == {best}
    assert "no head, and so no top-1" in results.answers() and "| digits | top-1 | linear probe |" in results.tables()
    again = grid.run(registry.get("transfer"), config("transfer")).rows
    pd.testing.assert_frame_equal(rows, again)


def test_ablation_a_says_that_there_is_no_top1(config):
    with pytest.raises(RuntimeError, match="has no classifier head here, and so no top-1: leave this ablation out"):
        grid.run(registry.get("no_weight_update"), config("no_weight_update"))


def test_a_sparse_checkpoint_stays_sparse_where_its_zeros_are_taken_for_masks(config):
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, **TINY)
    prune(model, "random", 0.6)
    zeros = {n: ~m for n, m in masks.of(model).items()}
    sparse = config("no_weight_update", masks_from_zeros=True, sparsities=[0.8, 0.9], damp_sparsity=0.8, regimes=["global", "2:4"],
                    recovery_sparsities=[0.8], gradual_steps=[0.8], sensitivity_sparsity=0.9)  # fmt: skip
    save_file(masks.detach(model).state_dict(), sparse.checkpoint_path)
    upstream = dense.upstream(sparse, 0)
    surgeon = Surgeon(sparse, upstream, 0)
    assert masks.sparsity(upstream.model) == pytest.approx(0.6, abs=1e-4)
    for method in ("ovit", "obert", "magnitude", "random"):
        for regime in (("global", UNSTRUCTURED), ("uniform", Pattern(2, 4))):
            pruned = surgeon.pruned(method, 0.8, 1e-5, regime)
            assert all(not pruned.get_parameter(n)[gone].any() for n, gone in zeros.items()), (method, regime)
    with pytest.raises(ValueError, match=r"sparsity 0\.55 is below the 0\.(6|59)"):
        Surgeon(sparse.replace(sparsities=[0.55]), upstream, 0)
    assert masks.of(dense.upstream(sparse.replace(masks_from_zeros=False), 0).model) == {}  # never silently
