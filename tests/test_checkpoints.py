"""Checkpoints as timm, DDP, torch.compile, DINO and Hugging Face write them; other sizes; other models; damaged files."""

import argparse

import pytest
import timm
import torch
from conftest import TINY
from safetensors.torch import save_file

from ovit_core import checkpoints, masks, models
from ovit_core.pruning import prune

VIT = "vit_tiny_patch16_224"


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def hugging_face(state):
    """timm's names as transformers writes a ViTForImageClassification."""
    out = {}
    renames = (
        ("blocks.", "encoder.layer."), ("attn.proj", "attention.output.dense"), ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"), ("norm1", "layernorm_before"), ("norm2", "layernorm_after"),
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"), ("cls_token", "embeddings.cls_token"),
        ("pos_embed", "embeddings.position_embeddings"),
    )  # fmt: skip
    for name, tensor in state.items():
        if ".attn.qkv." in name:
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3)):
                new = name.replace("blocks.", "encoder.layer.").replace("attn.qkv", f"attention.attention.{part}")
                out[f"vit.{new}"] = piece.clone()
            continue
        for old, new in renames:
            name = name.replace(old, new)
        name = name.replace("head.", "classifier.") if name.startswith("head.") else f"vit.{name}"
        out[name.replace("vit.norm.", "vit.layernorm.")] = tensor
    return out


FORMS = {
    "timm.pth": lambda s: s,
    "timm.safetensors": lambda s: s,
    "nested.pth": lambda s: dict(state_dict=s, epoch=3, args=argparse.Namespace(lr=0.1)),
    "ema.pth": lambda s: dict(model=prefixed(s, "wrong."), state_dict_ema=s),
    "ddp.pth": lambda s: dict(model=prefixed(s, "module.")),
    "compiled.safetensors": lambda s: prefixed(s, "_orig_mod."),
    "both.safetensors": lambda s: prefixed(s, "module._orig_mod."),
    "dino.pth": lambda s: dict(teacher=prefixed(s, "backbone.") | {"head.mlp.0.weight": torch.zeros(3, 3)}),
    "hugging_face.safetensors": hugging_face,
}


def write(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_of_every_form_is_the_same_model(tiny, tmp_path, form):
    path = write(FORMS[form](tiny.state_dict()), tmp_path / form)
    model = models.create(VIT, 10, checkpoint=path, **TINY)
    for (name, a), b in zip(model.state_dict().items(), tiny.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_another_resolution_resamples_the_positions_only(tiny, tmp_path):
    path = write(tiny.state_dict(), tmp_path / "a.pth")
    model = models.create(VIT, 10, checkpoint=path, **TINY | dict(img_size=64))
    assert model.pos_embed.shape == (1, 17, 24) and models.input_config(model)["input_size"] == (3, 64, 64)
    assert torch.equal(model.blocks[1].mlp.fc1.weight, tiny.blocks[1].mlp.fc1.weight)


def test_a_head_is_kept_left_out_or_refused(tiny, tmp_path):
    path = write(tiny.state_dict(), tmp_path / "a.safetensors")
    headless = models.create(VIT, 0, checkpoint=path, **TINY)
    assert torch.equal(headless.norm.weight, tiny.norm.weight)
    with pytest.raises(ValueError, match=r"a\.safetensors knows 10 classes, but 7 classes are asked for"):
        models.create(VIT, 7, checkpoint=path, **TINY)
    body = {n: t for n, t in tiny.state_dict().items() if not n.startswith("head")}
    with pytest.raises(ValueError, match="has no classifier head, but 10 classes are asked for"):
        models.create(VIT, 10, checkpoint=write(body, tmp_path / "b.pth"), **TINY)
    assert models.create(VIT, 0, checkpoint=tmp_path / "b.pth", **TINY).num_classes == 0


@pytest.mark.parametrize("change", [dict(depth=3), dict(depth=1), dict(embed_dim=48)])
def test_another_models_checkpoint_is_refused_in_one_line(tiny, tmp_path, change):
    path = write(tiny.state_dict(), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=rf"a\.pth does not fit {VIT}") as error:
        models.create(VIT, 10, checkpoint=path, **TINY | change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half a zip"])
def test_a_damaged_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"checkpoint .*{name}"):
        checkpoints.read(tmp_path / name)


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit",))


def test_nothing_is_unpickled_but_tensors(tmp_path):
    torch.save(dict(model=Evil()), tmp_path / "a.pth")
    with pytest.raises(ValueError, match="holds more than tensors, which is not unpickled here"):
        checkpoints.read(tmp_path / "a.pth")
    torch.save([1, 2], tmp_path / "b.pth")
    with pytest.raises(ValueError, match="holds no tensors by name"):
        checkpoints.read(tmp_path / "b.pth")


def test_masks_come_along(tiny, tmp_path):
    prune(tiny, "magnitude", 0.5)
    masks.save(tiny, tmp_path / "a.safetensors")
    masks.attach(tiny, {"head.weight": torch.ones(10, 24, dtype=torch.bool)})
    masks.save(tiny, tmp_path / "b.safetensors")
    for name, classes in (("a", 10), ("b", 0)):
        assert masks.sparsity(models.create(VIT, classes, checkpoint=tmp_path / f"{name}.safetensors", **TINY)) == 0.5


def test_timms_names_with_tags_and_hubs():
    for name in ("deit_tiny_patch16_224.fb_in1k", "hf-hub:timm/vit_tiny", "local-dir:/somewhere"):
        models.check_name(name)
    with pytest.raises(
        ValueError, match=r"no model 'deit_tiny_patch16_224\.fb_in22k'; did you mean deit_tiny_patch16_224\.fb_in1k"
    ):
        models.check_name("deit_tiny_patch16_224.fb_in22k")
    assert timm.is_model("deit_tiny_patch16_224")


@pytest.mark.parametrize(
    "name, args, size",
    [
        (
            "vit_tiny_patch16_224",
            dict(img_size=32, in_chans=1, patch_size=16, embed_dim=24, depth=1, num_heads=2),
            (1, 32, 32),
        ),
        ("hiera_tiny_224", dict(img_size=64), (3, 64, 64)),
        ("maxvit_rmlp_pico_rw_256", dict(img_size=64), (3, 64, 64)),
        (
            "vit_tiny_patch16_224",
            dict(img_size=(32, 64), patch_size=16, embed_dim=24, depth=1, num_heads=2),
            (3, 32, 64),
        ),
    ],
)
def test_images_arrive_as_the_model_wants_them(name, args, size):
    model = models.create(name, 5, **args)
    config = models.input_config(model)
    assert config["input_size"] == size and len(config["mean"]) == len(config["std"]) == size[0]
    assert model.eval()(torch.randn(2, *size)).shape == (2, 5)
