"""Progress bars with time left: in the terminal, in JupyterLab, in the terminal of a papermill run, in a widget.

Under papermill a bar printed by the kernel would end up as text in the executed notebook. `study` therefore names
its own terminal in OVIT_PROGRESS and the kernel's bars are drawn there. Work in a background thread gives its bars to
a listener instead, which may also end it: every long loop of the study has a bar, so each can be stopped.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm as notebook_bar
from tqdm.std import tqdm as text_bar

ENVIRONMENT = "OVIT_PROGRESS"
# what is done, steps done, steps in all, seconds left (None: not known yet)
Listener = Callable[[str, int, int, float | None], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def progress(iterable: Any = None, **options: Any) -> Any:
    """A tqdm bar: same arguments, usable as an iterable or a context manager."""
    if listener := _listener.get():
        return _Told(listener, iterable, **options)
    options = {"leave": False, "dynamic_ncols": True} | options
    target = os.environ.get(ENVIRONMENT)
    if target is None:
        options.setdefault("mininterval", 0.1 if drawn_every() == 1 else 10)
        return notebook_bar(iterable, **options)
    try:
        stream = Path(target).open("a")  # noqa: SIM115 (the bar closes it)
    except OSError:
        return text_bar(iterable, disable=True, **options)
    # A log file gets a line every ten seconds, a terminal its moving bar.
    return _Elsewhere(iterable, file=stream, mininterval=0.2 if stream.isatty() else 10, **options)


def drawn_every() -> float:
    """Seconds after which a bar is worth drawing again: it moves in a terminal or a notebook, a log gets lines."""
    return 1.0 if "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty()) else 10.0


def each(work: Callable[[Any], Any], items: Sequence[Any], desc: str) -> Iterator[Any]:
    """What `work` makes of every item, in order, by several threads and with a bar. What it raises ends the loop."""
    with ThreadPoolExecutor() as pool, progress(total=len(items), desc=desc) as bar:
        for start in range(0, len(items), 10_000):  # `map` queues all it is given at once
            for made in pool.map(work, items[start : start + 10_000]):
                yield made
                bar.update()


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


class _Elsewhere(text_bar):
    """A bar in a file of its own, which it closes."""

    def close(self) -> None:
        super().close()
        self.fp.close()


class _Told(text_bar):
    """A bar that tells each of its steps instead of drawing it."""

    monitor_interval = 0  # no thread that would draw it when steps are slow

    def __init__(self, listener: Listener, iterable: Any, **options: Any):
        self.listener = listener
        super().__init__(iterable, mininterval=0, miniters=1, **options)

    def refresh(self, *_: Any, **__: Any) -> None:  # not `display`: what is raised there leaves tqdm's lock held
        now = self.format_dict
        rate = now["rate"] or (self.n - self.initial) / (now["elapsed"] or 1)
        self.listener(self.desc.removesuffix(": "), self.n, self.total, (self.total - self.n) / rate if rate else None)

    def close(self) -> None:
        self.disable = True


def terminal() -> str:
    """A path under which another process can write to this one's standard error; "/dev/null" if there is none."""
    try:
        number = sys.__stderr__.fileno() if sys.__stderr__ else -1
        path = os.ttyname(number) if os.isatty(number) else f"/proc/{os.getpid()}/fd/{number}"
    except (OSError, ValueError):
        return os.devnull
    return path if Path(path).exists() else os.devnull
