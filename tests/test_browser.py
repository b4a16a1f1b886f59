"""The explorer in a real browser: JupyterLab's own server, Debian's Chromium, a slider moved by the keyboard."""

import hashlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest

from ovit_core.study.paths import NOTEBOOKS

TINY = """
upstream, epochs, gradients, images, sparsities, damps = "digits", 2, 8, 100, [0.5, 0.9], [1e-5]
model_args = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2}
"""


@pytest.fixture
def server(tmp_path):
    """JupyterLab on a copy of the explorer with a tiny model; its address."""
    page = nbformat.read(NOTEBOOKS / "explore.ipynb", as_version=4)
    cell = next(c for c in page.cells if "parameters" in c.metadata.get("tags", []))
    cell.source += TINY
    nbformat.write(page, tmp_path / "explore.ipynb")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    words = ["-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", f"--notebook-dir={tmp_path}"]
    words += ["--IdentityProvider.token=secret", "--ServerApp.port_retries=0"]
    environment = os.environ | {"OVIT_STUDY_DIR": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    with (tmp_path / "server.log").open("w") as log:
        running = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log, env=environment, cwd=tmp_path)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api?token=secret")
                break
            except OSError:
                assert running.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.5)
        yield f"{address}/lab/tree/explore.ipynb?token=secret"
    finally:
        running.terminate()
        running.wait(30)


@pytest.mark.browser
@pytest.mark.notebook
def test_the_slider_moves_weights_and_figure(server, browser, tmp_path):
    page = browser.new_page(viewport=dict(width=1400, height=1000))
    page.goto(server, timeout=120_000)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=120_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=120_000)  # earlier, Run asks for a kernel
    page.locator(".lm-MenuBar-item", has_text=re.compile("^Run$")).click()
    page.locator(".lm-Menu-item", has_text=re.compile("^Run All Cells")).first.click()
    status = page.locator(".widget-html-content", has_text="prunable weights are zero").first
    status.wait_for(timeout=180_000)
    status.scroll_into_view_if_needed()
    picture = page.locator(".widget-tab img.widget-image:visible")

    def drawn(other_than: str = "") -> str:
        """The picture on show, hashed, once it is another."""
        bytes_of = "async i => Array.from(new Uint8Array(await (await fetch(i.src)).arrayBuffer()))"
        for _ in range(150):
            found = bytes(picture.first.evaluate(bytes_of))
            if (digest := hashlib.sha256(found).hexdigest()) != other_than and found.startswith(b"\x89PNG"):
                return digest
            time.sleep(0.2)
        raise AssertionError("the picture stayed as it was for 30 seconds")

    before = drawn()
    assert status.inner_text().startswith("90.00 % sparse")
    handle = page.locator(".noUi-handle").first
    handle.focus()
    for _ in range(4):
        handle.press("ArrowLeft")
    page.wait_for_function("t => document.body.innerText.includes(t)", arg="88.00 % sparse", timeout=30_000)
    now = drawn(other_than=before)
    weights, view = (int(n) for n in re.findall(r"in (\d+) ms", status.inner_text()))
    print(f"slider in the browser: weights in {weights} ms, view in {view} ms")
    assert weights < 300
    page.screenshot(path=os.environ.get("OVIT_SCREENSHOT", str(tmp_path / "explore.png")))
    for name in ("Layers", "Mask", "Weights", "Elimination", "Images"):
        page.locator(".lm-TabBar-tab", has_text=re.compile(f"^{name}$")).first.click()
        now = drawn(other_than=now)
    page.close()
