"""The pruner against a plain implementation, or, on a GPU, the acceptance run of the Triton kernel.

    python -m ovit_core.benchmark                                    # on a CPU: side by side, and cost against d, B and m
    python -m ovit_core.benchmark --device cuda                      # acceptance: agreement, bounds, memory
    python -m ovit_core.benchmark --device cpu --accept              # the same at toy size, in Triton's interpreter
    python -m ovit_core.benchmark --model deit_tiny_patch16_224      # peak memory of pruning a whole model

Exit status: 0, 1 if the kernel disagrees with the reference, 2 if what was asked for cannot run here.
"""

import argparse
import importlib.util
import os
import shlex
import sys

INTERPRET = "TRITON_INTERPRET"  # what Triton reads when it is imported


def main(arguments: list[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m ovit_core.benchmark", description=__doc__.partition("\n")[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--accept", action="store_true", help="the acceptance run; the default on a GPU, toy-sized on a CPU"
    )
    what.add_argument("--side-by-side", action="store_true", help="against the plain form; the default on a CPU")
    what.add_argument("--model", help="measure pruning this timm model and its slider instead")
    parser.add_argument("--d", type=int, default=2**19, help="side by side: weights")
    parser.add_argument("--m", type=int, default=512, help="side by side: gradients")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 192], help="side by side, model: block sizes")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--memory", type=float, nargs="+", default=[0], help="model: gigabytes for its Fisher, 0: no limit"
    )
    args = parser.parse_args(words)
    try:
        kind = _device_type(args.device)
        accept = args.accept or (kind == "cuda" and not args.model and not args.side_by_side)
        if accept:
            _prepare_triton(kind)
        return _run(args, words, accept)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _device_type(name: str) -> str:
    """`cuda` or `cpu`; ValueError where the device is not there."""
    import torch  # does not import Triton, which must find its setting when it is imported

    there = torch.cuda.is_available()
    try:
        device = torch.device(("cuda" if there else "cpu") if name == "auto" else name)
    except RuntimeError:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, not {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, not {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count() * there:
        raise ValueError(f"device {name!r} is not there: torch {torch.__version__} sees {torch.cuda.device_count()} GPUs; "
                         "`--device cpu --accept` runs the same at toy size in Triton's interpreter")  # fmt: skip
    return device.type


def _prepare_triton(kind: str) -> None:
    """The acceptance run on a CPU is Triton's interpreter; on a GPU it must not be."""
    if importlib.util.find_spec("triton") is None:
        raise ValueError("the acceptance run is of the Triton kernel, and triton is not installed")
    wanted = "1" if kind == "cpu" else "0"
    if "triton" in sys.modules and os.environ.get(INTERPRET, "0") != wanted:
        raise ValueError(f"triton is already imported without {INTERPRET}={wanted}: start a process of its own")
    os.environ[INTERPRET] = wanted


def _run(args: argparse.Namespace, words: list[str], accept: bool) -> int:
    from ovit_core import models
    from ovit_core.benchmark.measuring import write
    from ovit_core.study import plots

    device = models.pick_device(args.device)
    os.environ[plots.COMMAND] = shlex.join(["python", "-m", "ovit_core.benchmark", *words])
    if accept:
        from ovit_core.benchmark import acceptance

        if failure := acceptance.run(device, acceptance.FULL if device.type == "cuda" else acceptance.TOY):
            print(f"error: {failure}", file=sys.stderr)
        return 1 if failure else 0
    if args.model:
        from ovit_core.benchmark.whole_model import slider, whole_model

        write([whole_model(args.model, limit or None, device) for limit in args.memory], f"memory_{args.model}", device)
        write([row for B in args.sizes for row in slider(args.model, B, device)], f"slider_{args.model}", device)
        return 0
    from ovit_core.benchmark.side_by_side import plot_scaling, scaling, side_by_side

    write(side_by_side(args.d, args.sizes, args.m, device), "side_by_side", device)
    rows = write(scaling(device, args.d, min(args.sizes), args.m), "scaling", device)
    with plots.style():
        plots.save(plot_scaling(rows), "scaling", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
