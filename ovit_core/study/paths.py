"""Where a study reads and writes: the repository, or the folder OVIT_STUDY_DIR names when it is asked."""

import os
from pathlib import Path

from ovit_core import disk

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"
LONGEST = 100  # bytes of a profile's name: names of files are made of it, and may have 255


def home() -> Path:
    """The folder below which everything is written: a scratch disk, a test's folder, else the repository."""
    return _real(Path(os.environ.get("OVIT_STUDY_DIR", ROOT)))


def check_name(name: str) -> str:
    """Raises ValueError unless a name can be a profile's: it becomes a folder, and a word of a command line."""
    plain = name.replace("_", "").replace("-", "").isalnum() and not name.startswith("-")
    if not plain or len(os.fsencode(name)) > LONGEST:
        shown = name if len(name) <= LONGEST else name[:LONGEST] + "..."
        raise ValueError(
            f"must be a plain name of letters, digits, - and _, at most {LONGEST} bytes long and without - at its "
            f"beginning, not {shown!r}"
        )
    return name


def check_profile(name: str) -> None:
    """Raises ValueError, in words that begin with "profile", unless a profile can have this name."""
    try:
        check_name(name)
    except ValueError as error:
        raise ValueError(f"profile {error}") from None


def _real(path: Path) -> Path:
    """Where a path leads; links that lead in a circle, for which `Path.resolve` raises RuntimeError, stay as they are."""
    return Path(os.path.realpath(path))


def _below(*names: str) -> Path:
    """A folder or file below `home`. ValueError if a link on the way leads out of it."""
    path = home().joinpath(*names)
    if not _real(path).is_relative_to(home()):
        raise ValueError(
            f"{path} is a link that leads to {_real(path)}, out of {home()}: remove it; OVIT_STUDY_DIR moves all output"
        )
    return path


def results() -> Path:
    """The rows of all profiles, a file each."""
    return _below("results")


def rows(profile: str) -> Path:
    """The file of a profile's rows. SQLite would follow a link, and so one that leads out is refused."""
    return _below("results", f"{check_name(profile)}.sqlite")


def cache() -> Path:
    """Dense models, what training takes up again, the manifest of images, and pictures decoded."""
    return _below("cache")


def runs(profile: str = "", *below: str) -> Path:
    """All that a profile's run writes for people: exported rows, figures, executed notebooks, the report, what the
    explorer saved; or a folder in there; without a profile the folder of all of them. Git ignores it.
    """
    return _below("runs", *([check_name(profile)] if profile else []), *below)


def figures(profile: str = "", *below: str) -> Path:
    """What of a profile's run was published, to be committed; or a folder in there; without a profile all of them."""
    return _below("figures", *([check_name(profile)] if profile else []), *below)


def publications() -> tuple[Path, ...]:
    """The folders that have one of each published profile: that below `home`, then the repository's, as a clone brings it."""
    return tuple(dict.fromkeys((figures(), ROOT / "figures")))


def published(profile: str) -> Path:
    """The folder where a profile's published rows lie, among the `publications`; that below `home` where there are none."""
    mine, folders = figures(profile), [place / profile for place in publications()]
    return next((folder for folder in folders if (folder / "results.csv").is_file()), mine)


def exported(profile: str) -> Path | None:
    """The folder that has a profile's exported rows and figures: its run's, else the published one; None for neither."""
    return next((f for f in (runs(profile), published(profile)) if (f / "results.csv").is_file()), None)


def told(path: Path) -> str:
    """A path as it is printed: from the folder that one stands in, where it lies below it, else whole."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def lab() -> Path:
    """Copies of the notebooks to work with, so that saving one changes none of the sources."""
    return _below("lab")


def check_writable(profile: str) -> None:
    """Makes the folders a study writes to, and removes what was left half written there.

    Raises:
        OSError: one cannot be written to; names it.  ValueError: a link leads out of `home`.
    """
    for folder in (results(), cache(), runs(profile)):
        disk.write(folder / ".writable", "")
        (folder / ".writable").unlink(missing_ok=True)
        disk.sweep(folder)
