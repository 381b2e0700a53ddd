"""A worker process: a `Host` whose methods another process calls. Started by `worker_pool`, never by hand."""

import ctypes
import os
import pickle
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from tfship.serving.protos.status import Code, StatusError
from tfship.serving.server import logs
from tfship.serving.server.host import Host
from tfship.serving.server.rpc import Channel, ChannelClosed
from tfship.serving.server.settings import Settings

__all__ = ["main"]

_TRIM_SECONDS = 10.0


def main(descriptor: int, number: int) -> None:
    """Serve what the process at the other end of the connection says, until it says `close` or is gone."""
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

    threading.Thread(target=_keep_trimmed, name="trim", daemon=True).start()
    host = Host(settings, reload)
    channel = Channel(connection, host)
    channel.beat()
    channel.serve()
    # Whoever started this process has closed the ports by `close`, or has died: there is nothing to wait for.
    host.close()
    sys.stdout.flush()
    # Threads of the runtimes and of gRPC may still be busy; what they do is of no use to anyone any more.
    os._exit(0)


def _keep_trimmed() -> None:
    """Give freed memory back to the system every now and then.

    glibc does so by itself only at the end of its heap, which a small piece that stays holds: without this, a process
    grows for as long as large requests meet in new ways (12 MiB in a million requests).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim:
        time.sleep(_TRIM_SECONDS)
        trim(0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
