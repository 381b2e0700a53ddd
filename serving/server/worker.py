"""Worker processes, started by `worker_process` only.

A worker is a `Host` whose methods the main process calls.
"""

import contextlib
import ctypes
import os
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from tfship.train.common import tensorflow_loader
from tfship.train.common.quick_import import uncollected

with uncollected():
    # Imported on demand elsewhere; here once for all workers.
    import tfship.export.runtimes.litert
    import tfship.serving.inference.batch_splitting
    import tfship.serving.models.warmup  # noqa: F401
    from tfship.serving.protos.status import Code, StatusError
    from tfship.serving.server import logs
    from tfship.serving.server.host import Host
    from tfship.serving.server.rpc import Channel, ChannelClosed

__all__ = ["main"]

_TRIM_SECONDS = 10.0


def main(runtime: str, *descriptors: int) -> NoReturn:
    """Fork a worker for each of `descriptors`, those of the connections to the main process.

    Everything was imported before, so that workers share its memory; with the `runtime` "tensorflow", TensorFlow too.
    """
    if runtime == "tensorflow":
        # Without TensorFlow, the loader tells what is missing.
        with contextlib.suppress(ImportError):
            tensorflow_loader.preload()
    for descriptor in descriptors:
        if not os.fork():
            for other in descriptors:
                # Only this worker may hold the other end of its connection.
                if other != descriptor:
                    os.close(other)
            _run(descriptor)
    os._exit(0)  # the end of the interpreter would take time


def _run(descriptor: int) -> NoReturn:
    """Run a worker's calls until the main process calls `close` or ends; `descriptor` is that of the connection."""
    connection = Connection(descriptor)
    try:
        connection.send(os.getpid())
        number, settings = connection.recv()
    except (EOFError, OSError):
        os._exit(0)  # the server was stopped before this process was needed
    with contextlib.suppress(OSError):
        # The name in ps, top and the kernel's log.
        Path("/proc/self/comm").write_text(f"worker-{number}")
    logs.configure(settings.log_format, number)

    def reload(config: Any) -> None:
        try:
            channel.call("reload", config.SerializeToString())
        except ChannelClosed:
            raise StatusError(Code.UNAVAILABLE, "the server is stopping") from None

    threading.Thread(target=_trim_memory, name="trim", daemon=True).start()
    host = Host(settings, reload)
    channel = Channel(connection, host)
    channel.start_heartbeat()
    channel.serve()
    # The main process has called `close` or has died, so there is no request to wait for.
    host.close()
    sys.stdout.flush()
    # Exit without waiting for threads of the runtimes and gRPC: their results are no longer needed.
    os._exit(0)


def _trim_memory() -> None:
    """Return freed memory to the system every `_TRIM_SECONDS`.

    glibc itself only returns memory at the end of the heap, which a small allocation can block. Without trimming, a
    process with large concurrent requests grows by 12 MiB in a million requests.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim:
        time.sleep(_TRIM_SECONDS)
        trim(0)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
