"""Deferred Ctrl-C for long commands: SIGINT sets a flag, and the command ends at its next step.

Python raises KeyboardInterrupt wherever the main thread is. In an import, a destructor or a callback of native code the
exception is lost or becomes another error: TensorFlow turns it into SystemError. Therefore a command calls `catch`
before its imports. The first SIGINT then only sets a flag. KeyboardInterrupt is raised where that is safe: by `check`,
which `Progress.advance` calls, and in the body of `waiting`. The second SIGINT ends the process at once; in the body of
`loading`, the first does. A thread does this, since the main thread may be in native code. Exit code and message
are the same in all cases.

`train.common.cli.run` treats any error after the signal as the interruption.
"""

import atexit
import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import NoReturn

__all__ = ["EXIT_CODE", "catch", "check", "cleanup", "finish", "held_back", "loading", "waiting"]

EXIT_CODE = 130
# After this time without an end, a message explains that the command ends at its next step.
_SILENT_SECONDS = 2.0


class _Mode(Enum):
    """What the signal handler does besides setting the flag."""

    DEFER = "nothing"
    RAISE = "raise KeyboardInterrupt"
    END = "end the process"


_mode = _Mode.DEFER
_caught = _requested = False
_code: int | None = None
# Later a copy, since `train.common.tensorflow_loader.quiet` redirects the original.
_stderr = 2
_ending = threading.RLock()
_cleanups: dict[object, Callable[[], object]] = {}


def catch(*, at_once: bool = False) -> None:
    """Handle SIGINT as described above, for the rest of this process.

    With `at_once` the first SIGINT ends the process, for commands that need no cleanup. Has no effect outside the main
    thread, or if SIGINT is already ignored (a shell's background job) or handled.
    """
    global _caught, _mode, _stderr
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    _caught, _stderr = True, os.dup(2)
    if at_once:
        _mode = _Mode.END
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # The C handler writes to it at once; the Python handler has to wait for the main thread.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, _handle)
    threading.Thread(target=_watch_signals, args=(reader,), name="interruption", daemon=True).start()
    _suppress_tracebacks()
    atexit.register(_exit_early)  # the first one registered is the last one called


def check() -> None:
    """Raise KeyboardInterrupt in the main thread if a SIGINT was caught. Long work calls this at each step."""
    if _requested and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def waiting() -> contextlib.AbstractContextManager[None]:
    """Let SIGINT raise KeyboardInterrupt at once in the body, which waits for time, threads or child processes.

    Only for Python code that may be interrupted anywhere. Has no effect outside the main thread.
    """
    return _in_mode(_Mode.RAISE)


def loading() -> contextlib.AbstractContextManager[None]:
    """Let SIGINT end the process at once in the body, a slow import that needs no cleanup.

    Has no effect outside the main thread.
    """
    return _in_mode(_Mode.END)


@contextlib.contextmanager
def _in_mode(mode: _Mode) -> Iterator[None]:
    global _mode
    if threading.current_thread() is not threading.main_thread() or not _caught or _mode is _Mode.END:
        yield
        return
    before, _mode = _mode, mode
    try:
        check()
        yield
    finally:
        _mode = before


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Block SIGINT in child processes that the body starts, since a terminal sends it to them too."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def cleanup(function: Callable[[], object]) -> Iterator[None]:
    """Call `function`, in any thread, if a SIGINT ends the process during the body."""
    key = object()
    _cleanups[key] = function
    try:
        yield
    finally:
        del _cleanups[key]


def finish(code: int | None = None) -> None:
    """End the process if a SIGINT was caught, or at the next SIGINT, after the command has ended.

    With the command's exit `code`, Python's own exit is cut short after the exit handlers. From there on it would drop
    signal handlers and take some time to destroy TensorFlow's objects.
    """
    global _mode, _code
    if not _caught:
        return
    _mode, _code = _Mode.END, code
    if _requested:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        _end()


def _end() -> NoReturn:
    """End the process with one line on stderr and exit code 130, after its child processes and the `cleanup` calls.

    Python's own exit would wait for threads, and destroy objects that native code in daemon threads still uses.
    """
    with _ending:  # never released
        for pid in _children():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGTERM)
        for function in list(_cleanups.values()):
            with contextlib.suppress(Exception):
                function()
        _say("interrupted")
        os._exit(EXIT_CODE)


def _handle(_number: int, _frame: FrameType | None) -> None:
    global _requested
    _requested = True
    if _mode is _Mode.END:
        _end()
    if _mode is _Mode.RAISE:
        raise KeyboardInterrupt


def _exit_early() -> None:
    if _code is not None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(_code)


def _watch_signals(reader: int) -> None:
    """End the process at the second SIGINT, or at the first in mode END, whatever the main thread does."""
    _await(reader)
    if _mode is not _Mode.END:
        if not select.select([reader], [], [], _SILENT_SECONDS)[0]:
            _say("Ctrl-C: ending at the next step; press it again to end at once")
        _await(reader)
    _end()


def _await(reader: int) -> None:
    # The pipe receives a byte for each signal that has a Python handler.
    while os.read(reader, 1) != bytes([signal.SIGINT]):
        pass


def _say(text: str) -> None:
    # On a new line, below a progress bar and the terminal's ^C.
    line = "\n" * os.isatty(_stderr) + text + "\n"
    with contextlib.suppress(OSError):
        os.write(_stderr, line.encode())


def _children() -> Iterator[int]:
    """Yield the ids of this process's live child processes. On Linux only; none elsewhere."""
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from map(int, path.read_text().split())


def _suppress_tracebacks() -> None:
    """Suppress tracebacks from threads and destructors after a SIGINT, which no exception handler can catch."""
    unraisable, thread = sys.unraisablehook, threading.excepthook
    sys.unraisablehook = lambda args: None if _requested else unraisable(args)
    threading.excepthook = lambda args: None if _requested else thread(args)
