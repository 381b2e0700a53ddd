"""Ctrl-C in long commands: noted when it comes, obeyed at the next step.

Python raises KeyboardInterrupt wherever the main thread is. In an import, a destructor or a callback of native code it
gets lost or becomes another error: TensorFlow makes a SystemError of it. So a command calls `catch` before its imports.
Then the first SIGINT only sets a flag, and KeyboardInterrupt is raised where that is safe: by `check`, which
`Progress.advance` calls, and in the body of `waiting`. The second SIGINT ends the process at once, and in the body of
`loading` the first does. A thread sees to that, since the main thread may be in native code. Exit code and message
are the same in all cases.

`train.common.cli.run` does the rest: any error after the signal counts as the interruption.
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
# A command that hasn't ended after this long says why.
_SILENT_SECONDS = 2.0


class _Mode(Enum):
    """What the handler does besides setting the flag."""

    NOTE = "nothing"
    RAISE = "raise KeyboardInterrupt"
    END = "end the process"


_mode = _Mode.NOTE
_caught = _requested = False
_code: int | None = None
# A copy: `train.common.tensorflow_loader.quiet` redirects the original for some time.
_stderr = 2
_ending = threading.RLock()
_cleanups: dict[object, Callable[[], object]] = {}


def catch(*, at_once: bool = False) -> None:
    """Handle SIGINT as described above, for the rest of this process.

    With `at_once` the first SIGINT ends the process, for commands that leave nothing to tidy up. Has no effect outside
    the main thread, or where SIGINT is ignored (a shell's background job) or handled already.
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
    # Written to by the C handler: the Python handler has to wait for the main thread.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, _handle)
    threading.Thread(target=_watch, args=(reader,), name="interruption", daemon=True).start()
    _mute()
    atexit.register(_leave)  # the first one registered is the last one called


def check() -> None:
    """Raise KeyboardInterrupt in the main thread if a SIGINT was caught; long work calls this at each step."""
    if _requested and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def waiting() -> contextlib.AbstractContextManager[None]:
    """Let SIGINT raise KeyboardInterrupt at once in the body, which waits for time, threads or child processes.

    Only for Python code that may be left anywhere. Has no effect outside the main thread.
    """
    return _within(_Mode.RAISE)


def loading() -> contextlib.AbstractContextManager[None]:
    """Let SIGINT end the process at once in the body, an import that takes long and leaves nothing to tidy up.

    Has no effect outside the main thread.
    """
    return _within(_Mode.END)


@contextlib.contextmanager
def _within(mode: _Mode) -> Iterator[None]:
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
    """Keep SIGINT from the child processes that the body starts: a terminal sends it to them, too."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def cleanup(function: Callable[[], object]) -> Iterator[None]:
    """Have `function` called, in any thread, if the process ends at once during the body."""
    key = object()
    _cleanups[key] = function
    try:
        yield
    finally:
        del _cleanups[key]


def finish(code: int | None = None) -> None:
    """End the process if a SIGINT was caught, or as soon as one comes: the command is over.

    With its exit `code`, Python's own exit is cut short: after the exit handlers, when it drops signal handlers and
    takes a while to destroy what TensorFlow has.
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
    """End the process, its child processes and what `cleanup` names, with one line on stderr and exit code 130.

    Python's own exit would wait for threads, and destroy what native code in daemon threads still uses.
    """
    with _ending:  # and never released
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


def _leave() -> None:
    if _code is not None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(_code)


def _watch(reader: int) -> None:
    """End the process at the second SIGINT, or at the first where that is to, whatever the main thread does."""
    _await(reader)
    if _mode is not _Mode.END:
        if not select.select([reader], [], [], _SILENT_SECONDS)[0]:
            _say("Ctrl-C: ending at the next step; press it again to end at once")
        _await(reader)
    _end()


def _await(reader: int) -> None:
    # The pipe gets a byte for each signal that has a Python handler.
    while os.read(reader, 1) != bytes([signal.SIGINT]):
        pass


def _say(text: str) -> None:
    # Below a progress bar, and below the ^C that a terminal shows.
    line = "\n" * os.isatty(_stderr) + text + "\n"
    with contextlib.suppress(OSError):
        os.write(_stderr, line.encode())


def _children() -> Iterator[int]:
    """Yield the processes that this one has started and that live. Linux only; elsewhere there are none."""
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from map(int, path.read_text().split())


def _mute() -> None:
    """Drop the tracebacks of threads and destructors after a SIGINT, which they report past every handler."""
    unraisable, thread = sys.unraisablehook, threading.excepthook
    sys.unraisablehook = lambda args: None if _requested else unraisable(args)
    threading.excepthook = lambda args: None if _requested else thread(args)
