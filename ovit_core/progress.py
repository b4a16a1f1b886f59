"""Progress bars with time left: in the terminal, in JupyterLab, and in the terminal of a papermill run.

Under papermill a bar printed by the kernel would end up as text in the executed notebook. `study` therefore names
its own terminal in OVIT_PROGRESS and the kernel's bars are drawn there.
"""

import os
import sys

from tqdm.auto import tqdm as notebook_bar
from tqdm.std import tqdm as text_bar

ENVIRONMENT = "OVIT_PROGRESS"


def progress(iterable=None, **options):
    """A tqdm bar: same arguments, usable as an iterable or a context manager."""
    options = {"leave": False, "dynamic_ncols": True} | options
    target = os.environ.get(ENVIRONMENT)
    if target is None:
        return notebook_bar(iterable, **options)
    try:
        stream = open(target, "a")
    except OSError:
        return text_bar(iterable, disable=True, **options)
    # A log file gets a line every ten seconds, a terminal its moving bar.
    return text_bar(iterable, file=stream, mininterval=0.2 if stream.isatty() else 10, **options)


def terminal() -> str:
    """A path under which another process can write to this one's standard error; "/dev/null" if there is none."""
    try:
        if os.isatty(sys.__stderr__.fileno()):
            return os.ttyname(sys.__stderr__.fileno())
        path = f"/proc/{os.getpid()}/fd/{sys.__stderr__.fileno()}"
        return path if os.path.exists(path) else os.devnull
    except (OSError, ValueError, AttributeError):
        return os.devnull
