"""Shared by the tests: a model small enough for seconds, parameters, a place to write to, and a browser."""

import os
import shutil

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: for models this small threads only wait for each other

import matplotlib.pyplot as plt
import pytest
import timm
import torch
from playwright.sync_api import sync_playwright

from ovit_core.study import profiles, registry
from ovit_core.study.__main__ import main

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync"
TINY = dict(img_size=32, patch_size=16, embed_dim=24, depth=2, num_heads=2)
ALL = slice(None)  # images of a split
WEIGHTS = 2 * 6912  # prunable ones of such a model


def tiny_model():
    """A ViT for 32 x 32 images and 10 classes, random weights."""
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=10, **TINY)


def random_batches():
    """Eight batches of four random images and labels."""
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 3, 32, 32, generator=g), torch.randint(10, (4,), generator=g)) for _ in range(8)]


def quick(kind, *settings):
    """Parameters of a kind from the quick profile, with NAME=VALUE settings put over them."""
    return registry.build(kind, profiles.read_profile("quick", list(settings)))


def said(capsys, *words):
    """The exit status, and what was printed to either stream."""
    status = main(list(words))
    told = capsys.readouterr()
    return status, told.out, told.err


@pytest.fixture
def tiny():
    return tiny_model()


@pytest.fixture
def tiny_batches():
    return random_batches()


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    """What a test does not place itself is written here, never into the repository."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVIT_STUDY_DIR", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True)
def figures_closed():
    """Figures that a test opens end with it: matplotlib warns of twenty, whichever tests those are of."""
    yield
    plt.close("all")


LEFT_OUT = pytest.StashKey[int]()  # how many slow tests
NO_BROWSER = "no Chromium here"


def pytest_deselected(items):
    """Counts the slow tests that are left out."""
    for item in items:
        if "not slow" in item.config.option.markexpr and item.get_closest_marker("slow"):
            item.config.stash[LEFT_OUT] = item.config.stash.get(LEFT_OUT, 0) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Of several processes each leaves out all slow tests, and the one that sums up none: the count is any of theirs."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)


def pytest_sessionfinish(session):
    """Hands the count to the process that sums up, where there is one."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash.get(LEFT_OUT, 0)


def pytest_terminal_summary(terminalreporter, config):
    """Says at the end what did not run, and how to have it."""
    skipped = sum(NO_BROWSER in str(report.longrepr) for report in terminalreporter.stats.get("skipped", ()))
    if skipped:
        how = "apt-get install chromium, or put another chromium or google-chrome on the PATH"
        terminalreporter.write_line(f"{skipped} browser tests skipped, {NO_BROWSER}: {how}")
    if slow := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(f"{slow} slow tests left out: `make test-all` runs them too")


@pytest.fixture
def browser():
    """The system's Chromium, without a window."""
    if CHROMIUM is None:
        pytest.skip(NO_BROWSER)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()
