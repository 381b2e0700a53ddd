"""Health check of the images: `python -m tfship.serving.server.healthcheck FILE` exits with 0 if the server responds.

It requests a REST path that doesn't exist: the response needs no thread of the inference pool, so that a busy server
counts as healthy. If REST is off, the gRPC port must accept a connection.
"""

import contextlib
import http.client
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from tfship.train.common import cli, files
from tfship.train.common.errors import Unreachable

_SECONDS = 4.0


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 if the server responds. Raises ArtifactError if it isn't ready, Unreachable if it doesn't respond."""
    parser = cli.parser(
        "python -m tfship.serving.server.healthcheck", "Check whether a model server responds."
    )
    parser.add_argument("ready_file", type=Path, help="the file of the server's flag --ready_file")
    ready = files.read_json(parser.parse_args(argv).ready_file)
    host, port = ready["host"], ready["rest_port"] or ready["grpc_port"]
    try:
        if ready["rest_port"]:
            with contextlib.closing(http.client.HTTPConnection(host, port, timeout=_SECONDS)) as connection:
                connection.request("GET", "/")
                connection.getresponse()
        else:
            socket.create_connection((host, port), _SECONDS).close()
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{host}:{port}: doesn't respond ({error})") from None
    return 0


if __name__ == "__main__":
    # Docker only allows 0 and 1.
    sys.exit(1 if cli.run(main) else 0)
