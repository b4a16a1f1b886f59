"""Where a study reads and writes: the repository, or the folder OVIT_STUDY_DIR names when it is asked."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"


def home() -> Path:
    """The folder below which everything is written: a scratch disk, a test's folder, else the repository."""
    return Path(os.environ.get("OVIT_STUDY_DIR", ROOT)).resolve()


def results(profile: str) -> Path:
    """A profile's rows, as they come."""
    return home() / "results" / profile


def cache() -> Path:
    """Dense models, and marks of images that were checked."""
    return home() / "cache"


def figures(profile: str = "") -> Path:
    """A profile's figures and exported tables; without a profile the folder of all of them."""
    return home() / "figures" / profile


def runs(profile: str) -> Path:
    """A profile's executed notebooks, its report, and what the explorer saved."""
    return home() / "runs" / profile


def write_atomically(path: Path, text: str) -> None:
    """A reader, or a second start after a kill, sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + f".{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)
