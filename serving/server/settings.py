"""Server settings, except for the models."""

from dataclasses import dataclass, field
from pathlib import Path

from tfship.serving.models.loader import Loader
from tfship.serving.models.manager import LoadPolicy
from tfship.serving.server.cpu_cores import cores
from tfship.serving.server.tls import ServerTls

__all__ = ["ANY_PORT", "GRPC_ARGUMENTS", "REUSE_PORT", "Limits", "Settings", "cores", "cores_each"]

ANY_PORT = -1
# The only gRPC argument that users can't set.
REUSE_PORT = "grpc.so_reuseport"
# gRPC core's arguments (grpc/impl/channel_arg_names.h) that have an effect.
GRPC_ARGUMENTS = (
    "grpc.max_concurrent_streams",
    "grpc.max_connection_age_ms",
    "grpc.max_connection_idle_ms",
    "grpc.max_metadata_size",
    "grpc.max_receive_message_length",
    "grpc.max_send_message_length",
)


def cores_each(workers: int) -> int:
    """Return the number of cores available to each of `workers` workers, at least 1."""
    return max(1, cores() // max(1, workers))


@dataclass(frozen=True)
class Limits:
    """Limits for clients; a request that exceeds one gets an error at once.

    The HTTP status and gRPC code for each limit:

    - `body_bytes`: 413, RESOURCE_EXHAUSTED. The default has room for about 30,000 MNIST images as JSON.
    - `header_bytes`: 431, RESOURCE_EXHAUSTED. It counts the request line and headers, or the metadata. TensorFlow
      Serving accepts 200 kB over REST.
    - `json_depth` and `tensor_elements` (of each input): 400, INVALID_ARGUMENT.
    - `connections`, per process and port: 503, or a closed connection.
    - `requests`, in flight or queued, per process and port: 429, RESOURCE_EXHAUSTED.
    - `request_seconds` for a request to arrive: 408, CANCELLED. REST requests get a second more for each
      `slowest_bytes_per_second` bytes. Clients that read responses more slowly than this rate are disconnected.
    - `idle_seconds`: an idle connection is closed.
    """

    body_bytes: int = 256 * 2**20
    header_bytes: int = 256 * 1024
    json_depth: int = 200
    tensor_elements: int = 2**28
    connections: int = 20_000
    requests: int = 1024
    streams: int = 1024
    request_seconds: float = 30.0
    slowest_bytes_per_second: int = 10_000
    idle_seconds: float = 300.0


@dataclass(frozen=True)
class Settings:
    """Server settings, except for the models.

    - `grpc_port`, `rest_port`: ANY_PORT for any free port, 0 for none. `tls` applies to both, and is read again when
      `tls_file` changes.
    - `grpc_socket`: an additional Unix socket for gRPC. It can't be shared, so that the first worker serves it.
    - `workers`: number of processes that share the ports; with 0, the main process serves.
    - `worker_timeout_seconds`: a worker without a heartbeat for this time is replaced.
    - `metrics_path`: path of the Prometheus page on the REST port, "" for TensorFlow Serving's, None for no metrics.
    - `metrics_folder`: workers share their counters there; None if the main process serves.
    - `tells_timing`: responses report timings (a Server-Timing header, or trailing metadata of that name).
    - `web_folder`: the built files of the web page, which the REST port serves; None: no page.
    - `config_file` is checked for changes every `config_poll_seconds`; 0: never.
    - `rest_timeout_seconds`: deadline by which a REST request's inference must begin; None: no deadline.
    - `grpc_arguments`: gRPC core's arguments by name; those in GRPC_ARGUMENTS have an effect.
    - `http2_engine`: one of `serving.grpc.http2.ENGINES`.
    - `checks_methods`: Classify and Regress accept only signatures that were exported for them.
    - `packed_answers`: gRPC responses have tensor_content instead of typed fields.
    - `log_format`: one of `serving.server.logs.FORMATS`.
    """

    host: str = "127.0.0.1"
    grpc_port: int = 8500
    grpc_socket: Path | None = None
    rest_port: int = 0
    tls: ServerTls | None = None
    tls_file: Path | None = None
    workers: int = 0
    worker_timeout_seconds: int = 30
    grpc_threads: int = 4 * cores()
    rest_threads: int = 4 * cores()
    rest_timeout_seconds: float | None = 30.0
    grpc_arguments: tuple[tuple[str, int | str], ...] = ()
    http2_engine: str = "auto"
    packed_answers: bool = False
    cors: bool = False
    health: bool = False
    reflection: bool = True
    checks_methods: bool = False
    metrics_path: str | None = None
    metrics_folder: Path | None = None
    log_format: str = "text"
    logs_requests: bool = False
    tells_timing: bool = False
    web_folder: Path | None = None
    config_file: Path | None = None
    config_poll_seconds: float = 0.0
    loader: Loader = field(default_factory=Loader)
    loading: LoadPolicy = field(default_factory=LoadPolicy)
    limits: Limits = field(default_factory=Limits)
