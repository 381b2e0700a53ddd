"""gRPC server on a port and a Unix socket."""

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
    """Remove the traceback that grpcio logs for headers that aren't UTF-8."""
    record.exc_info = None
    return True


logging.getLogger("grpc._cython.cygrpc").addFilter(_without_traceback)
# At shutdown, maximum time for refusing new calls with UNAVAILABLE before gRPC begins to shut down.
_REFUSING_SECONDS = 2.0


class GrpcServer:
    """grpcio's server with all services, on `port` (0: none) and `settings.grpc_socket`.

    Raises UsageError if it can't listen on one of them.
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
            # Without TLS, this limits the time until a connection's first frame.
            "grpc.server_handshake_timeout_ms": round(limits.request_seconds * 1000),
            **dict(settings.grpc_arguments),
            # Only the workers of one server share a port. A second server on it must fail instead of silently taking
            # half of the requests.
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
        # Last: it refuses every method that isn't registered before.
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
            # gRPC's TLS library doesn't support every kind of key that Python's does.
            key = ", or is server_key of a kind that gRPC doesn't support" if tls else ""
            raise UsageError(f"{where}: can't listen there; is the port in use{key}?") from None

    def start(self) -> None:
        """Start serving."""
        self._server.start()

    def stop(self, grace_seconds: float) -> None:
        """Refuse new requests and give in-flight ones `grace_seconds`; doesn't wait for them."""
        if self._health:
            # First, so that load balancers send no new requests.
            self._health.enter_graceful_shutdown()
        begin = time.monotonic()
        self._arrivals.refuse(min(grace_seconds, _REFUSING_SECONDS))
        self._stopped = self._server.stop(max(0.0, grace_seconds - (time.monotonic() - begin)))

    def wait(self) -> None:
        """Wait until the shutdown that `stop` began is complete."""
        self._stopped.wait()
        self._arrivals.close()
