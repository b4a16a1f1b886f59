"""Where a study reads and writes: the repository, or the folder OVIT_STUDY_DIR names when it is asked."""

import os
from pathlib import Path

from ovit_core import disk

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"


def home() -> Path:
    """The folder below which everything is written: a scratch disk, a test's folder, else the repository."""
    return Path(os.environ.get("OVIT_STUDY_DIR", ROOT)).resolve()


def _below(*names: str) -> Path:
    """A folder below `home`. ValueError if a link on the way leads out of it."""
    path = home().joinpath(*names)
    if not path.resolve().is_relative_to(home()):
        raise ValueError(
            f"{path} is a link that leads to {path.resolve()}, out of {home()}: remove it; OVIT_STUDY_DIR moves all output"
        )
    return path


def results() -> Path:
    """The rows of all profiles, a file each."""
    return _below("results")


def cache() -> Path:
    """Dense models, what training takes up again, and the manifest of images."""
    return _below("cache")


def figures(profile: str = "") -> Path:
    """A profile's figures and exported tables; without a profile the folder of all of them."""
    return _below("figures", profile)


def runs(profile: str) -> Path:
    """A profile's executed notebooks, its report, and what the explorer saved."""
    return _below("runs", profile)


def check_writable(profile: str) -> None:
    """Makes the folders a study writes to, and removes what was left half written there.

    Raises:
        OSError: one cannot be written to; names it.  ValueError: a link leads out of `home`.
    """
    for folder in (results(), cache(), figures(profile), runs(profile)):
        disk.write(folder / ".writable", "")
        (folder / ".writable").unlink(missing_ok=True)
        disk.sweep(folder)
