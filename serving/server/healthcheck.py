"""Health check: `python -m tfship.serving.server.healthcheck FILE` exits with 0 if the server of a ready file answers.

The images' HEALTHCHECK. It asks over REST for a page that isn't there: the answer needs no thread of the pool that
runs inferences, so that a busy server isn't taken for a dead one. Where REST is off, the gRPC port must take a
connection.
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
    """Return 0 if the server answers. Raises ArtifactError if it isn't ready, Unreachable if it doesn't."""
    parser = cli.parser(
        "python -m tfship.serving.server.healthcheck", "Ask a model server whether it answers."
    )
    parser.add_argument("ready_file", type=Path, help="the file that the server's --ready_file names")
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
        raise Unreachable(f"{host}:{port}: doesn't answer ({error})") from None
    return 0


if __name__ == "__main__":
    # Docker knows 0 and 1 only.
    sys.exit(1 if cli.run(main) else 0)
