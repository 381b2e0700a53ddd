"""The gRPC port, and a Unix socket beside it."""

import logging
import time
from urllib.parse import quote

import grpc
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from tfship.serving.grpc import bundled_services
from tfship.serving.grpc.services import SERVICES, Services
from tfship.serving.grpc.uploads import Arrivals, Threads
from tfship.serving.protos.messages import POOL
from tfship.serving.server.settings import REUSE_PORT, Settings
from tfship.serving.server.sockets import address
from tfship.serving.server.tls import ServerTls
from tfship.train.common.errors import UsageError

__all__ = ["GrpcServer"]


def _without_traceback(record: logging.LogRecord) -> bool:
    """Keep what grpcio logs of a client's headers that aren't UTF-8 to one line."""
    record.exc_info = None
    return True


logging.getLogger("grpc._cython.cygrpc").addFilter(_without_traceback)
# At the end, for calls that are on their way, and for clients that don't stop calling.
_REFUSING_SECONDS = 2.0


class GrpcServer:
    """grpcio's server with all services, on `port` (0: none) and `settings.grpc_socket`.

    Raises UsageError if one of them can't be had.
    """

    def __init__(self, services: Services, settings: Settings, port: int) -> None:
        limits = settings.limits
        threads = Threads(settings.grpc_threads)
        self._arrivals = Arrivals(threads, limits.request_seconds)
        options = {
            "grpc.max_receive_message_length": limits.body_bytes,
            "grpc.max_send_message_length": -1,  # protobuf's own 2 GiB, as in TensorFlow Serving
            "grpc.max_metadata_size": limits.header_bytes,
            "grpc.absolute_max_metadata_size": limits.header_bytes,
            "grpc.max_allowed_incoming_connections": limits.connections,
            "grpc.max_connection_idle_ms": round(limits.idle_seconds * 1000),
            # Also for a connection's first frame, without TLS.
            "grpc.server_handshake_timeout_ms": round(limits.request_seconds * 1000),
            **dict(settings.grpc_arguments),
            # Only workers of one server share a port: a second server there must be an error, not a silent half
            # of the requests.
            REUSE_PORT: int(settings.workers > 0),
        }
        self._server = grpc.server(
            threads,  # type: ignore[arg-type]  # it takes any executor
            interceptors=[self._arrivals],
            options=tuple(options.items()),
            maximum_concurrent_rpcs=limits.requests,
        )
        self._health: health.HealthServicer | None = None
        if settings.health:
            self._health = health.HealthServicer()
            bundled_services.add(self._server, health_pb2.DESCRIPTOR.services_by_name["Health"], self._health)
            for name in ("", *SERVICES):
                self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        if settings.reflection:
            names = [f"tensorflow.serving.{name}" for name in SERVICES]
            names += [health.SERVICE_NAME] if settings.health else []
            service = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
            servicer = reflection.ReflectionServicer((*names, reflection.SERVICE_NAME), POOL)
            bundled_services.add(self._server, service, servicer)
        # Last: it refuses every method that nothing before it knows.
        services.add_to(self._server)
        self.port = self._listen(address(settings.host, max(0, port)), settings.tls) if port else 0
        if settings.grpc_socket:
            self._listen(f"unix:{quote(str(settings.grpc_socket))}", settings.tls)

    def _listen(self, where: str, tls: ServerTls | None) -> int:
        try:
            if tls:
                return int(self._server.add_secure_port(where, tls.credentials()))
            return int(self._server.add_insecure_port(where))
        except RuntimeError:
            # gRPC has a TLS library of its own, which doesn't know every kind of key that Python's knows.
            key = ", or the server_key of a kind that gRPC doesn't take" if tls else ""
            raise UsageError(f"{where}: can't listen there; is the port in use{key}?") from None

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def stop(self, grace_seconds: float) -> None:
        """Take no more requests, and give those that run `grace_seconds` to end; doesn't wait for it."""
        if self._health:
            # First of all, so that nothing new is sent here.
            self._health.enter_graceful_shutdown()
        begin = time.monotonic()
        self._arrivals.refuse(min(grace_seconds, _REFUSING_SECONDS))
        self._stopped = self._server.stop(max(0.0, grace_seconds - (time.monotonic() - begin)))

    def wait(self) -> None:
        """Wait until `stop` is done."""
        self._stopped.wait()
        self._arrivals.close()
