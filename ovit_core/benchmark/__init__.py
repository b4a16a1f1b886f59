"""Benchmarks of the pruner, as a command: `python -m ovit_core.benchmark`. Tables go to runs/benchmark/."""
