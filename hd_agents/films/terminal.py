"""Pictures in a terminal, and the keys that are pressed meanwhile. No window is needed, so it works through ssh too."""

import os
import select
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

UPPER_HALF = "\N{UPPER HALF BLOCK}"  # its foreground is the upper of two pixels, its background the lower one
PLAIN = "\x1b[0m"
ARROWS = {"\x1b[A": "up", "\x1b[B": "down", "\x1b[C": "right", "\x1b[D": "left"}
ARROWS |= {code.replace("[", "O"): name for code, name in ARROWS.items()}  # where the terminal is in keypad mode


class Terminal:
    """The terminal of this process while it shows pictures: a screen of its own, keys at once and without an echo.

    A context manager, which gives the terminal back as it was. Standard input and output have to be one.
    """

    def __enter__(self) -> "Terminal":
        import termios  # POSIX only, as the rest of this class
        import tty

        self._keys = sys.stdin.fileno()
        self._usual = termios.tcgetattr(self._keys)
        tty.setcbreak(self._keys, termios.TCSANOW)  # what was typed ahead stays
        self._write("\x1b[?1049h\x1b[?25l")  # another screen, no cursor
        self.true_colours = os.environ.get("COLORTERM") in ("truecolor", "24bit")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import termios

        self._write(f"{PLAIN}\x1b[?25h\x1b[?1049l")
        with suppress(termios.error):  # of a terminal that is gone
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._usual)

    def pressed(self, seconds: float) -> list[str]:
        """The keys pressed since the last call; waits up to so many seconds for the first.

        :return: characters, and "up", "down", "left" and "right" for the arrows.
        """
        if not select.select([self._keys], [], [], seconds)[0]:
            return []
        typed = os.read(self._keys, 1024)
        if not typed:
            raise KeyboardInterrupt  # the terminal is gone
        return split(typed.decode(errors="ignore"))

    def show(self, pictures: Sequence[Image], lines: Sequence[str]) -> None:
        """Replace what is shown by RGB pictures beside each other, and lines of text below.

        Pictures that do not fit are shown smaller.

        :param pictures: (H, W, 3), of one size. :param lines: what does not fit into the width is cut off.
        """
        columns, rows = shutil.get_terminal_size()
        height, width = pictures[0].shape[:2]
        scale = min(1.0, (columns // len(pictures) - 2) / width, 2 * max(rows - len(lines), 1) / height)
        size = max(1, int(width * scale)), max(2, int(height * scale))
        drawn = zip(*(blocks(picture, size, self.true_colours) for picture in pictures), strict=True)
        texts = [f"{line[: columns - 1]}\x1b[K" for line in lines]
        self._write("\x1b[H" + "\r\n".join([*("  ".join(row) + "\x1b[K" for row in drawn), *texts]) + "\x1b[J")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def split(typed: str) -> list[str]:
    """What a terminal sent, key by key; codes of keys that are none of ours are left out."""
    keys = []
    while typed:
        if typed.startswith(("\x1b[", "\x1bO")):
            end = next((place for place, sign in enumerate(typed[2:], start=3) if sign.isalpha() or sign == "~"), 0)
            code, typed = typed[:end], typed[end:] if end else ""
            keys += [ARROWS[code]] if code in ARROWS else []
        else:
            keys.append(typed[0])
            typed = typed[1:]
    return keys


def blocks(picture: Image, size: tuple[int, int], true_colours: bool) -> list[str]:
    """An RGB picture (H, W, 3) as lines of text, two pixels in every sign.

    :param size: width and height in pixels that it is drawn with; an odd height loses a row.
    :param true_colours: by 32 steps of red, green and blue; else by the 216 colours that nearly all terminals have.
    """
    import cv2

    small = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    if true_colours:
        coarse = small & 0xF8  # neighbours alike need no new colour, which halves what has to be sent
        codes = [[f"2;{red};{green};{blue}" for red, green, blue in row] for row in coarse.tolist()]
    else:
        codes = [[f"5;{code}" for code in row] for row in palette(small).tolist()]
    lines = []
    for upper, lower in zip(codes[::2], codes[1::2], strict=False):
        line, before = "", ("", "")
        for pair in zip(upper, lower, strict=True):
            new = [
                f"{layer};{colour}" for layer, colour, old in zip((38, 48), pair, before, strict=True) if colour != old
            ]
            line += f"\x1b[{';'.join(new)}m{UPPER_HALF}" if new else UPPER_HALF
            before = pair
        lines.append(line + PLAIN)
    return lines


def palette(picture: Image) -> NDArray[np.int64]:
    """The nearest of the terminal's 6 x 6 x 6 colours, whose steps are 0, 95, 135, 175, 215 and 255."""
    steps = np.array([0, 95, 135, 175, 215, 255])
    nearest = np.abs(picture[..., None].astype(np.int64) - steps).argmin(-1)
    return np.asarray(16 + nearest @ np.array([36, 6, 1]))
