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

from ovit_core.study import checks, engine, paths, registry
from ovit_core.study.ablation import Ablation
from ovit_core.study.parameters import Parameters


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        return _report(words[1:]) if words[:1] == ["report"] else _study(words)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _study(words: list[str]) -> int:
    """Runs a profile."""
    known = registry.ablations()
    parser = argparse.ArgumentParser(prog="python -m ovit_core.study", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("profile", help="a file of notebooks/profiles, e.g. quick")
    parser.add_argument("--only", choices=known, help="run this notebook alone")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="override a parameter, value in YAML"
    )
    args = parser.parse_args(words)
    parameters = engine.read_profile(args.profile, args.set)
    asked = [ablation for name, ablation in known.items() if args.only in (None, name)]
    jobs = [(ablation, registry.build(ablation.parameters, parameters)) for ablation in asked]
    for _, config in jobs:
        checks.check(config)

    from ovit_core.study import plots  # also builds matplotlib's font cache here, not on a notebook's page

    os.environ[plots.COMMAND] = shlex.join(["python", "-m", "ovit_core.study", *words])
    begin = time.monotonic()
    for ablation, config in jobs:
        if not _run(ablation, config):
            return 1
    _summary(jobs[0][1].profile, time.monotonic() - begin)
    return 0


def _run(ablation: Ablation, config: Parameters) -> bool:
    """Runs one notebook; whether it came to its end."""
    import papermill

    print(f"{ablation.name}: profile {config.profile}, seeds {list(config.seeds)} ...", flush=True)
    start = time.monotonic()
    try:
        out = engine.execute(ablation.notebook, config.values())
    except papermill.PapermillExecutionError as error:
        page = paths.runs(config.profile) / ablation.notebook.name
        print(f"error in {ablation.name}: {error.ename}: {error.evalue}", file=sys.stderr)
        print(f"the page with the traceback: {page}", file=sys.stderr)
        print("rows computed so far are kept; the same command continues from them", file=sys.stderr)
        return False
    minutes = (time.monotonic() - start) / 60
    print(f"{ablation.name}: done in {minutes:.1f} min -> {out.relative_to(paths.home())}", flush=True)
    return True


def _summary(profile: str, seconds: float) -> None:
    """What there is to look at."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    print(f"\nDone in {seconds / 60:.1f} min, peak memory {peak:.1f} GB.")
    for title, pattern in (("Figures", "*.png"), ("Tables", "*.csv")):
        print(f"{title}:")
        for file in sorted(paths.figures(profile).glob(pattern)):
            print(f"  {file.relative_to(paths.home())}")


def _report(words: list[str]) -> int:
    """Draws a profile's page and its figures for print, from the results alone."""
    parser = argparse.ArgumentParser(prog="python -m ovit_core.study report", description=_report.__doc__)
    parser.add_argument("profile", help="a folder of figures/ with results.csv, e.g. quick")
    profile = parser.parse_args(words).profile

    import papermill

    from ovit_core.study import plots, report

    results = report.load(profile)
    begin = time.monotonic()
    try:
        executed = engine.execute(paths.NOTEBOOKS / "report.ipynb", dict(profile=profile))
    except papermill.PapermillExecutionError as error:
        print(f"error in the report: {error.ename}: {error.evalue}", file=sys.stderr)
        return 1
    page = report.write_html(executed, paths.runs(profile) / "report.html", f"The oViT study: {profile}")
    folder = paths.figures(profile) / "print"
    prints = [file for mine in results.values() for file in plots.print_all(mine, folder)]
    print(f"Done in {time.monotonic() - begin:.0f} s.")
    print(f"Page, in one file: {page.relative_to(paths.home())}")
    print(f"For print, {len(prints)} figures: {folder.relative_to(paths.home())}/*.pdf")
    return 0


if __name__ == "__main__":
    sys.exit(main())
