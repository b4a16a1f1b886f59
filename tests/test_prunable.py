"""Which weights are prunable: all projections of a transformer's body, by what they are; over timm's families."""

import re

import pytest
import timm
import torch

from ovit_core import models
from ovit_core.pruning import prune

# family -> share of the weight matrices that is prunable (small configurations would distort it: meta tensors are free).
SHARES = {
    "vit_tiny_patch16_224": 0.93, "deit_tiny_patch16_224": 0.93, "deit3_small_patch16_224": 0.97,
    "beit_base_patch16_224": 0.98, "eva02_tiny_patch14_224": 0.97, "swin_tiny_patch4_window7_224": 0.97,
    "swinv2_tiny_window8_256": 0.97, "coat_tiny": 0.92, "pvt_v2_b0": 0.66, "tnt_s_patch16_224": 0.98,
    "twins_pcpvt_small": 0.76, "twins_svt_small": 0.87, "gcvit_xxtiny": 0.82, "levit_128s": 0.89,
    "xcit_nano_12_p16_224": 0.91, "cait_xxs24_224": 0.97, "convnext_atto": 0.81, "maxvit_tiny_tf_224": 0.97,
    "hiera_tiny_224": 0.96, "mvitv2_tiny": 0.96, "visformer_tiny": 0.88, "pit_ti_224": 0.93, "crossvit_tiny_240": 0.92,
    "nest_tiny": 0.90, "davit_tiny": 0.91, "volo_d1_224": 0.95, "convit_tiny": 0.93, "mixer_s32_224": 0.89,
    "vit_small_patch14_dinov2": 0.97, "vit_small_patch16_dinov3": 0.99, "vit_base_patch16_siglip_224": 0.99,
    "samvit_base_patch16": 0.95, "flexivit_small": 0.97, "coatnet_nano_rw_224": 0.96,
}  # fmt: skip
DENSE = re.compile(r"head|patch_embed|pos_embed|cpb|rel_pos|relative|norm|cls_token|pos_token")


def on_meta(name, **args):
    with torch.device("meta"):
        return timm.create_model(name, **args)


@pytest.mark.parametrize("name", SHARES)
def test_the_share_found_in_a_family(name):
    model = on_meta(name)
    matrices = {n: p.numel() for n, p in model.named_parameters() if p.squeeze().ndim >= 2}
    found = models.prunable(model)
    share = sum(matrices[n] for n in found) / sum(matrices.values())
    assert share == pytest.approx(SHARES[name], abs=0.015)
    assert not [n for n in found if DENSE.search(n) and "attn" not in n.rpartition("head")[0]]
    assert set(models.unmatched(model)) == set(matrices) - set(found)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224"])
def test_of_vit_and_deit_it_is_the_papers_set(name):
    names = set(models.prunable(on_meta(name)))
    assert {re.sub(r"blocks\.\d+", "blocks.N", n) for n in names} == {
        f"blocks.N.{layer}.weight" for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }


def test_evas_separate_projections_are_found():
    names = set(models.prunable(on_meta("eva02_base_patch14_448")))
    for layer in ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.proj", "mlp.fc1_g", "mlp.fc1_x", "mlp.fc2"):
        assert f"blocks.3.{layer}.weight" in names


def test_every_matrix_left_dense_has_its_reason():
    reasons = models.unmatched(on_meta("swinv2_tiny_window8_256"))
    assert reasons["head.fc.weight"] == "classifier head" and reasons["patch_embed.proj.weight"] == "embedding"
    assert reasons["layers.0.blocks.0.attn.cpb_mlp.0.weight"] == "position"
    assert models.unmatched(on_meta("pvt_v2_b0"))["stages.0.blocks.0.attn.sr.weight"] == "Conv2d, no linear layer"


def test_a_regular_expression_overrides():
    model = on_meta("vit_tiny_patch16_224")
    assert set(models.prunable(model, r"blocks\.0\.mlp")) == {"blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight"}
    assert models.unmatched(model, r"mlp")["blocks.0.attn.qkv.weight"] == "name does not match 'mlp'"
    with pytest.raises(ValueError, match=r"'\(' is no regular expression"):
        models.prunable(model, "(")
    with pytest.raises(ValueError, match="no weight matches 'nothing'; the model has"):
        models.prunable(model, "nothing")
    with pytest.raises(ValueError, match="no weight of a linear layer was found"):
        models.prunable(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3)))


def test_a_large_share_left_dense_is_logged(tiny, caplog):
    prune(tiny, "magnitude", 0.5, prunable="mlp")
    assert "of the weight matrices stay dense" in caplog.text
