"""What a machine may lack or a user may have set: precision, writable folders, compilers, threads."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from ovit_core import elimination
from ovit_core.elimination import eliminate
from ovit_core.fisher import BlockFisher, ieee_float32
from ovit_core.study import dense
from ovit_core.study.paths import ROOT


@pytest.mark.parametrize("setting", ["new", "old", "none"])
def test_the_users_precision_is_left_as_it_was(setting):
    matmul = torch.backends.cuda.matmul
    if setting == "new":
        matmul.fp32_precision = "tf32"
    elif setting == "old":
        torch.set_float32_matmul_precision("high")
    try:
        before = matmul.fp32_precision
        with ieee_float32():
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == before
        fisher = BlockFisher({"w": (2, 8)}, 8)
        fisher.add({"w": torch.ones(2, 8)})
        eliminate(torch.ones(2, 8), fisher.inverse("w"))
    finally:
        torch.set_float32_matmul_precision("highest")
        matmul.fp32_precision = "none"


@pytest.mark.notebook
def test_nowhere_to_keep_compiled_code():
    """A package and a home that cannot be written to."""
    code = """
import numba, torch
from numba.core import caching
def nowhere(*_, **__): raise RuntimeError("cannot cache function: no locator available")
caching.FunctionCache.__init__ = nowhere
from ovit_core.elimination import eliminate
e = eliminate(torch.randn(4, 8), torch.eye(8).repeat(4, 1, 1), backend="cpu")
print("eliminated", e.order.shape[0])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "eliminated 4" in found.stdout, found.stderr[-1500:]
    assert "compiled code cannot be kept on disk here" in found.stderr


def test_no_compiler_for_triton(monkeypatch, caplog):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(elimination.shutil, "which", lambda name: None)
    assert elimination.choose_backend("auto", torch.device("cuda"), 64) == "reference"
    assert "there is none (CC, cc, gcc, clang)" in caplog.text


def test_two_threads_eliminate_at_once():
    g = torch.Generator().manual_seed(0)
    weights, H = torch.randn(64, 32, generator=g), torch.eye(32).repeat(64, 1, 1)
    wanted, found = eliminate(weights, H.clone(), backend="cpu"), []
    work = lambda: found.append(eliminate(weights, H.clone(), backend="cpu"))
    threads = [threading.Thread(target=work) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(found) == 4 and all(torch.equal(e.order, wanted.order) for e in found)


def test_no_more_threads_than_cores_allowed(monkeypatch):
    threads = []
    monkeypatch.setattr(dense, "cpu_count", lambda: 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: threads.append(n) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dense.upstream(None, 0)
    assert threads == [3]


@pytest.mark.notebook
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_no_more_workers_than_cores_allowed():
    code = "import os; os.sched_setaffinity(0, {0}); from ovit_core.data import batches; print(batches.WORKERS)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert found.stdout.strip() == "1", found.stderr[-1500:]
