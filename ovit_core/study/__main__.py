"""Runs a profile's notebooks by papermill: `python -m ovit_core.study PROFILE [--only NOTEBOOK] [--set NAME=VALUE]`;
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
from pathlib import Path
from typing import Any

from ovit_core.study import checks, engine, paths, registry


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        return _report(words[1:]) if words[:1] == ["report"] else _study(words)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _study(words: list[str]) -> int:
    """Runs a profile."""
    known = registry.ablations()
    parser = argparse.ArgumentParser(prog="python -m ovit_core.study", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("profile", help="a file of notebooks/profiles, e.g. quick")
    parser.add_argument("--only", choices=known, help="run this notebook alone")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a parameter (YAML)")
    args = parser.parse_args(words)
    parameters = engine.read_profile(args.profile, args.set)
    asked = [known[args.only]] if args.only else list(known.values())
    configs = [registry.build(ablation.parameters, parameters) for ablation in asked]
    for config in configs:
        checks.check(config)

    from ovit_core.study import plots  # also builds matplotlib's font cache here, not on a notebook's page

    os.environ[plots.COMMAND] = shlex.join(["python", "-m", "ovit_core.study", *words])
    for ablation, config in zip(asked, configs):
        print(f"{ablation.name}: profile {config.profile}, seeds {list(config.seeds)} ...", flush=True)
        if not _executed(ablation.notebook, config.values()):
            print("rows computed so far are kept; the same command continues from them", file=sys.stderr)
            return 1
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    print(f"\nPeak memory {peak:.1f} GB. Figures and tables:")
    folder = paths.figures(configs[0].profile)
    for file in (*sorted(folder.glob("*.png")), *sorted(folder.glob("*.csv"))):
        print(f"  {file.relative_to(paths.home())}")
    return 0


def _report(words: list[str]) -> int:
    """Draws a profile's page and its figures for print, from the results alone."""
    parser = argparse.ArgumentParser(prog="python -m ovit_core.study report", description=_report.__doc__)
    parser.add_argument("profile", help="a folder of figures/ with results.csv, e.g. quick")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write it as Markdown there instead")
    args = parser.parse_args(words)
    profile = args.profile

    from ovit_core.study import report

    results = report.load(profile)
    if args.markdown:
        command = shlex.join(["python", "-m", "ovit_core.study", "report", *words])
        print(f"Page: {report.write_markdown(results, args.markdown, command)}")
        return 0
    executed = _executed(paths.NOTEBOOKS / "report.ipynb", dict(profile=profile))
    if not executed:
        return 1
    page = report.write_html(executed, executed.with_suffix(".html"), f"The oViT study: {profile}")
    folder = paths.figures(profile) / "print"
    prints = report.write_prints(results, folder)
    print(f"Page, in one file: {page.relative_to(paths.home())}")
    print(f"For print, {len(prints)} figures: {folder.relative_to(paths.home())}/*.pdf")
    return 0


def _executed(notebook: Path, parameters: dict[str, Any]) -> Path | None:
    """The page of a notebook that was run; None, with the reason said, where a cell of it raised."""
    import papermill

    begin = time.monotonic()
    try:
        page = engine.execute(notebook, parameters)
    except papermill.PapermillExecutionError as error:
        print(f"error in {notebook.stem}: {error.ename}: {error.evalue}", file=sys.stderr)
        print(f"the page with the traceback: {paths.runs(parameters['profile']) / notebook.name}", file=sys.stderr)
        return None
    minutes = (time.monotonic() - begin) / 60
    print(f"{notebook.stem}: done in {minutes:.1f} min -> {page.relative_to(paths.home())}", flush=True)
    return page


if __name__ == "__main__":
    sys.exit(main())
