"""The explorer in a real browser: JupyterLab's own server, Debian's Chromium, keys and clicks.

`OVIT_LATENCIES=FOLDER python -m pytest tests/test_browser.py -s -k latencies` measures the notebook's own model, cached in
FOLDER (what OVIT_STUDY_DIR names), in place of the tiny one, or that of a profile, OVIT_PROFILE=NAME. OVIT_SCREENSHOT=FILE
keeps a picture of the panel.
"""

import os
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest

from ovit_core.study import profiles
from ovit_core.study.paths import NOTEBOOKS, ROOT

TINY = """
upstream, epochs, gradients, images, sparsities, damps = "digits", 3, 8, 100, [0.5, 0.9], [1e-5, 1e-7]
model_args = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2}
damp = 1e-5
"""
REAL = os.environ.get("OVIT_LATENCIES")
pytestmark = [pytest.mark.browser, pytest.mark.notebook]


@contextmanager
def lab(folder: Path, home: Path, more: str = ""):
    """JupyterLab on a copy of the explorer whose parameters end with `more`; its address."""
    page = nbformat.read(NOTEBOOKS / "explore.ipynb", as_version=4)
    cell = next(c for c in page.cells if "parameters" in c.metadata.get("tags", []))
    cell.source += more
    nbformat.write(page, folder / "explore.ipynb")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    words = ["-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", f"--notebook-dir={folder}"]
    words += ["--IdentityProvider.token=secret", "--ServerApp.port_retries=0"]
    environment = os.environ | {"OVIT_STUDY_DIR": str(home), "JUPYTER_CONFIG_DIR": str(folder / "config")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with (folder / "server.log").open("w") as log:
        running = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log, env=environment, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api?token=secret")
                break
            except OSError:
                assert running.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.5)
        yield f"{address}/lab/tree/explore.ipynb?token=secret"
    finally:
        running.terminate()
        running.wait(30)


def profile(name: str) -> str:
    """What a profile sets in the explorer's notebook; "" for none."""
    values = profiles.explored(profiles.read_profile(name, []), []) if name else {}
    return "".join(f"\n{parameter} = {value!r}" for parameter, value in values.items())


class Reader:
    """Somebody in front of the page; `said` is what it wrote to the console."""

    def __init__(self, browser, address: str, width: int = 1440, height: int = 1000, dark: bool = False):
        self.page, self.said = browser.new_page(viewport=dict(width=width, height=height)), []
        self.page.on("console", lambda m: m.type in ("error", "warning") and self.said.append(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(address, timeout=120_000)
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=120_000)
        self.page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=120_000)  # earlier, Run asks for a kernel
        if dark:
            self.menu("Settings", "Theme", "JupyterLab Dark")

    def menu(self, *names: str) -> None:
        self.page.locator(".lm-MenuBar-item", has_text=re.compile(f"^{names[0]}$")).click()
        for name in names[1:]:
            self.page.locator(".lm-Menu-item", has_text=re.compile(f"^{name}$")).first.click()

    def run_all(self) -> float:
        """Runs all cells; seconds until the panel stood on the page."""
        self.page.locator(".lm-MenuBar-item", has_text=re.compile("^Run$")).click()
        entry = self.page.locator(".lm-Menu-item", has_text=re.compile("^Run All Cells")).first
        begin = time.perf_counter()
        entry.click()
        self.page.locator(".noUi-handle").first.wait_for(timeout=30_000)
        return time.perf_counter() - begin

    def rest(self, timeout: float = 180.0) -> None:
        """Waits until the background work has ended."""
        self.page.wait_for_function(
            "() => document.querySelector('.ovit') && [...document.querySelectorAll('.widget-button')].some("
            "b => b.innerText.trim() == 'Stop' && b.disabled)", timeout=1000 * timeout)  # fmt: skip

    def button(self, name: str):
        return self.page.get_by_role("button", name=name, exact=True)

    def tab(self, name: str) -> None:
        self.page.locator(".widget-tab .lm-TabBar-tab", has_text=re.compile(f"^{name}$")).first.click()

    @property
    def shown(self) -> str:
        """The text of the picture on show."""
        return self.page.locator(".widget-tab .ovit:visible").first.inner_text()

    def waits_for(self, text: str, timeout: float = 60.0) -> None:
        self.page.wait_for_function("t => document.body.innerText.includes(t)", arg=text, timeout=1000 * timeout)

    def settings(self) -> None:
        self.page.locator(
            ".jupyter-widget-Collapse-header, .widget-accordion .lm-Widget", has_text="Settings"
        ).first.click()

    def field(self, label: str):
        """The input beside a label of the settings."""
        return self.page.locator(
            f".widget-label:text-is('{label}') ~ input, .widget-label:text-is('{label}') ~ select"
        ).first

    def press(self, key: str, where: str = "") -> float:
        """Milliseconds from a key on the slider (that of the steps in a tab) until another picture is painted."""
        self.page.evaluate("""() => {
            window.ovit = {};
            addEventListener('keydown', () => ovit.down = performance.now(), {capture: true, once: true});
            const watch = new MutationObserver(found => {
                if (!found.some(m => [...m.addedNodes].some(n => n.querySelector && (n.matches('.ovit') || n.querySelector('.ovit'))))) return;
                watch.disconnect();
                requestAnimationFrame(() => requestAnimationFrame(() => ovit.shown = performance.now()));
            });
            watch.observe(document.querySelector('.widget-tab'), {childList: true, subtree: true});
        }""")
        self.page.locator(f"{where} .noUi-handle:visible").first.press(key)
        return self.page.wait_for_function("() => ovit.shown && ovit.shown - ovit.down", timeout=30_000).json_value()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the tiny model, trained and cached by whoever comes first."""
    return tmp_path_factory.mktemp("study")


@pytest.fixture
def reader(browser, tmp_path, place):
    with lab(tmp_path, place, TINY) as address:
        reader = Reader(browser, address)
        reader.seconds = reader.run_all()
        reader.rest()
        yield reader
        reader.page.close()


def test_pin_and_compare_and_the_images_in_dispute(reader):
    reader.button("Pin curves").click()
    reader.settings()
    reader.field("λ").select_option("1e-07")
    reader.waits_for("Apply will take about")
    reader.button("Apply").click()
    reader.waits_for("ovit, λ = 1e-07")
    assert "ovit, λ = 1e-05" in reader.shown
    reader.rest()
    assert "ovit, λ = 1e-05" in reader.page.locator(".ovit-numbers table").inner_text()
    reader.button("Unpin all").click()
    reader.page.wait_for_function("() => !document.querySelector('.widget-tab .ovit').innerText.includes('1e-05')")
    point = reader.page.locator(".widget-tab .ovit-point:visible").last
    point.click()
    said = point.locator(".ovit-says")
    assert said.is_visible() and re.search(r"at [\d.]+ %: [\d.]+ \[[\d.]+, [\d.]+\] %", said.text_content())

    reader.tab("Images")
    reader.waits_for("disagrees with the dense model")
    table = reader.page.locator(".ovit-many table:visible")
    rows = [row.inner_text() for row in table.locator("tr").all()][1:]
    assert [row.split()[0] for row in rows] == ["dense", "ovit", "ovit_mask_only", "magnitude"]
    cells = [
        [re.search(r"(\S+) \d+ %", c.inner_text())[1] for c in row.locator("td").all()]
        for row in table.locator("tr").all()[1:]
    ]
    disputes = [sum(row[i] != cells[0][i] for row in cells[1:]) for i in range(len(cells[0]))]
    assert disputes == sorted(disputes, reverse=True) and disputes[0] > 0
    assert not reader.said


def test_stop_ends_a_step_of_training_within_two_seconds(reader):
    """One step of DeiT-Tiny takes most of a minute on a CPU, and the images before it a few seconds."""
    reader.settings()
    reader.field("model").fill("deit_tiny_patch16_224")
    reader.field("model").press("Tab")
    for where, milliseconds in {"while images are opened": 100, "inside a step": 10_000}.items():
        reader.button("Apply").click()
        reader.waits_for("dense model, digits, seed 0: 0 of", 60)
        reader.page.wait_for_timeout(milliseconds)
        begin = time.perf_counter()
        reader.button("Stop").click()
        reader.waits_for("stopping…", 1)
        told = time.perf_counter() - begin
        reader.waits_for("stopped; what was measured stays", 10)
        stopped = time.perf_counter() - begin
        print(f"stop, {where}, DeiT-Tiny: told in {told:.2f} s, stopped in {stopped:.2f} s")
        assert stopped < 2 and not reader.said
    reader.page.locator(".noUi-handle").first.press("ArrowLeft")
    reader.waits_for("89.50 % sparse")  # the model before is still there


def test_the_panel_is_there_within_five_seconds_and_in_view(reader):
    """The kernel of `reader` is one that knows the model; the panel must also be where Run All leaves its reader."""
    print(f"Run All Cells to the panel: {reader.seconds:.2f} s")
    assert reader.seconds < 5
    box = reader.page.locator(".noUi-handle").first.bounding_box()
    assert box and 0 < box["y"] < 1000
    assert reader.page.locator(".ovit:visible").first.bounding_box()["y"] < 1000
    assert not reader.said


def test_errors_can_be_read_in_both_themes(reader):
    """WCAG AA: 4.5 : 1."""
    contrast = """() => {
        const rgb = c => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
        const light = c => { const [r, g, b] = rgb(c).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
                             return .2126 * r + .7152 * g + .0722 * b; };
        const text = [...document.querySelectorAll('.widget-html-content span')].find(s => s.innerText.includes('its arguments'));
        let ground = text;
        while (/, 0\\)|transparent/.test(getComputedStyle(ground).backgroundColor)) ground = ground.parentElement;
        const [a, b] = [getComputedStyle(text).color, getComputedStyle(ground).backgroundColor].map(light);
        return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    }"""
    reader.settings()
    reader.field("its arguments").fill("img_size=32")
    reader.field("its arguments").press("Tab")
    reader.waits_for("expected a YAML mapping such as {img_size: 32}, not 'img_size=32'")
    found = [reader.page.evaluate(contrast)]
    reader.menu("Settings", "Theme", "JupyterLab Dark")
    reader.page.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
    found.append(reader.page.evaluate(contrast))
    print("contrast of errors, light and dark:", *(f"{c:.1f} : 1" for c in found))
    assert min(found) >= 4.5


def test_latencies(browser, tmp_path, place):
    """A key press shows its picture: measured in the browser, with whatever else the machine does."""
    home, more = (Path(REAL).resolve(), profile(os.environ.get("OVIT_PROFILE", ""))) if REAL else (place, TINY)
    with lab(tmp_path, home, more) as address:
        reader = Reader(browser, address)
        print(f"panel after {reader.run_all():.2f} s")
        reader.rest(600)
        slow = {}
        for view in ("Accuracy", "Layers", "Weights", "Mask", "Elimination", "Images"):
            reader.tab(view)
            reader.page.wait_for_timeout(300)
            found = []
            for key in ["ArrowLeft"] * 5 + ["ArrowRight"] * 2:
                reader.rest()
                found.append(reader.press(key, ".widget-tab" if view == "Elimination" else ""))
            print(
                f"{view}: a key press shows its picture in {statistics.median(found):.0f} ms, at most {max(found):.0f} ms"
            )
            limit = 200 if view in ("Accuracy", "Layers", "Weights") else 500
            if statistics.median(found) >= limit * (1 if REAL else 3):  # what else runs here is not known
                slow[view] = found
        assert not reader.said
        if picture := os.environ.get("OVIT_SCREENSHOT"):
            reader.tab("Accuracy")
            reader.rest()
            reader.page.set_viewport_size(dict(width=1240, height=1500))
            reader.page.keyboard.press("Control+b")  # folds the list of files
            reader.page.wait_for_timeout(1500)
            reader.rest(600)
            reader.page.locator(".jp-OutputArea-output:has(.widget-tab)").last.screenshot(path=picture)
        reader.page.close()
    assert not slow  # once there is a picture
