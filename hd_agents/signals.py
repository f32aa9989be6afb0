"""The signals that end a process, and handlers for those that want to store something first."""

import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

# What ends a process that can store itself first: Ctrl-C, those who want it to end, a terminal that closes.
SIGNALS = {name: getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}


class Handlers:
    """Handlers of signals, installed until they give way to those that were there before.

    None is installed for a signal that this process was started to ignore (SIGHUP by ``nohup``, which lets it go on
    when its terminal closes), and none at all outside of the main thread, where Python allows none.

    :param handlers: signal number -> handler.
    """

    def __init__(self, handlers: Mapping[int, Callable[[int, Any], Any]]) -> None:
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if not _outlives(number):
                    self._before[number] = signal.signal(number, handler)

    def give_back(self) -> None:
        """Install what was there before; nothing if that was done already."""
        for number, handler in list(self._before.items()):  # a copy: the next signal may come in the middle of it
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set by C code, now unknown
        self._before.clear()


def _outlives(number: int) -> bool:
    return number == SIGNALS.get("SIGHUP") and signal.getsignal(number) is signal.SIG_IGN
