"""Which changes of the code orphan rows: those that change numbers, in whichever kernel, and no others."""

import ast
import shutil
import sys

import pytest

from ovit_core.study import provenance
from ovit_core.study.paths import ROOT


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """The hash of the pruner's code after `old` was replaced by `new` in a file of a copy of it."""
    shutil.copytree(ROOT / "ovit_core", tmp_path / "copied_core", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.syspath_prepend(tmp_path)
    pruner = [name.replace("ovit_core", "copied_core") for name in provenance.PRUNER]

    def code(file="", old="", new=""):
        path = tmp_path / "copied_core" / file
        if file:
            text = path.read_text()
            assert old in text
            path.write_text(text.replace(old, new, 1))
        provenance.code.cache_clear()  # as in a new process
        return provenance.code(*pruner)

    yield code
    for name in [n for n in sys.modules if n.startswith("copied_core")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "file, old, new",
    [
        ("kernels/gpu.py", "ROWS = 16", "ROWS = 8"),
        ("kernels/gpu.py", "root = tl.sqrt(pivot)", "root = tl.sqrt(pivot + 0)"),
        ("kernels/__init__.py", "LOST = 1e-4", "LOST = 1e-3"),
        ("methods.py", '"fisher": 1e-8', '"fisher": 1e-7'),
        ("fisher.py", "WORK = 2**23", "WORK = 2**22"),
        ("curvature.py", "refuse.no_scalar(loss)", "refuse.no_scalar(loss.mul_(2))"),
        ("curvature.py", "refuse.no_scalar(loss)", "loss = refuse.no_scalar(loss)"),
    ],
)
def test_a_changed_kernel_or_constant_orphans_rows(edited, file, old, new):
    before = edited()
    assert edited(file, old, new) != before


@pytest.mark.parametrize(
    "file, old, new",
    [
        ("pruning.py", "is too little:", "does not suffice:"),
        ("elimination.py", "elimination falls back to", "the elimination falls back to"),
        ("kernels/cpu.py", "# 3. Remove it.", "# Gone."),
        ("plan.py", '"""A point of a method\'s curve.', '"""A point of the curve of a method.'),
        ("curvature.py", "import torch\n", "import torch\nimport math\n"),
        ("curvature.py", 'desc="images for curvature"', 'desc="batches"'),
        ("masks.py", "def sparsity(model: nn.Module) -> float:", "def sparsity(model):"),
        ("masks.py", 'SUFFIX = "_mask"', 'SUFFIX = "_mask"  # of the buffer'),
        ("curvature.py", "refuse.no_scalar(loss)", "refuse.no_number('loss', loss)"),
        ("pattern.py", 'refuse.no_number("sparsity", sparsity)', ""),
    ],
)
def test_imports_comments_docstrings_annotations_and_messages_do_not(edited, file, old, new):
    before = edited()
    assert edited(file, old, new) == before


def test_a_new_kernel_counts(edited, tmp_path):
    before = edited()
    (tmp_path / "copied_core" / "kernels" / "new.py").write_text("X = 1\n")
    assert edited() != before


def test_functions_that_refuse_only_read():
    """Why statements `refuse.NAME(...)` are no code that rows are known by."""
    body = ast.parse((ROOT / "ovit_core" / "refuse.py").read_text()).body
    public = [part for part in body if isinstance(part, ast.FunctionDef) and not part.name.startswith("_")]
    assert len(public) > 3
    for node in (node for part in public for node in ast.walk(part)):
        assert not isinstance(node, ast.Return | ast.Global | ast.Nonlocal | ast.Delete | ast.Yield | ast.With), (
            ast.dump(node)
        )
        for target in node.targets if isinstance(node, ast.Assign) else []:
            assert isinstance(target, ast.Name), ast.unparse(node)  # a local name, nothing of what was given
        if isinstance(node, ast.Attribute):
            assert not node.attr.endswith("_") or node.attr == "__name__", ast.unparse(
                node
            )  # torch's way of changing in place
