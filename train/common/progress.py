"""Progress of long work: a bar with rate and remaining time on a terminal, plain lines in a log or without tqdm."""

import os
import sys
import time
from types import TracebackType
from typing import Any, TextIO

from tfship.train.common import interruption

__all__ = ["Progress"]

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """A context manager that shows progress; call `advance` as the work is done.

    `total` is the number of `unit`s. `done` of them were complete before and don't count for the rate. The output goes
    to `file`, stderr by default, since stdout is for results.
    """

    def __init__(self, label: str, total: int, unit: str, file: TextIO | None = None, done: int = 0) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._file = file or sys.stderr
        self._done = self._before = done
        self._start = self._last = time.monotonic()
        self._bar = self._make_bar() if _has_width(self._file) else None

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units as done, and show `note` after the figures.

        Raises KeyboardInterrupt after Ctrl-C (`interruption.check`).
        """
        interruption.check()
        self._done += count
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
            return
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        rate = (self._done - self._before) / (now - self._start)
        left = f", {rate:.3g}/s, {max(0, self._total - self._done) / rate:.0f} s left" if rate else ""
        tail = f", {note}" if note else ""
        print(
            f"{self._label}: {self._done:,}/{self._total:,} {self._unit}{left}{tail}",
            file=self._file,
            flush=True,
        )

    def say(self, text: str) -> None:
        """Print `text` as a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(text, file=self._file)
        else:
            print(text, file=self._file, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def _make_bar(self) -> Any:
        """Return tqdm's bar, or None if tqdm isn't installed."""
        try:
            from tqdm import tqdm
        except ImportError:
            return None
        return tqdm(
            total=self._total, initial=self._done, desc=self._label, unit=f" {self._unit}", file=self._file,
            leave=False, dynamic_ncols=True,
        )  # fmt: skip


def _has_width(file: TextIO) -> bool:
    """Return whether `file` is a terminal that can show a bar; terminal recorders may report a width of 0."""
    return file.isatty() and os.get_terminal_size(file.fileno()).columns > 0
