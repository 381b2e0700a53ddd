"""Commands in child processes at a pseudo-terminal: their visible output, time and memory. Linux only."""

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tfship.benchmarks.harness import process_info
from tfship.train.common import interruption
from tfship.train.common.errors import TargetError

__all__ = ["Ended", "run"]

_ROWS, _COLUMNS = 50, 120
# Memory is measured less often than output arrives, as the kernel walks all pages of a process for it.
_TICK_SECONDS, _MEMORY_SECONDS = 0.25, 0.5
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its exit `code`, negative for a signal's number, and its `output`.

    `peak_bytes` is the peak memory of the process and its descendants: the largest measured sum of their proportional
    sizes. The maximum that the kernel reports would include the memory of the parent process.
    """

    code: int
    output: str
    seconds: float
    peak_bytes: int
    timed_out: bool

    @property
    def shown(self) -> list[str]:
        """The lines that remain on the terminal, without progress bars that were removed."""
        lines = _CONTROL.sub("", self.output).replace("\r\n", "\n").split("\n")
        visible = [line.rsplit("\r", 1)[-1].rstrip() for line in lines]
        return visible[:-1] if not visible[-1] else visible

    @property
    def lines(self) -> int:
        """The number of lines on the terminal, wrapped at its width."""
        return sum(max(1, -(-len(line) // _COLUMNS)) for line in self.shown)

    @property
    def last(self) -> str:
        """The last line that isn't empty."""
        return next((line for line in reversed(self.shown) if line), "")


def run(argv: Sequence[str], folder: Path, most_seconds: float) -> Ended:
    """Run a command in `folder`. Kill it and its descendants after `most_seconds`."""
    near, far = os.openpty()
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
    begun = time.monotonic()
    with os.fdopen(near, "rb", buffering=0) as terminal:
        try:
            process = subprocess.Popen(
                argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=far, stderr=far, start_new_session=True
            )
        finally:
            os.close(far)
        parts: list[bytes] = []
        peak, timed_out, ended, measured = 0, False, 0, 0.0
        try:
            while not ended:
                interruption.check()
                _read(terminal.fileno(), parts, _TICK_SECONDS)
                now = time.monotonic()
                if now - measured > _MEMORY_SECONDS:
                    peak, measured = max(peak, _memory(process.pid)), now
                if now - begun > most_seconds and not timed_out:
                    timed_out = True
                    os.killpg(process.pid, signal.SIGKILL)
                ended, status = os.waitpid(process.pid, os.WNOHANG)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            # Also kills descendants that outlive the command, and the command itself after Ctrl-C.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        seconds = time.monotonic() - begun
        while _read(terminal.fileno(), parts, 0):
            pass
    output = b"".join(parts).decode(errors="replace")
    return Ended(process.returncode, output, seconds, peak, timed_out)


def _read(descriptor: int, parts: list[bytes], seconds: float) -> bool:
    """Read output for up to `seconds` into `parts`; return whether there may be more."""
    if not select.select([descriptor], [], [], seconds)[0]:
        return False
    try:
        part = os.read(descriptor, 1 << 16)
    except OSError:  # no process has the terminal open any more
        time.sleep(seconds)
        return False
    parts.append(part)
    return bool(part)


def _memory(pid: int) -> int:
    total = 0
    for each in process_info.tree(pid):
        with contextlib.suppress(TargetError):
            total += process_info.footprint(each).proportional
    return total
