"""Child processes for native code that may end its process.

Converters and interpreters abort on unexpected models, and their time and memory have no limit. They run in child
processes, forked from Python's fork server. The server has imported TensorFlow but runs none of it, so that a child
starts within 0.1 s. A child ends with its parent and writes to a log file instead of the terminal. Linux kills it
first when memory runs out.
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

# Default time limit in seconds; the largest Keras applications convert in 2 minutes.
SECONDS = 600.0
# Modules that the fork server imports.
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
# Bytes at the end of a child's output that are searched for the reason of its end.
_TAIL = 1 << 16
# The prefix of a line logged by TensorFlow: severity, time, thread, source line.
_LOGGED = re.compile(r"^([IWEF])\d{4} [\d:.]+ +\d+ \S+\] ")

# Words of other lines that give the reason of a process's end.
_FATAL = re.compile(r"error|assert|check fail|fatal|terminate called|what\(\)", re.IGNORECASE)
_PREFIX = re.compile(r"^error: ", re.IGNORECASE)
_LONGEST = 200

# In a child, the connection to its parent.
_parent: Connection | None = None


def start() -> None:
    """Start the fork server unless it is running; it imports TensorFlow in the background, which takes 4 s."""
    with quiet():
        # Before SIGINT is blocked, since `ensure_running` unblocks the signal.
        resource_tracker.ensure_running()
    # The server inherits the hidden output.
    with interruption.held_back(), quiet():
        added = WITHOUT_KERAS.keys() - os.environ.keys()
        os.environ.update({name: WITHOUT_KERAS[name] for name in added})
        try:
            forkserver.ensure_running()
        finally:
            for name in added:
                del os.environ[name]


def report(value: object) -> None:
    """Send `value` from a child process to the `watch` function of `Isolation.run`; no effect in other processes."""
    if _parent is not None:
        _parent.send((_REPORT, value))


@dataclass(frozen=True)
class Isolation:
    """Settings of child processes: their output is appended to the file `log`, and `seconds` is their time limit."""

    log: Path
    seconds: float = SECONDS

    def run(
        self,
        task: str,
        function: Callable[..., Any],
        *arguments: Any,
        seconds: float | None = None,
        watch: Callable[[Any], object] | None = None,
        subject: str = "",
    ) -> Any:
        """Call a module-level function in a child process and return its result; all values must be picklable.

        `task` names the child in messages ("the converter"). `seconds` overrides the time limit. `watch` is called
        with each value that the function reports. `subject` is part of the output's title in the log. Raises the
        function's TfshipError; for any other error, an abort, a timeout or exhausted memory, raises ArtifactError
        with the reason.
        """
        start()
        limit = self.seconds if seconds is None else seconds
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder, "output")
            output.touch()
            reader, writer = _CONTEXT.Pipe(duplex=False)
            process = _CONTEXT.Process(
                target=_child, args=(task, writer, output, limit, function, arguments), daemon=True
            )
            message = None
            try:
                with interruption.waiting():
                    process.start()
                    writer.close()
                    message = _receive(reader, watch)
                    if message is None:
                        process.join()
            except (EOFError, ConnectionError) as error:  # the fork server has ended
                raise ArtifactError(
                    f"{task} couldn't be started ({error or 'the fork server ended'}); run the command again"
                ) from error
            finally:
                # Also after Ctrl-C, or if the child hangs while it ends.
                if process.pid is not None:
                    process.kill()
                    process.join()
                writer.close()
                reader.close()
                printed = output.read_text(errors="replace")
                self._append_log(f"{subject}: {task}" if subject else task, printed)
            if message is None:
                raise ArtifactError(_end_reason(task, process.exitcode, printed[-_TAIL:], limit))
        kind, value = message
        if kind == _ERROR:
            raise value
        return value

    def _append_log(self, title: str, printed: str) -> None:
        if printed.strip():
            with self.log.open("a", encoding="utf-8") as log:
                log.write(f"--- {title}\n{printed.rstrip()}\n")


def _receive(reader: Connection, watch: Callable[[Any], object] | None) -> tuple[int, Any] | None:
    """Return the kind and value of a child's last message, or None if it has ended without one."""
    with contextlib.suppress(EOFError, ConnectionResetError):
        while True:
            kind, value = reader.recv()
            if kind != _REPORT:
                return kind, value
            if watch is not None:
                watch(value)
    return None


def _end_reason(task: str, code: int | None, printed: str, limit: float) -> str:
    """Return why a child has ended without a message, from its exit code and its output."""
    if code == -signal.SIGALRM:
        return f"{task} took more than {limit:g} s"
    if code == -signal.SIGKILL:
        return f"{task} was killed, as Linux does when memory runs out"
    if "std::bad_alloc" in printed:
        return f"{task} ran out of memory"
    how = "ended"
    if code is not None and code < 0:
        how = f"crashed ({signal.Signals(-code).name})"
        if code == -signal.SIGABRT:
            how = "aborted"
    lines = [line for each in printed.splitlines() if (line := _error_text(each))]
    return f"{task} {how}: {lines[-1]}" if lines else f"{task} {how} without a message"


def _error_text(line: str) -> str:
    """Return a line of native output without its prefix if it is an error, otherwise ""."""
    match = _LOGGED.match(line)
    if match is not None:
        return line[match.end() :].strip()[:_LONGEST] if match[1] in "EF" else ""
    return _PREFIX.sub("", line.strip())[:_LONGEST] if _FATAL.search(line) else ""


def _child(
    task: str,
    writer: Connection,
    output: Path,
    limit: float,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """Call the function in the child process and send its result or its error."""
    global _parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The kernel's timer also ends native code that never returns to Python.
    signal.setitimer(signal.ITIMER_REAL, limit)
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    # With fork, locks (tqdm has one) leave no named semaphore behind when the process is killed.
    multiprocessing.set_start_method("fork", force=True)
    # Conversion needs no GPU, and a child must not allocate GPU memory.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _parent = writer
    try:
        message: tuple[int, Any] = (_RESULT, function(*arguments))
    except TfshipError as error:
        message = (_ERROR, error)
    except MemoryError:
        message = (_ERROR, ArtifactError(f"{task} ran out of memory"))
    except Exception as error:  # noqa: BLE001 - libraries raise many kinds
        traceback.print_exc()
        lines = str(error).strip().splitlines()
        message = (
            _ERROR,
            ArtifactError(f"{task} failed: {type(error).__name__} {lines[0][:200] if lines else ''}"),
        )
    sys.stderr.flush()
    sys.stdout.flush()
    with contextlib.suppress(BrokenPipeError):
        writer.send(message)


def _end_with_parent() -> None:
    """End this process when its parent has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)
