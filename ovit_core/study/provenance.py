"""Where a number comes from: the code that made it, the commit, the device, the libraries."""

import ast
import hashlib
import json
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ovit_core.study.paths import ROOT

# The pruner as a set: every kernel counts, also those that another machine would use.
PRUNER = (
    "ovit_core.fisher", "ovit_core.inputs", "ovit_core.curvature", "ovit_core.elimination", "ovit_core.kernels",
    "ovit_core.pattern", "ovit_core.methods", "ovit_core.rows", "ovit_core.layer", "ovit_core.plan",
    "ovit_core.sequential", "ovit_core.pruning", "ovit_core.masks", "ovit_core.checkpoints", "ovit_core.models",
    "ovit_core.training",
)  # fmt: skip
# What turns stored images into what a model sees.
DATA = (
    "ovit_core.data.batches", "ovit_core.data.files", "ovit_core.data.decoded", "ovit_core.data.loading",
    "ovit_core.data.listing",
)  # fmt: skip
# What prunes copies of a dense model.
STUDY = (*PRUNER, *DATA, "ovit_core.study.surgeon", "ovit_core.study.measure", "ovit_core.study.calibration")
SPEAKS = {"print", "warn", "warning", "info", "debug"}  # functions whose arguments are messages


def digest(*parts: Any) -> str:
    """A short hash of anything JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


# Read as this module is, right at the start: a file edited during a long run is not taken for the code that runs.
_TEXTS = {path: path.read_text() for path in sorted((ROOT / "ovit_core").rglob("*.py"))}


@cache
def code(*modules: str) -> str:
    """A hash of the code of modules and packages, so that numbers are never mistaken for those of other code.

    Files are read, not imported. Imports, comments, docstrings, annotations of arguments and of what functions return, the
    wording of messages and what is refused (`ovit_core.refuse`) do not count; nor do methods that were added, which change
    no number of the others (`added`).
    """
    return digest([[name, [_normal_of(path) for path in _files(name)]] for name in sorted(set(modules))])


def _normal_of(path: Path) -> str:
    """`normal` of a file of the package; of the table of methods without those that were added."""
    text = _TEXTS.get(path) or path.read_text()
    if path.stem != "methods":
        return normal(text)
    tree = ast.parse(text)
    tree.body = [statement for statement in tree.body if not _adds_methods(statement)]
    return normal(tree)


def _files(module: str) -> list[Path]:
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None, module  # a name in the lists above is misspelt
    path = Path(spec.origin)
    return sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]


def normal(text: str | ast.Module) -> str:
    """Python code as far as it makes numbers: the tree of it, without what changes none."""
    tree = ast.parse(text) if isinstance(text, str) else text
    for node in ast.walk(tree):
        for field, parts in ast.iter_fields(node):
            if isinstance(parts, list):
                setattr(node, field, [part for part in parts if not _silent(part)])
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.Raise):
            node.exc = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            node.cause = None
        elif isinstance(node, ast.Call):
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "desc"]  # of progress bars
            if getattr(node.func, "id", getattr(node.func, "attr", "")) in SPEAKS:
                node.args, node.keywords = [], []
    return ast.dump(tree)


def _silent(part: object) -> bool:
    """Whether it is an import, a docstring, or a statement that refuses."""
    if isinstance(part, ast.Expr):
        return isinstance(part.value, ast.Constant) or _refuses(part.value)
    return isinstance(part, ast.Import | ast.ImportFrom)


def _refuses(call: ast.expr) -> bool:
    """Whether it is `refuse.NAME(...)` of values that are there: whatever else it calls could do something."""
    if not (isinstance(call, ast.Call) and ast.unparse(call.func).startswith("refuse.")):
        return False
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    calls = [node for value in given for node in ast.walk(value) if isinstance(node, ast.Call | ast.NamedExpr)]
    return all(isinstance(node, ast.Call) and ast.unparse(node.func) == "dict" for node in calls)


def _adds_methods(part: ast.stmt) -> bool:
    """Whether it is a statement `METHODS |= {"NAME": ...}`; any other one is code like all else."""
    if not (isinstance(part, ast.AugAssign) and isinstance(part.op, ast.BitOr) and isinstance(part.value, ast.Dict)):
        return False
    names = all(isinstance(key, ast.Constant) and isinstance(key.value, str) for key in part.value.keys)
    return names and isinstance(part.target, ast.Name) and part.target.id == "METHODS"


@cache
def added() -> dict[str, str]:
    """name -> code of the methods that statements `METHODS |= {"NAME": Method(...)}` of `ovit_core.methods` have added to its
    table: their rows are known by that, and all others stay what they were.
    """
    (path,) = _files("ovit_core.methods")
    found = {}
    for node in ast.parse(_TEXTS.get(path) or path.read_text()).body:
        if isinstance(node, ast.AugAssign) and isinstance(node.value, ast.Dict) and _adds_methods(node):
            found |= {ast.literal_eval(k): ast.dump(v) for k, v in zip(node.value.keys, node.value.values) if k}
    return found


def guard(*modules: str) -> str:
    """A hash of the code of modules and of all methods: two processes that have another one are not of one study."""
    return digest(code(*modules), added())


@cache  # of the code that was loaded: git is not asked again for each of many rows
def commit() -> str:
    """The repository's commit, with "+" if files differ from it; "unknown" outside git."""

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)

    head = git("rev-parse", "--short=10", "HEAD")
    if head.returncode:
        return "unknown"
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "ovit_core", "notebooks").stdout.strip()
    return head.stdout.strip() + ("+" if changed else "")


def device_name(device: str) -> str:
    """The accelerator's name, or the processor's with its thread count, of a `device` as in the parameters."""
    import torch

    from ovit_core import models

    if (chosen := models.pick_device(device)).type == "cuda":
        return torch.cuda.get_device_name(chosen)
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    count = torch.get_num_threads()
    return f"{names[0] if names else 'cpu'}, {count} thread{'s' * (count > 1)}"


def versions() -> str:
    """The libraries that numbers depend on."""
    return " ".join(f"{p}={version(p)}" for p in ("torch", "timm", "numba", "scikit-learn"))


def distinct(values: Iterable[Any]) -> str:
    """What there is in a column of rows, each once, in a line."""
    return ", ".join(sorted({str(value) for value in values} - {""}))
