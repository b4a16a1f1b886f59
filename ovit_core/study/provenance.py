"""Where a number comes from: the code that made it, the commit, the device, the libraries."""

import ast
import hashlib
import json
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ovit_core.study.paths import ROOT

# The pruner as a set: every kernel counts, also those that another machine would use.
PRUNER = (
    "ovit_core.fisher", "ovit_core.inputs", "ovit_core.curvature", "ovit_core.elimination", "ovit_core.kernels",
    "ovit_core.pattern", "ovit_core.methods", "ovit_core.plan", "ovit_core.pruning", "ovit_core.masks",
    "ovit_core.models", "ovit_core.training",
)  # fmt: skip
# What turns stored images into what a model sees.
DATA = ("ovit_core.data.batches", "ovit_core.data.files", "ovit_core.data.loading", "ovit_core.data.listing")
# What prunes copies of a dense model.
STUDY = (*PRUNER, *DATA, "ovit_core.study.surgeon")
SPEAKS = {"print", "warn", "warning", "info", "debug"}  # functions whose arguments are messages


def digest(*parts: Any) -> str:
    """A short hash of anything JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def code(*modules: str) -> str:
    """A hash of the code of modules and packages, so that numbers are never mistaken for those of other code.

    Files are read, not imported. Imports, comments, docstrings, annotations and the wording of messages do not count.
    """
    return digest([[name, [normal(path.read_text()) for path in _files(name)]] for name in sorted(set(modules))])


def _files(module: str) -> list[Path]:
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None, module  # a name in the lists above is misspelt
    path = Path(spec.origin)
    return sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]


def normal(text: str) -> str:
    """Python code as far as it makes numbers."""
    return ast.dump(_Numbers().visit(ast.parse(text)))


class _Numbers(ast.NodeTransformer):
    """Leaves out what changes no number."""

    def visit_Import(self, node: ast.AST) -> None:
        return None

    visit_ImportFrom = visit_Import

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)  # docstrings

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return ast.Raise(exc=kind, cause=None)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        node.keywords = [keyword for keyword in node.keywords if keyword.arg != "desc"]  # of progress bars
        if called in SPEAKS:
            node.args, node.keywords = [], []
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)


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
    """The accelerator's name, or the processor's with its thread count.

    Args:
        device: as in the parameters, `auto` included.
    """
    import torch

    from ovit_core import models

    if (chosen := models.pick_device(device)).type == "cuda":
        return torch.cuda.get_device_name(chosen)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'cpu'}, {torch.get_num_threads()} threads"


def versions() -> str:
    """The libraries that numbers depend on."""
    return " ".join(f"{p}={version(p)}" for p in ("torch", "timm", "numba", "scikit-learn"))
