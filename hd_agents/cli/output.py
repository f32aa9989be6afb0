"""Printing never ends a command: not a character that the terminal lacks, a reader who has left, or a full disk."""

import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Lasting:
    """A stream whose text goes nowhere once nobody reads it, or nothing takes it.

    ``lost`` is what went wrong first, but for a reader who has left.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """All of ``text``."""
        with self._outliving():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """All of them."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """As far as somebody reads."""
        with self._outliving():
            self._stream.flush()

    def end(self) -> None:
        """Flush for the last time. What is not taken now goes nowhere, or Python's own flush at its end would fail."""
        try:
            self._stream.flush()
        except OSError as error:
            self._note(error)
            with suppress(OSError):  # a stream without a file
                self._go_nowhere()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _outliving(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._note(error)

    def _note(self, error: OSError) -> None:
        if error.errno == errno.EPIPE or (error.errno == errno.EIO and self._stream.isatty()):
            self._go_nowhere()
        elif self.lost is None:
            self.lost = error

    def _go_nowhere(self) -> None:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())


@contextmanager
def lasting() -> Iterator[Lasting | None]:
    """Inside, standard output, which is given, and errors take all text.

    ``head`` may end, a terminal close and a disk become full before a training does.
    """
    before: tuple[Any, Any] = sys.stdout, sys.stderr
    strict = [stream for stream in before if getattr(stream, "errors", None) == "strict"]
    _reconfigure(strict, "backslashreplace")
    output, errors = (stream and Lasting(stream) for stream in before)  # None where it was closed before us
    sys.stdout, sys.stderr = output, errors
    try:
        yield output
    finally:
        for stream in (sys.stdout, sys.stderr):  # an environment of somebody's may have put its own in their place
            if stream not in (None, output, errors):
                stream.flush()
        for ours in (output, errors):
            if ours is not None:
                ours.end()
        sys.stdout, sys.stderr = before
        _reconfigure(strict, "strict")


def _reconfigure(streams: Iterable[Any], errors: str) -> None:
    for stream in streams:
        with suppress(AttributeError, ValueError):  # what stands in for a stream, in a notebook for example
            stream.reconfigure(errors=errors)
