"""Runs a profile's notebooks through papermill: `python -m ovit_core.study PROFILE [--only NOTEBOOK] [--set NAME=VALUE]`;
`python -m ovit_core.study report PROFILE` draws its report from the results alone.

Everything is checked before anything runs. Rows that are already there are not computed again, so a study that was
cut off is continued by the same command.
"""

import argparse
import os
import resource
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path

import papermill
import yaml

# Importing plots also builds matplotlib's font cache here, not on a notebook's page.
from ovit_core import figures, plots, report
from ovit_core.config import EXPERIMENTS, ROOT, from_parameters
from ovit_core.progress import ENVIRONMENT, terminal
from ovit_core.results import FIGURES, HOME, RUNS

NOTEBOOKS = ROOT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"


def read_profile(name: str, settings: list[str]) -> dict:
    """A profile's parameters, with NAME=VALUE settings (values in YAML) put over them.

    Raises:
        ValueError: no such profile, or a setting is not NAME=VALUE.
    """
    path = PROFILES / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in PROFILES.glob("*.yaml")))
        raise ValueError(f"no profile {name!r} in {PROFILES}; there are {there}")
    parameters = yaml.safe_load(path.read_text())
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set needs NAME=VALUE, not {setting!r}")
        if key not in parameters:
            raise ValueError(f"--set {key}: profile {name} has no such parameter; it has {', '.join(parameters)}")
        parameters[key] = yaml.safe_load(value)
    return parameters


def execute(notebook: str, parameters: dict) -> Path:
    """Runs one notebook with parameters (`profile` among them); returns the executed copy, also if it failed."""
    source = NOTEBOOKS / f"{notebook}.ipynb"
    out = RUNS / parameters["profile"] / source.name
    out.parent.mkdir(parents=True, exist_ok=True)
    os.environ[ENVIRONMENT] = terminal()
    os.environ["OVIT_STUDY_DIR"] = str(HOME)  # the kernel starts in another folder
    papermill.execute_notebook(
        str(source), str(out), parameters=parameters, kernel_name="python3", progress_bar=False, cwd=str(ROOT)
    )
    return out


def write_report(arguments: list[str]) -> int:
    """`report PROFILE`: a page and figures for print, from the results alone; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ovit_core.study report", description=write_report.__doc__)
    parser.add_argument("profile", help="a folder of figures/ with results.csv, e.g. quick")
    profile = parser.parse_args(arguments).profile
    try:
        study = report.load(profile)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    begin = time.monotonic()
    try:
        executed = execute("report", dict(profile=profile))
    except papermill.PapermillExecutionError as error:
        print(f"error in the report: {error.ename}: {error.evalue}", file=sys.stderr)
        return 1
    page = report.write_html(executed, RUNS / profile / "report.html", f"The oViT study: {profile}")
    prints = [f for rows, _ in study.values() for f in figures.print_all(rows, FIGURES / profile / "print")]
    print(f"Done in {time.monotonic() - begin:.0f} s.")
    print(f"Page, in one file: {page.relative_to(HOME)}")
    print(f"For print, {len(prints)} figures: {(FIGURES / profile / 'print').relative_to(HOME)}/*.pdf")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["report"]:
        return write_report(words[1:])
    names = {name: kind for kind, name in EXPERIMENTS.items()}
    parser = argparse.ArgumentParser(prog="python -m ovit_core.study", description=__doc__.partition("\n")[0])
    parser.add_argument("profile", help="a file of notebooks/profiles, e.g. quick")
    parser.add_argument("--only", choices=names, help="run this notebook alone")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="override a parameter, value in YAML"
    )
    args = parser.parse_args(words)
    try:
        parameters = read_profile(args.profile, args.set)
        configs = [from_parameters(kind, parameters) for name, kind in names.items() if args.only in (None, name)]
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    os.environ[plots.COMMAND] = shlex.join(["python", "-m", "ovit_core.study", *words])
    begin = time.monotonic()
    for config in configs:
        print(f"{config.experiment}: profile {config.profile}, seeds {config.seeds} ...", flush=True)
        start = time.monotonic()
        try:
            out = execute(config.experiment, asdict(config))
        except papermill.PapermillExecutionError as error:
            print(f"error in {config.experiment}: {error.ename}: {error.evalue}", file=sys.stderr)
            print(f"the page with the traceback: {RUNS / config.profile / config.experiment}.ipynb", file=sys.stderr)
            print("rows computed so far are kept; the same command continues from them", file=sys.stderr)
            return 1
        print(
            f"{config.experiment}: done in {(time.monotonic() - start) / 60:.1f} min -> {out.relative_to(HOME)}",
            flush=True,
        )
    folder = FIGURES / configs[0].profile
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    print(f"\nDone in {(time.monotonic() - begin) / 60:.1f} min, peak memory {peak:.1f} GB.")
    for title, pattern in (("Figures", "*.png"), ("Tables", "*.csv")):
        print(f"{title}:")
        for file in sorted(folder.glob(pattern)):
            print(f"  {file.relative_to(HOME)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
