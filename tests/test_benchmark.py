"""The benchmarks: both forms compute the same, the acceptance run accepts what is right only, tables are written."""

import math
import os
import subprocess
import sys
from unittest.mock import patch

import pandas as pd
import pytest
import torch

from ovit_core.benchmark import __main__ as benchmark
from ovit_core.benchmark import agreement
from ovit_core.benchmark.measuring import fastest, problem
from ovit_core.benchmark.side_by_side import fisher_of, plain_inverse
from ovit_core.study.paths import ROOT

ACCEPT = ["--device", "cpu", "--accept"]


def test_benchmark_runs_and_both_forms_agree(tmp_path, capsys):
    with patch.dict(os.environ, OVIT_STUDY_DIR=str(tmp_path)):
        assert benchmark.main(["--d", "4096", "--m", "32", "--sizes", "16", "32", "--device", "cpu"]) == 0
    rows = pd.read_csv(tmp_path / "runs/benchmark/side_by_side.csv")
    assert (rows.largest_difference.dropna() < 1e-3).all() and (rows.same_order.dropna() > 0.9).all()
    # Memory is told of the Fisher alone: of shorter stages, in memory that was left over, 4 kB were once published.
    assert list(rows.ours_gb.notna()) == list(rows.stage == "Fisher and inverse") == [True, False, False] * 2
    assert (tmp_path / "runs/benchmark/scaling.png").exists()


@pytest.mark.slow
def test_the_fisher_is_several_times_as_fast_as_the_plain_form():
    """17 times and more was measured, idle and busy (docs/pruner.md); 3 is what any machine must show."""
    cpu = torch.device("cpu")
    _, gradients = problem(2**17, 64, 512, cpu)
    plain, want = fastest(lambda: plain_inverse(gradients), cpu, repeat=1)
    ours, H = fastest(lambda: fisher_of(gradients).inverse("w", consume=True), cpu, repeat=3)
    torch.testing.assert_close(H, want, rtol=1e-3, atol=1e-4)
    assert plain.seconds > 3 * ours.seconds


def in_a_process_of_its_own(words: list[str], folder, **options) -> subprocess.CompletedProcess:
    """A command whose Triton is the interpreter, whatever this process has imported."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | dict(OVIT_STUDY_DIR=str(folder))
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=ROOT, env=environment, **options
    )


@pytest.mark.notebook
def test_the_acceptance_run_at_toy_size(tmp_path):
    pytest.importorskip("triton")
    found = in_a_process_of_its_own(["-m", "ovit_core.benchmark", *ACCEPT], tmp_path)
    assert found.returncode == 0, found.stderr[-2000:]
    folder = tmp_path / "runs/benchmark"
    names = ("agreement", "elimination", "fisher", "memory")
    assert {p.name for p in folder.iterdir()} == {f"interpreter_{name}.csv" for name in names}  # no GPU's figures
    agreed, times, fisher, memory = (pd.read_csv(folder / f"interpreter_{name}.csv") for name in names)
    for table in (agreed, times, fisher, memory):
        assert table.device.str.startswith("Triton's interpreter on ").all()

    judged = agreed[agreed.cond <= agreement.COMPARABLE]
    assert set(agreed.B) == {24, 8} and set(agreed.score) == {"greedy", "greedy_frozen"} and len(judged) == 12
    assert (judged.verdict == "agrees").all() and (judged.same_order >= agreement.SHARE).all()
    errors = judged[[f"error_at_{share:g}" for share in agreement.REMOVED]]
    assert ((errors > 0) & errors.le(judged.weights_bound, axis=0)).all(
        axis=None
    )  # float32 against float64, not itself
    beyond = agreed[agreed.cond > agreement.COMPARABLE]
    assert (beyond.verdict == "not judged").all() and (beyond.fallbacks == 8).all()

    kinds = ["copy", "onchip", "arithmetic", "latency"]
    seconds = times[[f"{kind}_s" for kind in kinds]]
    assert (seconds > 0).all(axis=None)
    assert (times.bound == seconds.idxmax(axis=1).str.removesuffix("_s")).all()
    for kind in kinds:
        assert (times[f"{kind}_share"] * times.seconds).to_numpy() == pytest.approx(times[f"{kind}_s"].to_numpy())
    for _, rows in times.groupby("B"):
        parts, whole = rows[rows.weight != "all"], rows[rows.weight == "all"].iloc[0]
        assert list(parts.weight) == ["qkv", "proj", "fc1", "fc2"] and whole.d == 2 * parts.d.sum()
        assert whole.seconds == pytest.approx(2 * parts.seconds.sum())
        assert (parts.blocks * parts.B == parts.d).all() and whole.onchip_s == pytest.approx(2 * parts.onchip_s.sum())

    assert list(fisher.stage) == ["accumulation", "inversion", "both"] * 2
    both = fisher[fisher.stage == "both"]
    assert (both.largest_difference < 1e-4).all() and (both.plain_s > 0).all()
    assert both.seconds.sum() == pytest.approx(fisher.seconds.sum() / 2)
    assert memory.groups[0] == 1 < memory.groups[1]
    assert memory.peak_gb[1] < memory.peak_gb[0] and memory.masks.nunique() == 1


@pytest.mark.notebook
def test_a_wrong_kernel_is_not_accepted(tmp_path):
    """Each wrong kernel ends the command with exit status 1 and a line, and nothing is timed."""
    pytest.importorskip("triton")
    code = f"""
import os; os.environ["TRITON_INTERPRET"] = "1"
from ovit_core.benchmark import __main__ as benchmark, acceptance
from ovit_core.kernels import gpu
acceptance.TOY = acceptance.TOY._replace(agreed=(8,), blocks=4)
right = gpu.eliminate_blocks
def other_scores(w, H, update, *rest): return right(w, H, not update, *rest)
def after(change):
    def wrong(*given):
        loss, order, coefficients, factor, fallbacks = right(*given)
        return *change(loss, order, coefficients), factor, fallbacks
    return wrong
other_weights = after(lambda loss, order, c: (loss, order, c * 1.001))
not_numbers = after(lambda loss, order, c: (loss, order, c * float("nan")))
no_permutation = after(lambda loss, order, c: (loss, order * 0, c))
one_step_late = after(lambda loss, order, c: (loss, order.roll(1, 1), c))
def raises(*given): raise FloatingPointError("block 0 of 4: weights or inverse Fisher are not finite")
for wrong in (other_scores, other_weights, not_numbers, no_permutation, one_step_late, raises):
    gpu.eliminate_blocks = wrong
    assert benchmark.main({ACCEPT}) == 1, wrong
print("all refused")
"""
    found = in_a_process_of_its_own(["-c", code], tmp_path)
    assert found.stdout.strip().endswith("all refused"), found.stderr[-2000:]
    lines = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 6 and all("disagrees with the float64 reference" in line for line in lines)
    assert [p.name for p in (tmp_path / "runs/benchmark").iterdir()] == ["interpreter_agreement.csv"]


def test_verdicts():
    good = dict(cond=1e3, same_order=0.95) | {f"error_at_{share:g}": 1e-5 for share in agreement.REMOVED}
    assert agreement.verdict(good) == "agrees"
    assert agreement.verdict(good | dict(same_order=0.89)) == "fails"
    assert agreement.verdict(good | {"error_at_0.9": 1e-3}) == "fails"  # 1e3 * eps is 1.2e-4
    assert agreement.verdict(good | {"error_at_0.5": math.nan}) == "fails"
    assert agreement.verdict(good | dict(cond=1e6, same_order=0.1)) == "not judged"


def test_problems_have_the_condition_number_they_say():
    w, H, floor = agreement.problem_of_condition(3, 12, 1e3, torch.device("cpu"))
    values = torch.linalg.eigvalsh(H.double())
    assert (values[:, -1] / values[:, 0]).tolist() == pytest.approx([1e3] * 3, rel=1e-2)
    F = torch.linalg.inv(H.double())
    torch.testing.assert_close(floor.double(), F.diagonal(dim1=1, dim2=2).reciprocal(), rtol=1e-3, atol=0)
    assert w.dtype == H.dtype == floor.dtype == torch.float32


@pytest.mark.notebook
def test_bounds_count_what_the_loop_does(tmp_path):
    """Against a loop that counts, at rates of one a second."""
    pytest.importorskip("triton")
    code = """
from ovit_core.benchmark.bounds import Rates, columns, elimination_bounds, fisher_bounds
B, n, one = 6, 5, Rates(1, 1, 1)
rows = sum(k for k in range(B))  # that step k reads again
got = elimination_bounds(n, B, one, onchip=1, block=7, at_once=2)
assert got == dict(copy=n * 2 * B * B * 4, onchip=n * rows * B * 4, arithmetic=n * rows * B * 2, latency=7 * n / 2), got
assert elimination_bounds(1, B, one, 1, 7, 100)["latency"] == 7  # one block takes its time, however many would fit
fisher = fisher_bounds(12, 3, 10, 4, one)  # three chunks
assert fisher["accumulation"] == dict(copy=4 * (4 * 12 * 10 + 3 * 2 * 36), arithmetic=2 * 36 * 10), fisher
assert fisher["inversion"] == dict(copy=2 * 4 * 36, arithmetic=4 * 27), fisher
row = columns(10.0, dict(copy=2.0, latency=5.0))
assert row == dict(seconds=10, copy_s=2, latency_s=5, copy_share=0.2, latency_share=0.5, bound="latency", bound_share=0.5)
print("counted")
"""
    found = in_a_process_of_its_own(["-c", code], tmp_path)
    assert found.stdout.strip() == "counted", found.stderr[-2000:]


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "abacus", "mps"])
def test_devices_that_are_not_there_are_one_line(device, capsys):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert benchmark.main(["--device", device]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: device") and device in error and "\n" not in error


def test_the_interpreter_needs_a_process_of_its_own(capsys, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert benchmark.main(ACCEPT) == 2
    assert "already imported" in capsys.readouterr().err
    assert "TRITON_INTERPRET" not in os.environ
