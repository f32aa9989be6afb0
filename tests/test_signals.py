"""Handlers of signals: what was there before comes back."""

import signal
from typing import Any

import pytest

from hd_agents.signals import Handlers


def test_the_handler_of_before_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[int] = []
    handlers = Handlers({signal.SIGTERM: lambda number, frame: seen.append(number)})
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        handlers.give_back()
    assert (seen, signal.getsignal(signal.SIGTERM)) == ([signal.SIGTERM], before)
    handlers.give_back()  # has nothing to do any more
    assert signal.getsignal(signal.SIGTERM) == before


def test_handlers_above_one_another_go_in_any_order() -> None:
    before, top = signal.getsignal(signal.SIGTERM), lambda number, frame: None
    first, second = (Handlers({signal.SIGTERM: lambda number, frame, own=own: None}) for own in "ab")
    third = Handlers({signal.SIGTERM: top})
    try:
        for handlers, remains in ((second, top), (first, top), (third, before)):
            handlers.give_back()
            assert signal.getsignal(signal.SIGTERM) == remains
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_of_c_code_gives_way_to_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python does not know it: ``signal.signal`` returns None, and would not take that back."""
    taken: list[Any] = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: taken.append(handler))
    Handlers({signal.SIGTERM: print}).give_back()
    assert taken == [print, signal.SIG_DFL]
