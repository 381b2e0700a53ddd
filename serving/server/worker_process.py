"""Processes of workers, and their start, for `worker_pool`."""

import contextlib
import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection

from tfship.serving.server.rpc import Channel
from tfship.serving.server.settings import Settings
from tfship.train.common.tensorflow_loader import WITHOUT_KERAS

__all__ = ["END_SECONDS", "WorkerProcess", "spawn"]

log = logging.getLogger(__name__)

_ENVIRONMENT = {
    # Settings of glibc's allocator. Mapping and unmapping bodies of a few hundred kilobytes each time would cost a page
    # fault per 4 KiB. With four arenas instead of one, requests are no faster, and two workers with TensorFlow take 70
    # MiB more.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
    "MALLOC_ARENA_MAX": "1",
    # No threads for NumPy's linear algebra, which the server doesn't use: a process with one thread can be forked.
    "OPENBLAS_NUM_THREADS": "1",
    **WITHOUT_KERAS,
}
# Time limit for imports, which may come from a slow disk; additional time until a worker's first heartbeat.
_IMPORT_SECONDS, _START_SECONDS = 300, 60
# Time for a worker to exit after the connection is closed; then it is killed.
END_SECONDS = 5.0
_POLL_SECONDS = 0.01
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37


@dataclass(eq=False)
class WorkerProcess:
    """A worker process, the channel to it, and the thread that reads the channel.

    `lacking` contains the loaded versions, by key, that this worker couldn't load, with the error of the last try.
    `deaths` counts by key how often this worker and those that it replaced died while they loaded a version.
    """

    number: int
    pid: int
    channel: Channel
    reader: threading.Thread = field(init=False)
    started: float = field(default_factory=time.monotonic)
    lacking: dict[int, str] = field(default_factory=dict)
    deaths: Counter[int] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: str = ""

    def kill(self) -> None:
        """Kill the process."""
        with self._lock:
            if not self._ended:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)

    def wait_ended(self) -> str:
        """Wait for the process to end after its channel was closed, kill it after 5 s, and return how it ended."""
        kills = time.monotonic() + END_SECONDS
        while not self._has_ended():
            if time.monotonic() > kills:
                self.kill()
            time.sleep(_POLL_SECONDS)
        return self._ended

    def _has_ended(self) -> bool:
        # Until it is waited for, the process keeps its ID, so that `kill` can't hit another one.
        with self._lock:
            if self._ended:
                return True
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self._ended = "how is unknown"  # it isn't a child: not on Linux
                return True
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self._ended = f"signal {-code}" if code < 0 else f"exit code {code}"
            return bool(pid)

    def read(self, patience: int) -> None:
        """Read the channel in a thread; kill the process if there is no heartbeat for `patience` seconds."""
        self.reader = threading.Thread(target=self._read, args=(patience,), daemon=True)
        with _signals_blocked():
            self.reader.start()

    def _read(self, patience: int) -> None:
        if not self.channel.serve(patience, _START_SECONDS):
            log.warning("worker %d: no heartbeat for %d s; killed", self.number, patience)
            self.kill()


def spawn(numbers: Iterable[int], settings: Settings, target: object) -> list[WorkerProcess]:
    """Start the workers `numbers`, whose calls run on `target`.

    They are forked from a process that has imported what they need, TensorFlow too unless only TFLite files are served.
    So they share the memory of the imports. That process then ends, and its children become this process's. Raises
    OSError or RuntimeError if the system has no process, thread, file descriptor or memory left.
    """
    workers = []
    with contextlib.ExitStack() as on_failure:
        pairs = {}
        for number in numbers:
            ours, theirs = socket.socketpair()
            on_failure.enter_context(theirs)
            connection = Connection(ours.detach())
            on_failure.callback(connection.close)
            pairs[number] = connection, theirs
        with _adopting_orphans(), _started([theirs for _, theirs in pairs.values()], settings):
            for number, (connection, _) in pairs.items():
                workers.append(WorkerProcess(number, _pid(connection), Channel(connection, target)))
                on_failure.callback(workers[-1].wait_ended)
                on_failure.callback(workers[-1].kill)
        for worker in workers:
            with contextlib.suppress(OSError):
                pairs[worker.number][0].send((worker.number, _settings_of(worker.number, settings)))
            worker.read(settings.worker_timeout_seconds)
        on_failure.pop_all()
    return workers


@contextlib.contextmanager
def _started(ends: Sequence[socket.socket], settings: Settings) -> Iterator[None]:
    """Start the process that forks a worker for each of `ends`, which it closes here; wait for its end."""
    runtime = "tflite" if settings.loader.prefer_tflite else "tensorflow"
    descriptors = [each.fileno() for each in ends]
    with _signals_blocked():
        process = subprocess.Popen(
            [sys.executable, "-m", "tfship.serving.server.worker", runtime, *map(str, descriptors)],
            pass_fds=descriptors,
            env={**_ENVIRONMENT, **os.environ},
            stdin=subprocess.DEVNULL,
        )
    for each in ends:
        each.close()
    try:
        yield
    except BaseException:
        process.kill()
        raise
    finally:
        process.wait()


def _pid(connection: Connection) -> int:
    """Return the process ID that a worker sends first."""
    try:
        if not connection.poll(_IMPORT_SECONDS):
            raise OSError(f"no worker after {_IMPORT_SECONDS} s")
        pid: int = connection.recv()
    except EOFError:
        raise OSError("a worker process ended during its start; see its output for the reason") from None
    return pid


def _settings_of(number: int, settings: Settings) -> Settings:
    # A Unix socket, unlike a port, can't be shared: worker 0 or its replacement serves it.
    return settings if number == 0 else replace(settings, grpc_socket=None)


_adopting = threading.Lock()


@contextlib.contextmanager
def _adopting_orphans() -> Iterator[None]:
    """Make this process the parent of descendants whose parent ends within the context, by Linux's prctl(2)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", lambda *_: None)
    before = ctypes.c_int()
    with _adopting:
        prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            yield
        finally:
            prctl(_PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block SIGINT and SIGTERM in this thread, and in the processes and threads that it starts.

    Ctrl-C on a terminal and a service manager's SIGTERM reach all processes, but only the main process handles them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
