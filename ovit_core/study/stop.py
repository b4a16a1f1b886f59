"""Ctrl-C and SIGTERM: everything that was started ends too, and one line says how to go on."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
from jupyter_core.utils import ensure_event_loop


class Stopped(KeyboardInterrupt):
    """Somebody wants the study to end."""

    def __init__(self, signal: int):
        super().__init__(signal)
        self.signal = signal


@contextmanager
def signals() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise Stopped in the main thread; kernels and workers are ended on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread
        return

    def stopped(number: int, _: Any) -> None:
        for one in before:  # a second signal is not to disturb the end that the first one brings
            signal.signal(one, lambda again, _: os._exit(128 + again))  # unless somebody insists
        raise Stopped(number)

    before = {one: signal.signal(one, stopped) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Stopped:
        end_children()
        raise
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def end_children() -> None:
    """Ends all processes that this one started, and theirs; but for joblib's own, which clean up and end by themselves."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            if "resource_tracker" not in " ".join(child.cmdline()):
                child.kill()


def in_thread(call: Callable[[], Any]) -> Any:
    """What a call returns or raises, made in a thread of its own: while the main thread waits, signals are this
    process's, whatever handlers the call would install.
    """
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            outcome["value"] = call()
        except BaseException as error:
            outcome["error"] = error
        finally:
            ensure_event_loop().close()  # this thread's, which nbclient leaves open

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]
