"""Progress bars with time left: in the terminal, in JupyterLab, in the terminal of a papermill run, in a widget.

Under papermill a bar printed by the kernel would end up as text in the executed notebook. `study` therefore names
its own terminal in OVIT_PROGRESS and the kernel's bars are drawn there. Work in a background thread gives its bars to
a listener instead, which may also end it: every long loop of the study has a bar, so each can be stopped.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tqdm.auto import tqdm as notebook_bar
from tqdm.std import tqdm as text_bar

ENVIRONMENT = "OVIT_PROGRESS"
# what is done, steps done, steps in all, seconds left (None: not known yet)
Listener = Callable[[str, int, int, float | None], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def progress(iterable=None, **options):
    """A tqdm bar: same arguments, usable as an iterable or a context manager."""
    if listener := _listener.get():
        return _Told(listener, iterable, **options)
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


@contextmanager
def told_to(listener: Listener) -> Iterator[None]:
    """Bars of this thread, until the end of the block, are not drawn: their steps are told to `listener`. What it
    raises ends the loop.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class _Told:
    """As much of tqdm as the study uses, for a listener."""

    def __init__(self, listener: Listener, iterable=None, total: int | None = None, desc="", initial=0, **_):
        self.listener, self.iterable, self.desc, self.n, self.initial = listener, iterable, desc, initial, initial
        self.total = len(iterable) if total is None else total
        self.start = time.monotonic()
        self.update(0)

    def update(self, n: int = 1) -> None:
        self.n += n
        done = self.n - self.initial
        left = (time.monotonic() - self.start) / done * (self.total - self.n) if done else None
        self.listener(self.desc, self.n, self.total, left)

    def __iter__(self):
        for item in self.iterable:
            yield item
            self.update()

    def set_postfix(self, **_) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        pass


def terminal() -> str:
    """A path under which another process can write to this one's standard error; "/dev/null" if there is none."""
    try:
        if os.isatty(sys.__stderr__.fileno()):
            return os.ttyname(sys.__stderr__.fileno())
        path = f"/proc/{os.getpid()}/fd/{sys.__stderr__.fileno()}"
        return path if os.path.exists(path) else os.devnull
    except (OSError, ValueError, AttributeError):
        return os.devnull
