"""Child processes for native code that may end the process it runs in.

Converters and interpreters abort on models that they don't expect, and take any amount of time and memory. A child
that does their work is forked from Python's fork server, which has imported TensorFlow and runs nothing of it. So a
child starts within 0.1 s. It ends with its parent, writes to a log file instead of the terminal, and is the first
process that Linux ends when memory runs out.
"""

import contextlib
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tfship.train.common import interruption
from tfship.train.common.errors import ArtifactError, TfshipError
from tfship.train.common.tensorflow_loader import WITHOUT_KERAS, quiet

__all__ = ["PRELOAD", "SECONDS", "Isolation", "report", "start"]

# Seconds that a child may take unless the caller says otherwise; the largest Keras applications convert in 2 minutes.
SECONDS = 600.0
# What the fork server imports.
PRELOAD = [
    "tfship.export.conversion.converter",
    "tfship.export.runtimes.tflite_micro",
    "tfship.export.conversion.selective_quantization",
    "ai_edge_quantizer.quantizer",
    "tflite_micro.python.tflite_micro.runtime",
]

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(PRELOAD)

_RESULT, _ERROR, _REPORT = range(3)
# The end of a child's output, where the reason for its end is searched.
_TAIL = 1 << 16
# The prefix of a line that TensorFlow logs: severity, time, thread, place.
_LOGGED = re.compile(r"^([IWEF])\d{4} [\d:.]+ +\d+ \S+\] ")

# Words of other lines that tell why a process ends.
_FATAL = re.compile(r"error|assert|check fail|fatal|terminate called|what\(\)", re.IGNORECASE)
_PREFIX = re.compile(r"^error: ", re.IGNORECASE)
_LONGEST = 200

# In a child, the way to its parent.
_parent: Connection | None = None


def start() -> None:
    """Start the fork server, if it isn't running; it imports TensorFlow in the background, which takes 4 s."""
    with quiet():
        # Before SIGINT is blocked, since it unblocks the signal.
        resource_tracker.ensure_running()
    # What the server prints is hidden for good.
    with interruption.held_back(), quiet():
        added = WITHOUT_KERAS.keys() - os.environ.keys()
        os.environ.update({name: WITHOUT_KERAS[name] for name in added})
        try:
            forkserver.ensure_running()
        finally:
            for name in added:
                del os.environ[name]


def report(value: object) -> None:
    """Send `value` to the parent's `watch`; for functions that run in a child. Has no effect elsewhere."""
    if _parent is not None:
        _parent.send((_REPORT, value))


@dataclass(frozen=True)
class Isolation:
    """The settings of child processes: their output is appended to `log`, and they are ended after `seconds`."""

    log: Path
    seconds: float = SECONDS

    def run(
        self,
        doing: str,
        function: Callable[..., Any],
        *arguments: Any,
        seconds: float | None = None,
        watch: Callable[[Any], object] | None = None,
        about: str = "",
    ) -> Any:
        """Call a module's function in a child process and return its result; all values must be picklable.

        `doing` names in messages what runs there ("the converter"), `seconds` replaces the settings' limit, `watch`
        is called with what the function reports, and `about` names the subject of the output in the log. Raises the
        function's TfshipError, or ArtifactError with the reason for any other error, an abort, a timeout or exhausted
        memory.
        """
        start()
        limit = self.seconds if seconds is None else seconds
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder, "output")
            output.touch()
            reader, writer = _CONTEXT.Pipe(duplex=False)
            process = _CONTEXT.Process(
                target=_begin, args=(doing, writer, output, limit, function, arguments), daemon=True
            )
            answer = None
            try:
                with interruption.waiting():
                    process.start()
                    writer.close()
                    answer = _received(reader, watch)
                    if answer is None:
                        process.join()
            except (EOFError, ConnectionError) as error:  # the fork server has ended
                raise ArtifactError(
                    f"{doing} couldn't be started ({error or 'the fork server ended'})"
                ) from error
            finally:
                # Also where Ctrl-C came, or the child hangs as it ends.
                if process.pid is not None:
                    process.kill()
                    process.join()
                writer.close()
                reader.close()
                said = output.read_text(errors="replace")
                self._keep(f"{about}: {doing}" if about else doing, said)
            if answer is None:
                raise ArtifactError(_death(doing, process.exitcode, said[-_TAIL:], limit))
        kind, value = answer
        if kind == _ERROR:
            raise value
        return value

    def _keep(self, title: str, said: str) -> None:
        if said.strip():
            with self.log.open("a", encoding="utf-8") as log:
                log.write(f"--- {title}\n{said.rstrip()}\n")


def _received(reader: Connection, watch: Callable[[Any], object] | None) -> tuple[int, Any] | None:
    """Return the kind and the value of a child's answer, or None if it has ended without one."""
    with contextlib.suppress(EOFError, ConnectionResetError):
        while True:
            kind, value = reader.recv()
            if kind != _REPORT:
                return kind, value
            if watch is not None:
                watch(value)
    return None


def _death(doing: str, code: int | None, said: str, limit: float) -> str:
    """Return why a child has ended without an answer, from its exit code and its output."""
    if code == -signal.SIGALRM:
        return f"{doing} took more than {limit:g} s"
    if code == -signal.SIGKILL:
        return f"{doing} was killed, as Linux does when memory runs out"
    if "std::bad_alloc" in said:
        return f"{doing} ran out of memory"
    how = "ended"
    if code is not None and code < 0:
        how = f"crashed ({signal.Signals(-code).name})"
        if code == -signal.SIGABRT:
            how = "aborted"
    lines = [line for each in said.splitlines() if (line := _sentence(each))]
    return f"{doing} {how}: {lines[-1]}" if lines else f"{doing} {how} without a message"


def _sentence(line: str) -> str:
    """Return what a line of native output says if it is an error, without its prefix, or nothing."""
    match = _LOGGED.match(line)
    if match is not None:
        return line[match.end() :].strip()[:_LONGEST] if match[1] in "EF" else ""
    return _PREFIX.sub("", line.strip())[:_LONGEST] if _FATAL.search(line) else ""


def _begin(
    doing: str,
    writer: Connection,
    output: Path,
    limit: float,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """Call the function in the child process and send its result or its error."""
    global _parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The kernel's own timer: it ends native code, too, that never returns to Python.
    signal.setitimer(signal.ITIMER_REAL, limit)
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    # Locks (tqdm has one) then leave no named semaphore behind in a process that is killed.
    multiprocessing.set_start_method("fork", force=True)
    # Conversion needs no GPU, and a child must not take the memory of one.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    threading.Thread(target=_follow, daemon=True).start()
    _parent = writer
    try:
        answer: tuple[int, Any] = (_RESULT, function(*arguments))
    except TfshipError as error:
        answer = (_ERROR, error)
    except MemoryError:
        answer = (_ERROR, ArtifactError(f"{doing} ran out of memory"))
    except Exception as error:  # noqa: BLE001 - libraries raise many kinds
        traceback.print_exc()
        lines = str(error).strip().splitlines()
        answer = (
            _ERROR,
            ArtifactError(f"{doing} failed: {type(error).__name__} {lines[0][:200] if lines else ''}"),
        )
    sys.stderr.flush()
    sys.stdout.flush()
    with contextlib.suppress(BrokenPipeError):
        writer.send(answer)


def _follow() -> None:
    """End this process when its parent has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)
