"""Runs a profile: `python -m ovit_core.study PROFILE [--only NOTEBOOK] [--set NAME=VALUE]`; `plan PROFILE` says what that
would take; `report PROFILE` draws its report from the results alone; `publish PROFILE` copies what is to be committed
to figures/, and `take PROFILE` takes the rows that lie there for measured; `parameters PROFILE --only NOTEBOOK`
prints what that notebook takes; `lab [PROFILE]` opens the explorer.

Everything is checked before anything runs. First all that is missing is measured, on all cores; then papermill runs the
notebooks, which read the rows. Rows that are there are not measured again: a study that was cut off, by Ctrl-C or by
a power cut, is continued by the same command.
"""

import argparse
import os
import resource
import select
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import yaml

from ovit_core import disk
from ovit_core.study import checks, paths, profiles, registry, stop
from ovit_core.study.ablation import Asked

WORDS = ("python", "-m", "ovit_core.study")


class Parser(argparse.ArgumentParser):
    """A parser of words that says what is wrong in one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; `{self.prog} --help` says what there is")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns its exit status: 1 if something could not be measured, 2 for what cannot be run."""
    words = sys.argv[1:] if arguments is None else arguments
    commands = dict(report=_report, plan=_plan, publish=_publish, take=_take, parameters=_parameters, lab=_lab)
    try:
        with stop.signals():
            status = commands[words[0]](words[1:]) if words[:1] and words[0] in commands else _study(words)
            sys.stdout.flush()
            return status
    except (ValueError, OSError) as error:
        if _nobody_reads(error):
            return 128 + signal.SIGPIPE
        print(f"error: {disk.shown(error, 1000)}", file=sys.stderr)
        return 2
    except stop.Stopped as stopped:
        command = shlex.join([*WORDS, *words])
        print(f"\nstopped: all that was measured is kept; `{command}` goes on from there", file=sys.stderr)
        return 128 + stopped.signal


def _nobody_reads(error: Exception) -> bool:
    """Whether an error is that what is printed goes nowhere any more, as after `... | head`."""
    if not isinstance(error, BrokenPipeError):
        return False
    pipe = select.poll()
    pipe.register(sys.stdout, 0)
    if not any(event & select.POLLERR for _, event in pipe.poll(0)):
        return False  # another process's
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
    return True


def _asked(words: list[str], about: str, prog: str) -> list[Asked]:
    """The ablations that a command line names, with their parameters."""
    args = _named(words, about, prog)
    return _built(args.profile, args.set, args.only)


def _named(words: list[str], about: str, prog: str, *more: str) -> argparse.Namespace:
    """The `profile`, the notebook that is meant alone (`only`, an ablation's or one `more`, or ""), the settings (`set`)."""
    parser = Parser(prog=prog, description=about)
    parser.add_argument("profile", help="a file of notebooks/profiles, e.g. quick")
    _takes_settings(parser, *more)
    return parser.parse_args(words)


def _takes_settings(parser: Any, *more: str) -> None:
    """Adds --only and --set to a parser, or to a group of one."""
    parser.add_argument("--only", default="", choices=[*registry.ablations(), *more], help="this notebook alone")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a parameter (YAML)")


def _built(profile: str, settings: list[str], only: str = "") -> list[Asked]:
    """The ablations of a profile, or one of them, with their parameters checked for themselves; those of which the
    profile has no parameter are left out, which is said.
    """
    parameters = profiles.read_profile(profile, settings)
    known = registry.ablations()
    if only:
        registry.check_settings(known[only], profiles.settings_of(settings))
        asked = [known[only]]
    else:
        asked = [a for a in known.values() if registry.has_parameters(a, parameters)] or list(known.values())
        for ablation in (a for a in known.values() if a not in asked):
            print(f"left out: {ablation.name}, of whose parameters {profile} has none", file=sys.stderr)
    return [(ablation, registry.build(ablation.parameters, parameters)) for ablation in asked]


def _study(words: list[str]) -> int:
    """Runs a profile."""
    # Semaphores of a study that was ended: Python's own tracker, a process, removes them and need not tell.
    os.environ["PYTHONWARNINGS"] = ",".join(
        filter(None, (os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker:UserWarning"))
    )
    asked = _asked(words, (__doc__ or "").partition("\n\n")[0], " ".join(WORDS))
    for ablation, config in asked:
        ablation.check_parts()
        checks.check(config)

    from ovit_core.study import grid, plan, plots  # also builds matplotlib's font cache here, not on a notebook's page

    os.environ[plots.COMMAND] = shlex.join([*WORDS, *words])
    config = asked[0][1]
    print(plan.short(asked), flush=True)
    begin = time.monotonic()
    failures = grid.measure(asked)
    print(f"measured in {(time.monotonic() - begin) / 60:.1f} min", flush=True)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    os.environ[grid.ONLY_READ] = "1"
    try:
        pages = []
        for number, (ablation, config) in enumerate(asked, 1):
            print(f"notebook {number} of {len(asked)}: {ablation.name}", flush=True)
            pages.append(_executed(ablation.notebook, config.values()))
    finally:
        del os.environ[grid.ONLY_READ]
    if failures or not all(pages):
        print("rows measured so far are kept; the same command continues from them", file=sys.stderr)
        return 1
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    print(f"\nPeak memory of a process {peak:.1f} GB. Figures and tables:")
    folder = paths.runs(config.profile)
    for file in (*sorted(folder.glob("*.png")), *sorted(folder.glob("*.csv"))):
        print(f"  {paths.told(file)}")
    return 0


def _plan(words: list[str]) -> int:
    """Says what a profile would measure, what of it is there, what is missing, and how long it would take."""
    asked = _asked(words, _plan.__doc__ or "", " ".join([*WORDS, "plan"]))

    from ovit_core.study import plan

    print(plan.of(asked, shlex.join([*WORDS, *words])))
    return 0


def _parameters(words: list[str]) -> int:
    """Prints the parameters of a notebook as YAML, for papermill's -f: those it has, and none of the others'."""
    prog = " ".join([*WORDS, "parameters"])
    args = _named(words, _parameters.__doc__ or "", prog, profiles.EXPLORER)
    if not args.only:
        raise ValueError(f"--only takes one of {', '.join([*registry.ablations(), profiles.EXPLORER])}")
    if args.only == profiles.EXPLORER:
        values = _explored(args.profile, args.set)
    else:
        values = _built(args.profile, args.set, args.only)[0][1].values()
    print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")
    return 0


def _explored(profile: str, settings: list[str]) -> dict[str, Any]:
    """The explorer's parameters by a profile that the ablations can take too."""
    _built(profile, [])
    return profiles.explored(profiles.read_profile(profile, []), settings)


def _lab(words: list[str]) -> int:
    """Opens JupyterLab on a copy of the explorer's notebook, with a profile's parameters if the first word is no option;
    all others are JupyterLab's own.
    """
    profile = words[0] if words and not words[0].startswith("-") else ""
    parameters = _explored(profile, []) if profile else {}

    from ovit_core.study import lab

    lab.start(words[bool(profile) :], profile, parameters)
    return 0


def _publish(words: list[str]) -> int:
    """Copies of a profile's run what is to be committed from runs/PROFILE to figures/PROFILE."""
    parser = Parser(prog=" ".join([*WORDS, "publish"]), description=_publish.__doc__)
    parser.add_argument("profile", help="a folder of runs/, e.g. quick")
    parser.add_argument("--incomplete", action="store_true", help="also where something was not measured")
    parser.add_argument("--dirty", action="store_true", help="also rows of files that no commit holds")
    parser.add_argument(
        "--rows", action="store_true", help="rows and dense models so far, without pages, to be taken up"
    )
    _takes_settings(parser.add_argument_group("with --rows, the words that the study was run with"))
    args = parser.parse_args(words)
    if (args.set or args.only) and not args.rows:
        raise ValueError("--set and --only go with --rows; without it a run is published as it was made")

    from ovit_core.study import publish

    profile = args.profile
    if args.rows:
        asked = _built(profile, args.set, args.only)
        profile = asked[0][1].profile
        copied, removed = publish.rows_so_far(asked, args.incomplete, args.dirty)
    else:
        copied, removed = publish.publish(profile, args.incomplete, args.dirty)
    total = [file for files in copied.values() for file in files]
    folder = paths.told(paths.figures(profile))
    for kind, files in copied.items():
        names = dict.fromkeys(file.stem if kind == "figures" else file.name for file in files)
        print(f"{kind}, {len(files)} files, {_size(files)}: {', '.join(names) or 'none'}")
    if removed:
        print(f"removed, of an earlier publication: {', '.join(file.name for file in removed)}")
    print(f"{folder}: {len(total)} files, {_size(total)}, to be committed")
    return 0


def _take(words: list[str]) -> int:
    """Takes the rows that a profile has in figures/ for measured: the study then goes on from them."""
    parser = Parser(prog=" ".join([*WORDS, "take"]), description=_take.__doc__)
    parser.add_argument("profile", help="a folder of figures/, e.g. quick")
    profile = parser.parse_args(words).profile

    from ovit_core.study import take

    print(f"{take.take(profile)} published rows taken; those of other code, images or dense models lie idle")
    print(f"next: {shlex.join([*WORDS, profile])}")
    return 0


def _size(files: list[Path]) -> str:
    """How large some files are together."""
    return f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB"


def _report(words: list[str]) -> int:
    """Draws a profile's page and its figures for print, from the results alone."""
    parser = Parser(prog=" ".join([*WORDS, "report"]), description=_report.__doc__)
    parser.add_argument("profile", help="a folder of runs/, else of figures/, with results.csv, e.g. quick")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write it as Markdown there instead")
    args = parser.parse_args(words)
    profile = args.profile

    from ovit_core.study import report

    results, source = report.load(profile), paths.exported(profile)
    assert source is not None  # else nothing had been loaded
    print(f"Results: {paths.told(source)}", flush=True)
    if args.markdown:
        command = shlex.join([*WORDS, "report", *words])
        print(f"Page: {report.write_markdown(results, args.markdown, command)}")
        if source != paths.figures(profile):
            print(f"Its figures are linked in figures/{profile}: `{' '.join(WORDS)} publish {profile}` puts them there")
        return 0
    page = report.write_html(results, paths.runs(profile) / "report.html", f"The oViT study: {profile}")
    folder = paths.runs(profile, "print")
    prints = report.write_prints(results, folder)
    print(f"Page, in one file: {paths.told(page)}")
    print(f"For print, {len(prints)} figures: {paths.told(folder)}/*.pdf")
    return 0


def _executed(notebook: Path, parameters: dict[str, Any]) -> Path | None:
    """The page of a notebook that was run; None, with the reason said, where a cell of it raised."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    begin, page = time.monotonic(), paths.runs(parameters["profile"]) / notebook.name
    try:
        page = profiles.execute(notebook, parameters)
    except papermill.PapermillExecutionError as error:
        print(f"error in {notebook.stem}: {error.ename}: {error.evalue}", file=sys.stderr)
        print(f"the page with the traceback: {page}", file=sys.stderr)
        return None
    except DeadKernelError:
        reason = "its process was killed, by the system if memory ran out"
        print(f"error in {notebook.stem}: {reason}; the page as far as it came: {page}", file=sys.stderr)
        return None
    minutes = (time.monotonic() - begin) / 60
    print(f"{notebook.stem}: done in {minutes:.1f} min -> {paths.told(page)}", flush=True)
    return page


if __name__ == "__main__":
    sys.exit(main())
