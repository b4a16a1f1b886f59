"""What a machine may lack or a user may have set: precision, writable folders, compilers, threads."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from conftest import quick

from ovit_core import elimination
from ovit_core.ablations.transfer.parameters import Transfer
from ovit_core.elimination import eliminate
from ovit_core.fisher import BlockFisher, ieee_float32
from ovit_core.study import machine, workers
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
from ovit_core.ablations.transfer.parameters import Transfer
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


@pytest.mark.parametrize(
    ("cores", "gpus", "wanted", "calls", "count"),
    [(8, 0, 0, 100, 4), (8, 0, 3, 100, 3), (8, 0, 0, 2, 2), (1, 0, 0, 5, 1), (8, 2, 0, 100, 2), (8, 2, 0, 1, 1)],
)
def test_as_many_workers_as_cores_or_gpus(monkeypatch, cores, gpus, wanted, calls, count):
    monkeypatch.setattr(machine, "cores", lambda: cores)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert workers.count(quick(Transfer, f"workers={wanted}", "threads=2"), calls) == count


def test_threads_are_those_asked_for_and_as_before_afterwards():
    before = torch.get_num_threads()
    with machine.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_each_process_claims_a_gpu_of_its_own(tmp_path):
    code = """
import sys; from ovit_core.study import machine
print(machine.claim(2), flush=True); sys.stdin.read()
"""
    start = lambda: subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True, cwd=ROOT,
                                     env=os.environ | {"TMPDIR": str(tmp_path)})  # fmt: skip
    processes = [start()]
    claims = [processes[0].stdout.readline()]
    processes.append(start())
    claims.append(processes[1].stdout.readline())
    processes[0].kill()  # its claim goes with it
    processes[0].wait()
    processes.append(start())
    claims.append(processes[2].stdout.readline())
    for process in processes:
        process.kill()
        process.communicate()
    assert [int(claim) for claim in claims] == [0, 1, 0]


@pytest.mark.notebook
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_no_more_workers_than_cores_allowed():
    code = "import os; os.sched_setaffinity(0, {0}); from ovit_core.data import batches; print(batches.WORKERS)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert found.stdout.strip() == "1", found.stderr[-1500:]
