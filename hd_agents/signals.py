"""The signals that end a process, and handlers for those that want to store something first."""

import signal
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

# What ends a process that can store itself first: Ctrl-C, those who want it to end, a terminal that closes.
SIGNALS = {name: getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}
ONE_STOP = 3.0  # seconds after a signal in which those of programs mean the same stop: batch systems tell every process

_INSTALLED: "weakref.WeakSet[Handlers]" = weakref.WeakSet()


class Handlers:
    """Handlers of signals, installed until they give way to those that were there before.

    Several may be installed one above the other, and go in any order.

    None is installed for a signal that this process was started to ignore (SIGHUP by ``nohup``, which lets it go on
    when its terminal closes), and none at all outside of the main thread, where Python allows none.

    :param handlers: signal number -> handler.
    """

    def __init__(self, handlers: Mapping[int, Callable[[int, Any], Any]]) -> None:
        self._handlers = handlers
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            _INSTALLED.add(self)
            for number, handler in handlers.items():
                if not _outlives(number):
                    self._before[number] = signal.signal(number, handler)

    def give_back(self) -> None:
        """Install what was there before; nothing if that was done already."""
        for number, before in list(self._before.items()):  # a copy: the next signal may come in the middle of it
            own = self._handlers[number]
            above = next((one for one in _INSTALLED if one is not self and one._before.get(number) == own), None)
            if above is not None:
                above._before[number] = before
            else:
                signal.signal(number, signal.SIG_DFL if before is None else before)  # None: set by C code, now unknown
        self._before.clear()


def _outlives(number: int) -> bool:
    return number == SIGNALS.get("SIGHUP") and signal.getsignal(number) is signal.SIG_IGN
