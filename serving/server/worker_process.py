"""Process of a worker, and its start, for `worker_pool`."""

import contextlib
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection

from tfship.serving.metrics.metrics import FOLDER
from tfship.serving.server.rpc import Channel
from tfship.serving.server.settings import Settings
from tfship.train.common.tensorflow_loader import WITHOUT_KERAS

__all__ = ["END_SECONDS", "WorkerProcess", "signals_blocked", "spawn"]

log = logging.getLogger(__name__)

# Settings of glibc's allocator. Mapping and unmapping bodies of a few hundred kilobytes each time would cost a page
# fault per 4 KiB. Fewer arenas need less memory.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
    "MALLOC_ARENA_MAX": "4",
}
# Additional time until the first heartbeat, because imports may come from a slow disk.
_START_SECONDS = 60
# Time for a worker to exit after the connection is closed; then it is killed.
END_SECONDS = 5.0


@dataclass(eq=False)
class WorkerProcess:
    """A worker process, the channel to it, and the thread that reads the channel.

    `lacking` contains the loaded versions, by key, that this worker couldn't load, with the error of the last try.
    `deaths` counts by key how often this worker and those that it replaced died while they loaded a version.
    """

    number: int
    process: subprocess.Popen[bytes]
    channel: Channel
    reader: threading.Thread
    started: float
    lacking: dict[int, str] = field(default_factory=dict)
    deaths: Counter[int] = field(default_factory=Counter)

    def wait_ended(self) -> str:
        """Wait for the process to end after its channel was closed, kill it after 5 s, and return how it ended."""
        try:
            code = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def spawn(number: int, settings: Settings, target: object, metrics_folder: str | None) -> WorkerProcess:
    """Start worker `number`, whose calls run on `target`; call it within `signals_blocked`.

    Raises OSError or RuntimeError if the system has no process, thread, file descriptor or memory left.
    """
    ours, theirs = socket.socketpair()
    connection = Connection(ours.detach())
    environment = dict(os.environ)
    for name, value in {**_MALLOC, **WITHOUT_KERAS}.items():
        environment.setdefault(name, value)
    if metrics_folder:
        environment[FOLDER] = metrics_folder
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(connection.close)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "tfship.serving.server.worker", str(theirs.fileno()), str(number)],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
            )
        on_failure.callback(process.wait)
        on_failure.callback(process.kill)
        channel = Channel(connection, target)
        patience = settings.worker_timeout_seconds
        reader = threading.Thread(target=_read, args=(number, process, channel, patience), daemon=True)
        with contextlib.suppress(OSError):
            connection.send_bytes(pickle.dumps(_settings_of(number, settings)))
        reader.start()
        on_failure.pop_all()
    return WorkerProcess(number, process, channel, reader, time.monotonic())


def _settings_of(number: int, settings: Settings) -> Settings:
    # A Unix socket, unlike a port, can't be shared: worker 0 or its replacement serves it.
    return settings if number == 0 else replace(settings, grpc_socket=None)


def _read(number: int, process: subprocess.Popen[bytes], channel: Channel, patience: int) -> None:
    if not channel.serve(patience, _START_SECONDS):
        log.warning("worker %d: no heartbeat for %d s; killed", number, patience)
        process.kill()


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Block SIGINT and SIGTERM in this thread, and in the processes and threads that it starts.

    Ctrl-C on a terminal and a service manager's SIGTERM reach all processes, but only the main process handles them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
