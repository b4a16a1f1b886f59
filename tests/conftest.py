"""Shared fixtures: a model small enough for seconds, and a browser."""

import shutil

import pytest
import timm
import torch
from playwright.sync_api import sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync"
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


@pytest.fixture
def browser():
    """The system's Chromium, without a window."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()
