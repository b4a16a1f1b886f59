"""Shared fixtures: a model small enough for seconds."""

import pytest
import timm
import torch

TINY = dict(img_size=32, patch_size=16, embed_dim=24, depth=2, num_heads=2)


@pytest.fixture
def tiny():
    """A ViT of 2 x 6912 prunable weights for 32 x 32 images, 10 classes, random weights."""
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=10, **TINY)


@pytest.fixture
def tiny_batches():
    """Eight batches of four random images and labels."""
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 3, 32, 32, generator=g), torch.randint(10, (4,), generator=g)) for _ in range(8)]
