"""Everything about a server but its models."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from tfship.serving.models.loader import Loader
from tfship.serving.models.manager import LoadPolicy
from tfship.serving.server.tls import ServerTls

__all__ = ["ANY_PORT", "REUSE_PORT", "Limits", "Settings", "cores"]

ANY_PORT = -1
# The one of gRPC's arguments that isn't free to be chosen.
REUSE_PORT = "grpc.so_reuseport"


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_each(workers: int) -> int:
    """Return the number of cores for each of so many workers, 1 or more."""
    return max(1, cores() // max(1, workers))


@dataclass(frozen=True)
class Limits:
    """What one client may ask for; past it, the answer is an error at once.

    By HTTP statuses and gRPC codes: 413 or RESOURCE_EXHAUSTED for `body_bytes`, with room for some 30,000 MNIST
    images as JSON; 431 or RESOURCE_EXHAUSTED for `header_bytes`, the request line and the headers or metadata
    together (TensorFlow Serving lets 200 kB pass over REST); 400 or INVALID_ARGUMENT for `json_depth` and
    `tensor_elements`, those of each input.

    Per process and port: 503, or a closed connection, for `connections`; 429 or RESOURCE_EXHAUSTED for `requests`
    that are being answered or wait for it. Per connection: 408 or CANCELLED for a request that takes
    `request_seconds` to arrive, and over REST a second more per `slowest_bytes_per_second`; clients that take their
    answers more slowly are cut off. One that is idle for `idle_seconds` is closed.
    """

    body_bytes: int = 256 * 2**20
    header_bytes: int = 256 * 1024
    json_depth: int = 200
    tensor_elements: int = 2**28
    connections: int = 20_000
    requests: int = 1024
    request_seconds: float = 30.0
    slowest_bytes_per_second: int = 10_000
    idle_seconds: float = 300.0


@dataclass(frozen=True)
class Settings:
    """Everything about a server but its models.

    Ports: ANY_PORT takes a free one, and 0 is none; gRPC is served from the Unix socket `grpc_socket`, too.
    `workers` is the number of processes that share the ports, 0 to serve from the process that starts the
    server; the socket can't be shared, and is the first worker's. A worker without a heartbeat for
    `worker_timeout_seconds` is replaced. `metrics_path` is where Prometheus finds its page on the REST port, "" for
    TensorFlow Serving's, None for no metrics. With `tells_timing`, answers say where the time went (a Server-Timing
    header, and trailing metadata of that name). `config_file` is looked at every `config_poll_seconds`, if that
    isn't 0. `rest_timeout_seconds` is what a request over REST has until its
    inference must have begun, None for as long as it takes. `tls` is for both ports. `grpc_arguments` are gRPC
    core's own, by its names (grpc/impl/channel_arg_names.h). With `checks_methods`, a signature classifies or
    regresses only if it was exported for that. `log_format` is one of `serving.server.logs.FORMATS`.
    """

    host: str = "127.0.0.1"
    grpc_port: int = 8500
    grpc_socket: Path | None = None
    rest_port: int = 0
    tls: ServerTls | None = None
    workers: int = 0
    worker_timeout_seconds: int = 30
    grpc_threads: int = 4 * cores()
    rest_threads: int = 4 * cores()
    rest_timeout_seconds: float | None = 30.0
    grpc_arguments: tuple[tuple[str, int | str], ...] = ()
    packed_answers: bool = False
    cors: bool = False
    health: bool = False
    reflection: bool = True
    checks_methods: bool = False
    metrics_path: str | None = None
    log_format: str = "text"
    logs_requests: bool = False
    tells_timing: bool = False
    config_file: Path | None = None
    config_poll_seconds: float = 0.0
    loader: Loader = field(default_factory=Loader)
    loading: LoadPolicy = field(default_factory=LoadPolicy)
    limits: Limits = field(default_factory=Limits)
