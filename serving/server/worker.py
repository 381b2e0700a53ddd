"""Worker process, started by `worker_pool` only: a `Host` whose methods the main process calls."""

import ctypes
import os
import pickle
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from tfship.train.common.quick_import import uncollected

with uncollected():  # most of a worker's start
    from tfship.serving.protos.status import Code, StatusError
    from tfship.serving.server import logs
    from tfship.serving.server.host import Host
    from tfship.serving.server.rpc import Channel, ChannelClosed
    from tfship.serving.server.settings import Settings

__all__ = ["main"]

_TRIM_SECONDS = 10.0


def main(descriptor: int, number: int) -> None:
    """Run calls of the main process until it calls `close` or ends.

    `descriptor` is the file descriptor of the connection, `number` the worker's number.
    """
    connection = Connection(descriptor)
    try:
        settings: Settings = pickle.loads(connection.recv_bytes())  # noqa: S301 - our own process
    except EOFError:
        return  # the server was stopped before this process was needed
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
    main(*map(int, sys.argv[1:]))
