"""Progress with time left: a bar in the terminal, in JupyterLab, in the terminal of a papermill run, in a widget; and
in a log file a line now and then.

Under papermill a bar printed by the kernel would end up as text in the executed notebook. `study` therefore names
its own terminal in OVIT_PROGRESS and the kernel's bars are drawn there. Work in a background thread gives its bars to
a listener instead, which may also end it: every long loop of the study has a bar, so each can be stopped.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

from tqdm.auto import tqdm as notebook_bar
from tqdm.std import tqdm as text_bar

ENVIRONMENT = "OVIT_PROGRESS"
WIDEST = 160  # columns of a bar
EVERY, RAREST = 30.0, 1800.0  # seconds between two lines in a log: at first, and at most
# what is done, steps done, steps in all, seconds left (None: not known yet)
Listener = Callable[[str, int, int, float | None], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def progress(iterable: Any = None, **options: Any) -> Any:
    """A tqdm bar: same arguments, usable as an iterable or a context manager."""
    if listener := _listener.get():
        return _Told(listener, iterable, **options)
    options = {"leave": False} | options
    target = os.environ.get(ENVIRONMENT)
    if target is None and "ipykernel" in sys.modules:
        return notebook_bar(iterable, dynamic_ncols=True, **options)
    try:
        stream = sys.stderr if target is None else Path(target).open("a")  # noqa: SIM115 (the bar closes it)
    except OSError:
        stream = None
    if stream is None:
        return text_bar(iterable, disable=True, **options)
    return (_Line if stream.isatty() else _Log)(iterable, stream, target is not None, **options)


def width(stream: TextIO) -> int:
    """Columns for a bar: one less than the terminal has, as it says or COLUMNS does, and 79 where neither tells."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    told = os.environ.get("COLUMNS", "")
    return min(columns or (int(told) if told.isdecimal() else 0) or 80, WIDEST) - 1


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


class _Line(text_bar):
    """A bar in a terminal, one line of it whatever it has to say; a stream of its own is closed with it."""

    def __init__(self, iterable: Any, stream: TextIO, own: bool, **options: Any):
        self.own = stream if own else None
        # tqdm hides all bars in a terminal that says it has no rows.
        options.setdefault("mininterval", 0.2)
        super().__init__(iterable, file=stream, nrows=24, **options)

    @property
    def format_dict(self) -> Any:
        known: Any = super().format_dict
        shape = known["bar_format"] and known["bar_format"].replace("{bar}", "{bar:12}")  # what is said needs room
        return dict(known) | dict(ncols=width(self.fp), bar_format=shape)

    def close(self) -> None:
        super().close()
        if self.own:
            self.own.close()


class _Log(text_bar):
    """A line with the time of day now and then, and none for what is done at once."""

    monitor_interval = 0  # no thread that would say it

    def __init__(self, iterable: Any, stream: TextIO, own: bool, **options: Any):
        self.own, self.begin = stream if own else None, time.monotonic()
        self.due = self.begin + EVERY
        options.update(mininterval=1, miniters=1)
        super().__init__(iterable, file=stream, **options)

    def refresh(self, *_: Any, **__: Any) -> None:
        if not self.disable and time.monotonic() >= self.due:
            done = f"{self.n}/{self.total}" if self.total else str(self.n)
            rate = self.format_dict["rate"]
            left = f"{self.format_interval((self.total - self.n) / rate)} left" if self.total and rate else ""
            said, _sep, doing = str(self.postfix or left).partition(" | ")
            what = ": ".join(filter(None, (self.desc.removesuffix(": "), doing)))
            self.say("; ".join(filter(None, (f"{done}, {said}" if said else done, what))))

    def say(self, line: str) -> None:
        """Writes a line; the next one that is not asked for comes half a minute later, or a tenth of the time so far."""
        print(time.strftime("%Y-%m-%d %H:%M:%S"), line, file=self.fp, flush=True)
        now = time.monotonic()
        self.due = now + min(max(EVERY, (now - self.begin) / 10), RAREST)

    def close(self) -> None:
        if not self.disable:
            self.disable = True
            if self.own:
                self.own.close()


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
