"""What is printed never ends a command: not a sign that a terminal has none for, and not a reader who has left."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

GONE = (errno.EPIPE, errno.EIO)  # a pipe's reader, a terminal


class _Lasting:
    """A stream whose text goes nowhere once nobody reads it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """All of ``text``."""
        with self._outliving():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As far as somebody reads."""
        with self._outliving():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _outliving(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in GONE:
                raise
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())


@contextmanager
def lasting() -> Iterator[None]:
    """Inside, standard output and errors take all text: ``head`` may end, and a closed terminal, before a training."""
    before: tuple[Any, Any] = sys.stdout, sys.stderr
    for stream in before:
        with suppress(AttributeError, ValueError):  # what stands in for a stream, in a notebook for example
            if stream.errors == "strict":
                stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = (_Lasting(stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before
