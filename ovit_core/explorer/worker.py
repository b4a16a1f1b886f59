"""Work in the background that tells its progress and can be stopped."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from multiprocessing import active_children
from multiprocessing.process import BaseProcess

from ovit_core.progress import told_to

BEFORE = 0.2  # seconds that the page has to show the panel before torch is loaded, which holds everything up


def said(error: Exception) -> str:
    """What went wrong, for a reader: what is wrong with a value or a file is said in words already."""
    return str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"


class Worker:
    """One piece of work at a time, in the background; the next one stops the one before, and waits for it there.

    `tell` is told (what, done, total, seconds left) by the work's progress bars, and `end` how it ended, "" or why,
    unless another piece has replaced it. Processes that are started meanwhile are the work's and end with it, unless
    `helpers` says that it starts none: beside another worker it would end that one's.
    """

    def __init__(self, tell: Callable, end: Callable[[str], None], helpers: bool = True):
        self.tell, self.end, self.helpers = tell, end, helpers
        self.thread: threading.Thread | None = None
        self.turn, self.stopped = threading.Lock(), threading.Event()
        self.others: set[BaseProcess] | None = None  # who was there before the work began; None while there is none

    def start(self, job: Callable[[], None], delay: float = 0.0) -> None:
        """Runs `job` after `delay` seconds, unless it is stopped before that."""
        self.replace()
        self.thread = threading.Thread(target=self._run, args=(job, delay, self.stopped), daemon=True)
        self.thread.start()

    def _run(self, job: Callable[[], None], delay: float, stopped: threading.Event) -> None:
        def check() -> None:
            if stopped.is_set():
                self._end_helpers()
                raise CancelledError

        def listener(*words) -> None:
            check()
            self.tell(*words)

        message = ""
        try:
            with self.turn, told_to(listener), self._helped():
                if stopped.wait(delay):
                    raise CancelledError
                from ovit_core.explorer.stopping import Stoppable

                with Stoppable(check):
                    job()
        except Exception as error:  # shown in the panel: a thread's traceback would reach nobody
            ended = isinstance(error, CancelledError) or stopped.is_set()  # also by the lack of a helper
            message = "stopped; what was measured stays" if ended else said(error)
        if self.stopped is stopped:
            self.end(message)

    def replace(self) -> None:
        """Ends the work without a word: something else is wanted now."""
        self.stop()
        self.stopped = threading.Event()

    def stop(self) -> None:
        """Asks the work to end: it does at its next call of torch, look for the next images, or step of its progress
        bar.
        """
        self.stopped.set()
        self._end_helpers()

    @contextmanager
    def _helped(self) -> Iterator[None]:
        """Inside, processes that are started are the work's."""
        self.others = set(active_children()) if self.helpers else None
        try:
            yield
        finally:
            self.others = None

    def _end_helpers(self) -> None:
        """Processes that open images: a loader that is left in the middle would wait for each of them."""
        if self.others is not None:
            for process in set(active_children()) - self.others:
                if process.daemon:  # as a loader's are
                    process.terminate()

    def join(self) -> None:
        """Waits until the work has ended of itself."""
        if self.thread:
            self.thread.join()
