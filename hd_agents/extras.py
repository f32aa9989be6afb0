"""What the extras of this package bring, and what to tell where it is needed and not installed."""

import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

PROJECTS = {"cv2": "OpenCV", "yaml": "PyYAML"}  # modules whose name is not that of what to install


def require(what: str, extra: str, *modules: str) -> None:
    """Check that packages which ``what`` needs and ``extra`` brings are installed, without importing them.

    :raises ImportError: naming those that are not, and the extra.
    """
    if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
        raise ImportError(wanting(what, extra, missing))


@contextmanager
def needing(what: str, extra: str) -> Iterator[None]:
    """For imports of what ``extra`` brings: where one fails, the ImportError says that ``what`` needs it."""
    try:
        yield
    except ImportError as error:
        reason = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
        raise ImportError(wanting(what, extra, [error.name or "more"], reason)) from error


def wanting(what: str, extra: str, names: Iterable[str], reason: str = "") -> str:
    """What to tell where ``what`` needs modules that ``extra`` brings and that are not there."""
    names = [PROJECTS.get(name.partition(".")[0], name.partition(".")[0].replace("_", "-")) for name in names]
    them = "them" if len(names) > 1 else "it"
    return f'{what} needs {", ".join(names)}{reason}: install {them} with `pip install "hd_agents[{extra}]"`.'
