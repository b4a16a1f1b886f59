"""What others made, or made up: every profile, parameter, name, weight file and folder of images is taken, or refused in
one line within seconds; nothing is written outside the study's folder, and nothing that was pickled is run.
"""

import ast
import io
import json
import os
import pickle
import struct
import time
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import papermill
import pytest
import torch
import yaml
from conftest import TINY, tiny_model
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from ovit_core import checkpoints, disk, masks, training
from ovit_core.ablations.transfer.parameters import Transfer
from ovit_core.benchmark import measuring
from ovit_core.data import catalog, loading, manifest
from ovit_core.explorer.solve import Explorer
from ovit_core.pattern import Pattern
from ovit_core.study import (
    checks,
    dense,
    export,
    grid,
    machine,
    parameters,
    paths,
    per_image,
    plots,
    profiles,
    registry,
    report,
)  # fmt: skip
from ovit_core.study.__main__ import main
from ovit_core.study.paths import PROFILES, ROOT
from ovit_core.study.store import Images, Store
from ovit_core.study.tasks import World

QUICK = (PROFILES / "quick.yaml").read_text().replace("profile: quick", "profile: tiny")
FIELDS = sorted({name for a in registry.ablations().values() for name in a.parameters.model_fields})
SECONDS = 8  # of which an answer takes a tenth, on a machine that has nothing else to do
OUTSIDE = "\x00-\x1f\x7f\x85\u2028\ud800\udcff\ufeff/\\.-~*'\"{}[]&!%#:|>"  # characters that mean something to somebody


def look(examples):
    """The same examples in every run, as many as there is time for."""
    checks_off = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=checks_off
    )


# Texts, mostly of characters that mean something.
texts = st.text(max_size=30) | st.text(alphabet=OUTSIDE + "ab1", max_size=20)
plain = st.none() | st.booleans() | st.integers() | st.integers(-(10**30), 10**30) | st.floats() | texts | st.dates()
values = st.recursive(
    plain | st.datetimes() | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(texts | st.integers() | st.booleans(), inner, max_size=3)
    ),
    max_leaves=8,
)
ODD_YAML = [
    "!!int ''", "!!float ''", "!!bool x", "!!timestamp x", "!!binary x", "!!set {[1]: }", "!!python/object:os.system {}",
    "0001-01-01T00:00:00+23:59", "0x" + "f" * 5000, "9" * 5000, "[" * 4000, "{a: " * 4000, "&a [*a]", "*a", "a: b: c", "\t",
    "{<<: 1}", "? [1]\n: 2", "- 1\n-2", "%YAML 9.9\n---\n1", "--- 1\n--- 2", ".nan", "1e400", "1:1:1:1", "@", "`", "\0", "'\\",
    "{a: &a [x,x,x,x,x,x,x,x,x], b: &b [*a,*a,*a,*a,*a,*a,*a,*a], c: &c [*b,*b,*b,*b,*b,*b,*b,*b], "
    "d: &d [*c,*c,*c,*c,*c,*c,*c,*c], e: &e [*d,*d,*d,*d,*d,*d,*d,*d], f: [*e,*e,*e,*e,*e,*e,*e,*e]}",
    "{a: &a {k: 1}, b: &b {<<: [*a,*a,*a,*a,*a,*a,*a,*a,*a]}, c: &c {<<: [*b,*b,*b,*b,*b,*b,*b,*b,*b]}, "
    "d: &d {<<: [*c,*c,*c,*c,*c,*c,*c,*c,*c]}, e: &e {<<: [*d,*d,*d,*d,*d,*d,*d,*d]}, f: {<<: [*e,*e,*e,*e,*e,*e,*e]}}",
]  # fmt: skip
in_yaml = values.map(lambda v: yaml.safe_dump(v, default_flow_style=True, width=10**6).strip()) | st.sampled_from(
    ODD_YAML
)


def tree(folder):
    """Every path below a folder, with what it holds or where it leads."""
    return {
        path: path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A place with a study's folder, a folder of profiles and a file that is none of the study's. Measuring makes all
    files that a study makes, but no rows; a page is executed in no time.
    """
    place = tmp_path_factory.mktemp("place")
    for name in ("home", "profiles", "outside"):
        (place / name).mkdir()
    (place / "outside" / "canary").write_text("sings")
    (place / "profiles" / "tiny.yaml").write_text(QUICK)

    def measure(asked):
        profile = asked[0][1].profile
        paths.check_writable(profile)
        Store(profile).check()
        export.check_export(profile)
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVIT_STUDY_DIR", str(place / "home"))
        patch.setenv(plots.COMMAND, "")
        patch.setattr(paths, "PROFILES", place / "profiles")
        patch.setattr(grid, "measure", measure)
        patch.setattr(profiles.progress, "terminal", lambda: os.devnull)
        patch.setattr(papermill, "execute_notebook", lambda source, out, *_, **__: Path(out).write_text("a page"))
        patch.setattr(catalog, "unreachable", lambda source: "nobody answers")
        yield place


def answer(place, *words):
    """The exit status and the line of an answer; it was one, in seconds, and wrote nothing outside."""
    elsewhere = lambda: (
        tree(place / "outside"),
        *(sorted(folder.iterdir()) for folder in (ROOT, place, place / "profiles")),
    )
    before = elsewhere()
    out, err, start = io.StringIO(), io.StringIO(), time.monotonic()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main(list(words))
        except SystemExit as asked_for_help:
            status = asked_for_help.code
            assert {"-h", "--help"} & {*words} or any(word.startswith(("-h", "--h")) for word in words)
    assert time.monotonic() - start < SECONDS, words
    said = err.getvalue()
    if status == 0:
        assert not said
    else:
        assert status == 2 and said.startswith("error: ") and said.endswith("\n"), (status, said)
        assert said[:-1].isprintable() and 15 < len(said) < 1200, said  # so it has no other line break
    assert elsewhere() == before
    return status, said


# Profiles


@st.composite
def mutated(draw):
    """The quick profile with some of its lines changed, gone, twice, or of another's making."""
    lines = QUICK.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        i = draw(st.integers(0, len(lines) - 1))
        name = lines[i].partition(":")[0]
        lines[i : i + 1] = draw(
            st.sampled_from([[], [lines[i]] * 2, ["\t" + lines[i]], [" " + lines[i]], [lines[i] + "\0"], [f"{name}: &a", "x: *a"]])
            | in_yaml.map(lambda value: [f"{name}: {value}"])
            | st.tuples(texts, in_yaml).map(lambda pair: [lines[i], f"{pair[0]}: {pair[1]}"])
        )  # fmt: skip
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    return "\n".join(lines).encode(encoding, errors="backslashreplace")


@look(150)
@given(
    content=mutated()
    | st.binary(max_size=60)
    | texts.map(lambda t: t.encode(errors="replace"))
    | in_yaml.map(str.encode)
)
@example(content=QUICK.encode("utf-8-sig"))
@example(content=b"a: b\n" * 30_000)
@example(content=b"\0" * 10)
@example(content=(QUICK + "\nepochs: 7\n").encode())
def test_any_profile_runs_or_gets_one_line(place, content):
    (place / "profiles" / "tiny.yaml").write_bytes(content)
    try:
        status, said = answer(place, "tiny")
    finally:
        (place / "profiles" / "tiny.yaml").write_text(QUICK)
    if content == QUICK.encode("utf-8-sig"):
        assert status == 0
    if content.endswith(b"\nepochs: 7\n"):
        assert "the key 'epochs' stands twice" in said


def test_what_is_no_profile_file_gets_one_line(place):
    profiles = place / "profiles"
    (profiles / "folder.yaml").mkdir(exist_ok=True)
    (profiles / "device.yaml").symlink_to("/dev/zero")
    (profiles / "nowhere.yaml").symlink_to(place / "nowhere")
    (profiles / "ring.yaml").symlink_to("ring.yaml")
    os.mkfifo(profiles / "pipe.yaml")
    try:
        for name in ("folder", "device", "nowhere", "ring", "pipe"):
            assert "there are" in answer(place, name)[1]
        assert "folder" not in answer(place, "absent")[1].partition("there are")[2]
    finally:
        for path in profiles.glob("*.yaml"):
            path.rmdir() if path.is_dir() else path.unlink() if path.name != "tiny.yaml" else None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_profile_that_may_not_be_read_gets_one_line(place):
    (place / "profiles" / "secret.yaml").write_text(QUICK)
    (place / "profiles" / "secret.yaml").chmod(0)
    assert "secret.yaml" in answer(place, "secret")[1]


# Parameters


@look(300)
@given(name=st.sampled_from(FIELDS), value=in_yaml | texts)
def test_any_value_of_any_parameter_runs_or_gets_one_line(place, name, value):
    answer(place, "tiny", "--set", f"{name}={value}")


@look(100)
@given(setting=texts | st.tuples(texts, texts).map("=".join))
def test_any_setting_runs_or_gets_one_line(place, setting):
    answer(place, "tiny", "--set", setting)


ARGUMENTS = ["img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "init_values",
             "class_token", "global_pool", "norm_layer", "act_layer", "block_fn", "drop_rate", "pos_embed", "weight_init"]  # fmt: skip


@look(150)
@given(
    name=st.sampled_from(ARGUMENTS),
    value=st.sampled_from(
        [0, -1, -8, 1, 3, 1.5, 32.5, 10**9, -(10**9), 99_999, 1e300, "32", "", None, True, [], [32], [32] * 3, {}]
    )
    | values,
)
@example(name="in_chans", value=None)
@example(name="qkv_bias", value={"": None, 0: None})
@example(name="img_size", value=None)
@example(name="img_size", value=99_999)
def test_any_argument_of_a_model_fits_or_gets_one_line(place, name, value):
    args = TINY | {name: value}
    answer(place, "tiny", "--set", "model_args=" + yaml.safe_dump(args, default_flow_style=True, width=10**6).strip())


@pytest.mark.parametrize(
    "setting, says",
    [
        ("model_args={depth: 1000000000}", "model_args must hold whole numbers of at most 100,000, but depth"),
        ("model_args={depth: 100000}", "make more than 10,000 tensors of weights"),
        ("model_args={embed_dim: 99999, depth: 1000}", "GB of weights"),
        ("model_args={img_size: 99999, patch_size: 1}", "GB of weights"),
        ("model_args={name: x}", "model_args must not hold name: it is the parameter model"),
        ("model_args={checkpoint: x}", "model_args must not hold checkpoint"),
        ("model_args={cache_dir: /tmp}", "model_args must not hold cache_dir"),
        ("model_args={pretrained_cfg_overlay: {file: x}}", "model_args must not hold pretrained_cfg_overlay"),
        ("model_args={1: 2}", "a key of model_args must be a text, not 1"),
        ("model_args={qkv_bias: {a: 1, 0: 2}}", "model_args must name values by texts, but qkv_bias has the key 0"),
        ("model_args={depth: 2024-01-01}", "model_args must hold plain values, but depth holds a date"),
        ("model_args={depth: [[[[[[[[[1]]]]]]]]]}", "depth holds what is nested too deep"),
        ("model=hf-hub:owner/name", "model: hf-hub:owner/name cannot be downloaded: nobody answers"),
        ("model=local-dir:/dev", "model: Config file not found"),
        ("prunable=(([a-z0-9._]|[a-z]|\\w)+)+#", "prunable: '(([a-z0-9._]|[a-z]|\\\\w)+)+#' takes more than 2 seconds"),
        ("prunable=a{4294967295}", "is no regular expression: the repetition number is too large"),
        ("prunable=" + 990 * "(", "is no regular expression"),
        ("prunable=" + 1001 * "a", "prunable must be at most 1000 characters long"),
        ("data_dir=README.md", "data_dir must be a folder, not 'README.md'"),
        ('data_dir="a\\0b"', r"data_dir must be a path, not 'a\x00b'"),
        ("data_dir=/dev/zero", "data_dir must be a folder, not '/dev/zero'"),
        ("device=cuda:" + 5000 * "9", "device must be auto, cpu, cuda or cuda:N"),
        ("compute_passes=[100000000]", "compute_passes[0] must be at most 100"),
        ("gradual_epochs=100000000", "gradual_epochs must be at most 1000000"),
        ("epochs=1000000000000", "epochs must be at most 1000000"),
        ("workers=-1", "workers must be at least 0"),
        ("epochs=0x" + 5000 * "f", "epochs must be at most 1000000, not a number of more than 4,300 digits"),
        ("profile=" + 101 * "a", "profile must be a plain name"),
        ("checkpoint=/dev/zero", "checkpoint must be an existing file, not '/dev/zero'"),
        ("checkpoint=/dev/stdin", "checkpoint must be an existing file, not '/dev/stdin'"),
        ("checkpoint=/proc/self/mem", "checkpoint must hold weights, and '/proc/self/mem' is empty"),
        ("checkpoint=notebooks", "checkpoint must be an existing file, not 'notebooks'"),
        ('checkpoint="a\\0b"', "checkpoint must be a path"),
        ("checkpoint=pyproject.toml", "checkpoint: checkpoint "),
    ],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_what_would_never_end_or_go_elsewhere_is_refused(place, setting, says):
    status, said = answer(place, "tiny", "--set", setting)
    assert status == 2 and says in said, said


def test_more_threads_than_cores_and_any_empty_folder_of_data_are_allowed(place):
    for setting in ("threads=1024", "workers=4096", 'data_dir=""', "data_dir=/proc", "data_dir=nowhere"):
        assert answer(place, "tiny", "--set", setting)[0] == 0, setting


@pytest.mark.parametrize("engine, package", [("ray", "ray"), ("dask", "distributed")])
def test_an_engine_that_is_not_installed_names_what_installs_it(place, monkeypatch, engine, package):
    known = checks.importlib.util.find_spec
    for there in (False, True):
        found = lambda name, *more: (object() if there else None) if name == package else known(name, *more)
        monkeypatch.setattr(checks.importlib.util, "find_spec", found)
        status, said = answer(place, "tiny", "--set", f"engine={engine}")
        assert status == (0 if there else 2)
        assert there or f"error: engine: {package} is not installed; pip install -e '.[{engine}]'" in said
    extras = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    assert f'\n{engine} = ["{package}' in extras


def test_an_expression_that_ends_is_taken(place):
    for expression in (r"mlp\.fc[12]\.weight$", r"mlp\.[[a-z]"):  # of the second Python warns
        assert answer(place, "tiny", "--set", f"prunable={expression}")[0] == 0


# Names

names = texts | st.sampled_from([
    "..", ".", "/", "//", "../outside/x", "/etc/passwd", "a/../../outside", "~", "-", "--", "-x", "--only", "--set", "CON", "nul",
    "/dev/null", "/dev/stdin", "tiny.yaml", "tiny/", "./tiny", "TINY", "a" * 101, "a" * 5000, "é" * 60, "Ⅷ", "٣", "ﬁ", "report",
    "plan", "--markdown", "--markdown=x", "-h",
])  # fmt: skip


@look(80)
@given(name=names)
def test_any_name_of_a_profile_runs_or_gets_one_line(place, name):
    if name != "plan":
        answer(place, name)
    answer(place, "tiny", "--only", name)


@look(80)
@given(name=names)
def test_any_name_of_a_report_gets_one_line(place, name):
    assert answer(place, "report", name)[0] == 2 or name.startswith(("-h", "--h"))


@look(80)
@given(name=names)
def test_any_name_to_write_under_is_refused_or_stays_inside(place, name):
    status, _ = answer(place, "tiny", "--set", f"profile={json.dumps(name)}")
    good = name.replace("-", "").replace("_", "").isalnum() and name[0] != "-" and len(name.encode()) <= 100
    assert (status == 0) == good
    if good:
        assert paths.runs(name).parent == place / "home" / "runs" and Store(name).path.is_file()


@pytest.mark.parametrize("name", ["..", "../../x", "a/b", "/etc", "", "-x", "a\nb", "\udcff"])
def test_no_folder_or_file_of_rows_has_a_name_that_is_none(place, name):
    for where in (paths.rows, Store) if not name else (paths.figures, paths.runs, paths.rows, Store):
        with pytest.raises(ValueError, match="must be a plain name"):
            where(name)


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff", b'{"failures": 3}', b"[" * 100_000, b""])
def test_exported_parameters_that_are_damaged_get_one_line(place, content):
    folder = paths.figures("quick")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.csv").write_bytes((ROOT / "figures" / "quick" / "results.csv").read_bytes())
    (folder / "no_weight_update.parameters.json").write_bytes(content)
    status, said = answer(place, "report", "quick")
    assert status == 2 and "no_weight_update.parameters.json is damaged" in said
    (folder / "no_weight_update.parameters.json").unlink()
    status, said = answer(place, "report", "quick")
    assert status == 2 and said.startswith(f"error: there is no {folder / 'no_weight_update.parameters.json'}")


# Links


def transfer():
    """Ablation B's parameters."""
    return registry.build(Transfer, yaml.safe_load(QUICK) | dict(profile="quick"))


def linked(path, to):
    """A link in the place of a path, whatever was there."""
    if path.is_dir() and not path.is_symlink():
        for part in sorted(path.rglob("*"), reverse=True):
            part.rmdir() if part.is_dir() and not part.is_symlink() else part.unlink()
        path.rmdir()
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(to)


@pytest.mark.parametrize("folder", ["results", "cache", "runs", "runs/tiny", "results/tiny.sqlite"])
def test_a_folder_or_file_of_rows_that_leads_out_is_refused_in_one_line(place, folder):
    path = place / "home" / folder
    linked(path, place / "outside" / ("new" if path.suffix else ""))
    try:
        status, said = answer(place, "tiny")
        assert (status == 2 and f"{path} is a link that leads to" in said) or f"{path}/" in said
        path.unlink()
        path.symlink_to(path)  # in a circle
        assert answer(place, "tiny")[0] == 2
    finally:
        path.unlink()


def test_a_link_that_stays_inside_is_followed(place, monkeypatch, tmp_path):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path / "home"))
    (tmp_path / "home" / "elsewhere").mkdir(parents=True)
    linked(tmp_path / "home" / "runs" / "tiny", tmp_path / "home" / "elsewhere")
    assert paths.runs("tiny").is_dir()


def write_everything(results, capsys):
    """All that writes, once: what a study, its pages, its report, the explorer and the benchmark leave behind."""
    mine = results["transfer"]
    model = tiny_model()
    store = Store("quick")
    store.remember("transfer", transfer(), World({"digits": "x"}, {0: "y"}))
    export.check_export("quick")
    export.export(replace(mine, config=transfer(), failures=()))
    per_image.write(paths.runs("quick") / per_image.FILE, mine.rows[:1], [Images(np.ones(9, bool))])
    export.export_table(mine.rows, "quick", "transfer")
    mine.figure("transfer")
    page = profiles.execute(ROOT / "notebooks" / "transfer.ipynb", dict(profile="quick"))
    report.write_html({"transfer": mine}, paths.runs("quick") / "report.html", "a page")
    report.write_markdown(results, paths.home() / "results.md", "a command")
    report.write_prints({"transfer": mine}, paths.runs("quick", "print"))
    assert page.is_file()
    path = paths.cache() / "dense.safetensors"
    with disk.locked(path, "trains"):
        images = [(torch.randn(4, 3, 32, 32), torch.arange(4))]
        training.train(model, images, 1, 1e-3, checkpoint=path.with_suffix(".resume.pt"))
        masks.save(model, path)
    x = object.__new__(Explorer)
    x.config, x.pattern, x.plans = transfer(), Pattern(), {}
    x.upstream = SimpleNamespace(data=SimpleNamespace(classes=["a"] * 10), model=model)
    x.damp = lambda method: None
    x.save("dense", 0.9)
    x.save_figure(Figure((1, 1)), "layers", 0.9)
    measuring.write([dict(B=64)], "scaling", torch.device("cpu"))
    machine.claim.cache_clear()
    machine.claim(1)
    machine._claims.pop().release()
    machine.claim.cache_clear()
    image = paths.home() / "image.png"
    if not image.is_file():
        Image.new("RGB", (8, 8)).save(image)
    os.utime(image, (1, 1))
    manifest.digests([image], lambda path, content: None, paths.cache())
    (paths.cache() / "damaged").mkdir(exist_ok=True)
    damaged = paths.cache() / "damaged" / manifest.FILE
    damaged.unlink(missing_ok=True)
    damaged.write_bytes(b"x" * 5000)
    manifest.digests([image], lambda path, content: None, damaged.parent)
    capsys.readouterr()


def test_a_file_that_is_a_link_is_replaced_and_never_written_through(place, monkeypatch, tmp_path, capsys):
    """All that writes runs twice: once to see which files there are, once with a link in the place of each of them."""
    home, canary = tmp_path / "home", tmp_path / "canary"
    monkeypatch.setenv("OVIT_STUDY_DIR", str(home))
    monkeypatch.setattr(machine, "gettempdir", lambda: str(home))
    for name in ("results.csv", "transfer.parameters.json", "no_weight_update.parameters.json"):
        disk.write(home / "runs" / "quick" / name, (ROOT / "figures" / "quick" / name).read_bytes())
    results = report.load("quick")
    write_everything(results, capsys)
    files = [path for path in home.rglob("*") if path.is_file() and path.name != "image.png"]
    rows = paths.rows("quick")
    assert rows in files and len(files) >= 30
    locks = {path.parent / f".{path.name}.lock" for path in files} | {p.with_name(p.name + ".lock") for p in files}
    partials = {p.with_name(f".{p.name}.{disk.HOST}.{os.getpid()}{disk.PARTIAL}") for p in files}
    canary.write_text("sings")
    for path in {*files, *locks, *partials} - {rows}:
        # Beside other settings the explorer takes another name, and a manifest that is none is set aside.
        fresh = (path.parent.name == "explore" and path.suffix == ".json") or path.name == manifest.FILE
        linked(path, tmp_path / "nothing" if fresh else canary)
    rows.unlink()
    for ending in ("-wal", "-shm", "-journal"):
        linked(Path(f"{rows}{ending}"), canary)
    with pytest.raises(OSError, match=r"cannot write .*quick\.sqlite"):  # SQLite itself follows no link here
        Store("quick")
    for ending in ("-wal", "-shm", "-journal"):
        Path(f"{rows}{ending}").unlink(missing_ok=True)
    write_everything(results, capsys)
    assert canary.read_text() == "sings" and not (tmp_path / "nothing").exists()
    kept = {
        path.name for path in files if path.is_symlink()
    }  # nobody wrote those: set aside before, of the other ablation
    assert kept == {"manifest.sqlite.damaged-1", "no_weight_update.parameters.json"}


WRITES = {"write_text", "write_bytes", "savefig", "save_file", "to_csv", "to_json", "to_excel", "to_parquet", "to_pickle", "dump",
          "savez", "savez_compressed", "tofile", "copy", "copyfile", "copytree", "touch", "symlink_to", "write_html", "from_file"}  # fmt: skip
TO_A_FRESH_PLACE = {
    ("study/report.py", "savefig"), # a folder made anew
    ("disk.py", "open"),  # behind what removes links
    ("checkpoints.py", "save_file"), ("study/unit.py", "write_bytes"), ("layer.py", "from_file"),  # temporary folders
    ("explorer/paper.py", "savefig"), ("training.py", "save"),  # memory
    ("study/export.py", "to_csv"), ("study/publish.py", "to_csv"),  # texts, which `disk.write` is given
    ("progress.py", "open"),  # a terminal
    ("study/__main__.py", "write_html"),
}  # fmt: skip


def calls():
    """Every call in the package: the file, the name of what is called, what stands before the dot, the call."""
    for path in sorted((ROOT / "ovit_core").rglob("*.py")):
        code = ast.parse(path.read_text())
        writing = {
            id(inner)
            for block in ast.walk(code)
            if isinstance(block, ast.With)
            and any("disk.writing" in ast.unparse(item.context_expr) for item in block.items)
            for inner in ast.walk(block)
        }
        for node in ast.walk(code):
            if isinstance(node, ast.Call):
                before, _, name = ast.unparse(node.func).rpartition(".")
                yield path.relative_to(ROOT / "ovit_core").as_posix(), name, before, node, id(node) in writing


def test_every_file_is_written_by_what_replaces_links():
    found = set()
    for file, name, before, node, safe in calls():
        mode = ast.unparse(node).partition("(")[2]
        opens = name == "open" and any(f"'{m}" in mode for m in ("w", "a", "x", "r+")) and before != "Image"
        writes = name in WRITES or opens or (name == "save" and before in ("torch", "np", "image"))
        reads_or_copies = before in ("json", "ast", "safetensors") or (name in ("copy", "dump") and before != "shutil")
        if writes and not safe and not reads_or_copies:
            found.add((file, name))
    assert found == TO_A_FRESH_PLACE


# Weights


def canary_of(folder):
    """A pickle that writes a file where it is unpickled by something that trusts it."""

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(folder / "hatched"),)

    return Payload()


def looping():
    state = {}
    state["model"] = state
    return state


def pickled(value):
    torch.save(value, file := io.BytesIO())
    return file.getvalue()


def liar(shape, header=None, offsets=(0, 8)):
    """A safetensors file of two numbers that says it holds others."""
    text = json.dumps({"head.weight": dict(dtype="F32", shape=shape, data_offsets=offsets)}).encode()
    return struct.pack("<Q", len(text) if header is None else header) + text + bytes(8)


WHOLE = pickled(dict(tiny_model().state_dict()))
WEIGHTS = {
    "empty.pt": b"",
    "text.pt": b"weights",
    "zeros.pt": bytes(1000),
    "zip.pt": WHOLE[: len(WHOLE) // 2],
    "hole.pt": WHOLE[:2000] + bytes(1000) + WHOLE[3000:],
    "list.pt": pickled([1, 2]),
    "number.pt": pickled(torch.ones(())),
    "names.pt": pickled({1: torch.ones(2), None: torch.ones(2), (1, 2): 3}),
    "loop.pt": pickled(looping()),
    "expanded.pt": pickled({"head.weight": torch.ones(1).expand(10**12)}),
    "sparse.pt": pickled({"head.weight": torch.eye(3).to_sparse()}),
    "meta.pt": pickled({"head.weight": torch.ones(3, device="meta")}),
    "query.pt": pickled({"vit.encoder.layer.0.attention.attention.query.weight": torch.ones(2, 2)}),
    "shapes.pt": pickled({f"encoder.layer.0.attention.attention.{p}.weight": torch.ones(i, i) for i, p in enumerate(("query", "key", "value"), 1)}),
    "old.pt": pickle.dumps({"head.weight": 1}),
    "empty.safetensors": b"",
    "long.safetensors": liar([2], header=2**62),
    "longer.safetensors": liar([2], header=2**64 - 1),
    "short.safetensors": liar([2], header=5),
    "large.safetensors": liar([10**12]),
    "outside.safetensors": liar([2], offsets=(10**9, 10**9 + 8)),
    "backwards.safetensors": liar([2], offsets=(8, 0)),
    "pickle.safetensors": WHOLE,
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_checkpoint_that_is_none_gets_one_line(place, tmp_path, name):
    (tmp_path / name).write_bytes(WEIGHTS[name])
    status, said = answer(place, "tiny", "--set", f"checkpoint={tmp_path / name}")
    assert status == 2 and said.startswith("error: checkpoint") and name in said, said


def test_a_checkpoint_of_another_model_is_refused_before_any_work(place, tmp_path):
    (tmp_path / "other.pt").write_bytes(WHOLE)
    status, said = answer(place, "tiny", "--set", f"checkpoint={tmp_path / 'other.pt'}")
    assert status == 2 and "other.pt does not fit vit_tiny_patch16_224" in said
    assert answer(place, "tiny", "--set", f"checkpoint={tmp_path / 'other.pt'}", "--set", f"model_args={TINY}")[0] == 0


def test_a_number_for_a_head_is_no_head(place, tmp_path):
    torch.save({"head.weight": torch.ones(()), "other": torch.ones(2)}, tmp_path / "a.pt")
    assert checkpoints.classes("vit_tiny_patch16_224", tmp_path / "a.pt") == 0


@look(150)
@given(
    content=st.binary(max_size=80),
    at=st.integers(0, len(WHOLE)),
    kind=st.sampled_from(["a.pt", "a.safetensors", "b.pt", "c.pt"]),
)
def test_any_file_of_weights_is_read_or_is_one_error(tmp_path, content, at, kind):
    whole = WHOLE if kind == "b.pt" else pickle.dumps({"a": [1, 2.0, "x", {"b": None}]}) if kind == "c.pt" else b""
    (tmp_path / kind).write_bytes(whole[:at] + content + whole[at + len(content) :])
    try:
        assert all(torch.is_tensor(tensor) for tensor in checkpoints.read(tmp_path / kind).values())
    except ValueError as error:
        assert kind in str(error) and str(error).isprintable()


@pytest.mark.parametrize("protocol", [None, 0, 2, 4])
def test_what_a_checkpoint_would_run_is_not_run(place, tmp_path, protocol):
    file, evil = tmp_path / "evil.pt", {"head.weight": torch.ones(2), "x": canary_of(tmp_path)}
    torch.save(evil, file) if protocol is None else file.write_bytes(pickle.dumps(canary_of(tmp_path), protocol))
    status, said = answer(place, "tiny", "--set", f"checkpoint={file}")
    assert status == 2 and "evil.pt" in said and (protocol == 4 or "holds more than tensors" in said)
    assert not (tmp_path / "hatched").exists()
    torch.load(file, weights_only=False) if protocol is None else pickle.loads(file.read_bytes())
    assert (tmp_path / "hatched").exists()  # it would have


def test_what_a_resume_file_would_run_is_not_run_and_the_file_set_aside(tmp_path, caplog):
    file = tmp_path / "dense.resume.pt"
    torch.save(dict(model={}, optimizer={}, epoch=1, x=canary_of(tmp_path)), file)
    images = [(torch.randn(4, 3, 32, 32), torch.arange(4))]
    training.train(tiny_model(), images, 1, 1e-3, checkpoint=file)
    assert not (tmp_path / "hatched").exists() and "set aside as dense.resume.pt.damaged-1" in caplog.text
    assert torch.load(file, weights_only=True)["epoch"] == 1 and (tmp_path / "dense.resume.pt.damaged-1").is_file()


def test_a_pipe_or_a_device_in_the_cache_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.resume.pt")
    (tmp_path / "zero.resume.pt").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        assert training.epochs_done(tmp_path / f"{name}.resume.pt") == 0
        assert dense._cached(transfer(), SimpleNamespace(classes=[1]), 0, tmp_path / f"{name}.resume.pt") is None


def test_nothing_in_the_package_unpickles_evaluates_or_unpacks_what_it_is_given():
    seen = []
    for file, name, before, node, _ in calls():
        options = {option.arg: ast.unparse(option.value) for option in node.keywords}
        where = f"{file}:{node.lineno}: {ast.unparse(node)[:80]}"
        if before == "torch" and name == "load":
            seen.append(file)
            assert options.get("weights_only") == "True", where
        if before in ("torch.serialization", "serialization") or name in ("safe_globals", "add_safe_globals"):
            assert file == "checkpoints.py" and ast.unparse(node.args[0]) == "[argparse.Namespace]", where
        assert before not in ("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml.loader"), where
        assert not (before == "yaml" and name.endswith(("load", "load_all")) and name != "safe_load"), where
        assert not (before in ("np", "numpy") and name in ("loadtxt", "fromfile", "genfromtxt")), where
        assert not (before in ("np", "numpy") and name == "load") or options.get("allow_pickle") == "False", where
        assert not (before in ("pd", "pandas") and name in ("read_pickle", "read_hdf")), where
        assert not (not before and name in ("eval", "exec", "compile", "__import__")), where
        assert name not in ("unpack_archive", "system", "popen") and options.get("shell") != "True", where
        assert not (before and name == "extract"), where  # a method of archives; our own function reads features
        assert name != "extractall" or file == "data/archives.py", where
    assert sorted(seen) == ["checkpoints.py", "training.py"]
    assert issubclass(parameters._Loader, yaml.SafeLoader)
    imports = [p for p in (ROOT / "ovit_core").rglob("*.py") if "import pickle" in p.read_text()]
    assert [p.name for p in imports] == ["checkpoints.py"]  # for the name of its error


# Folders of images


def picture(kind, width, height, mode):
    """The bytes of a picture, or of what has a picture's name."""
    file = io.BytesIO()
    if kind in ("png", "jpg", "cut"):
        pixels = np.arange(width * height * 3).reshape(height, width, 3) % 251
        image = Image.fromarray(pixels.astype(np.uint8))
        image = Image.fromarray((pixels[:, :, 0] * 200).astype(np.uint16)) if mode == "16" else image.convert(mode)
        image.save(
            file, "jpeg" if kind == "jpg" and mode in ("RGB", "L", "CMYK") else "png" if mode != "CMYK" else "jpeg"
        )
    content = file.getvalue()
    return {"cut": content[: len(content) * 2 // 3], "text": b"no picture", "empty": b""}.get(kind, content)


sizes = st.sampled_from([1, 2, 7, 33, 64, 100])
pictures = st.builds(
    picture, st.sampled_from(["png"] * 8 + ["jpg"] * 4 + ["cut", "text", "empty"]), sizes | st.just(3000), sizes,
    st.sampled_from(["RGB", "L", "P", "1", "RGBA", "LA", "CMYK", "16"]),
)  # fmt: skip
good = st.builds(picture, st.just("png"), sizes, sizes, st.sampled_from(["RGB", "L", "P", "16"]))
endings = st.sampled_from([".png"] * 6 + [".jpg", ".PNG", ".txt", "", ".gif\n"])
stems = st.sampled_from(
    ["a", "b", "c", "d", ".hidden", "line\nbreak", "quo'te\"", "x" * 200, "caf\udce9", "-", "~", "$(x)", " ", "é", "%s"]
)
class_names = st.sampled_from(
    ["cat", "dog", "fox", "cow", "owl", "Cat", "line\nbreak", "quo'te\"", "caf\udce9", ".git", " ", "x" * 200]
)
folders = st.dictionaries(st.tuples(stems, endings).map("".join), good | good | pictures, max_size=5)
trees = st.dictionaries(class_names, st.tuples(folders, folders), min_size=1, max_size=4)
extras = st.lists(
    st.sampled_from(["nested", "link", "ring", "nowhere", "device", "pipe", "proc", "file", "missing", "val"]),
    max_size=3,
)


def lay_out(root, classes, extras):
    for part in (0, 1):
        for name, both in classes.items():
            folder = root / ("train", "test")[part] / name
            folder.mkdir(parents=True)
            for file, content in both[part].items():
                (folder / file).write_bytes(content)
    first = root / "train" / next(iter(classes))
    for extra in dict.fromkeys(extras):
        if extra == "nested":
            (first / "more\nstill").mkdir()
            (first / "more\nstill" / "a.png").write_bytes(picture("png", 9, 9, "RGB"))
        elif extra in ("link", "ring", "nowhere", "device", "proc"):
            to = dict(
                link=root / "test", ring="ring.png", nowhere="/nowhere", device="/dev/zero", proc="/proc/self/environ"
            )[extra]
            (first / f"{extra}.png").symlink_to(to)
        elif extra == "pipe":
            os.mkfifo(first / "pipe.png")
        elif extra == "file":
            (root / "train" / "beside.png").write_bytes(b"")
        elif extra == "missing" and (root / "test").exists():
            (root / "test").rename(root / "gone")
        elif extra == "val" and (root / "test").exists():
            (root / "test").rename(root / "val")


@look(250)
@given(
    classes=trees,
    extras=extras,
    channels=st.sampled_from([1, 3]),
    side=st.sampled_from([32, 80]),
    name=st.sampled_from(["x", "li\nne"]),
)
def test_any_folder_of_images_is_read_or_is_one_error(tmp_path_factory, classes, extras, channels, side, name):
    data_dir = tmp_path_factory.mktemp("data")
    lay_out(data_dir / name, classes, extras)
    config = dict(input_size=(channels, side, side), mean=(0.5,) * channels, std=(0.5,) * channels)
    before = tree(data_dir) if "device" not in extras else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about files that are refused or not
            data = loading.load(f"folder:{name}", data_dir, config, cache=data_dir / ".cache")
            for part in (data.train, data.val, data.test):
                for i in range(len(part)):
                    image = part.at(i) if hasattr(part, "at") else part[i][0]
                    assert image.shape == (channels, side, side)
            assert set(data.labels("train")) <= set(range(len(data.classes))) and len(data.val) and len(data.test)
    except (ValueError, FileNotFoundError) as error:
        said = str(error)
        assert said.isprintable(), said
        shown = name.replace("\n", "\\n")
        assert f"folder:{shown}" in said or f"{data_dir}/{shown}" in said, said
    if before is not None:
        assert {path: content for path, content in tree(data_dir).items() if ".cache" not in path.parts} == before


def test_files_and_classes_that_rows_or_a_reader_could_not_bear_are_named_in_one_line(tmp_path):
    content = picture("png", 20, 20, "L")
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "x" / part / name).mkdir(parents=True)
            for i in range(2):
                (tmp_path / "x" / part / name / f"{i}.png").write_bytes(content)
    odd = tmp_path / "x" / "train" / "a" / "line\nbreak.png"
    for lay, says in (
        (lambda: odd.write_bytes(b""), r"line\nbreak.png: it is empty"),
        (lambda: odd.symlink_to("/proc/self/environ"), r"line\nbreak.png: it is empty"),  # or so it says
        (lambda: odd.write_bytes(content[:-30]), r"cannot read image {}/x/train/a/line\nbreak.png: "),
        (lambda: odd.write_bytes(b"text"), r"cannot read image {}/x/train/a/line\nbreak.png: "),
        (
            lambda: [(tmp_path / "x" / p / "caf\udce9").mkdir() for p in ("train", "test")],
            r"caf\udce9: rows carry the names of classes",
        ),
    ):
        lay()
        with pytest.raises(ValueError) as caught:
            loading.load("folder:x", tmp_path)
        assert says.format(tmp_path) in str(caught.value) and str(caught.value).isprintable()
        odd.unlink(missing_ok=True)


def test_a_strip_is_refused_before_it_fills_the_memory(tmp_path):
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "x" / part / name).mkdir(parents=True)
            for i in range(2):
                (tmp_path / "x" / part / name / f"{i}.png").write_bytes(picture("png", 20, 20, "L"))
    Image.new("L", (30_000, 2)).save(tmp_path / "x" / "train" / "a" / "strip.png")
    with pytest.raises(ValueError, match=r"strip\.png: it has 30000 x 2 pixels: one side is over 1000 times the other"):
        loading.load("folder:x", tmp_path)
    Image.new("L", (2000, 2)).save(tmp_path / "x" / "train" / "a" / "strip.png")
    assert len(loading.load("folder:x", tmp_path).test) == 4
