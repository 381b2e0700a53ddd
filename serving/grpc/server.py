"""The gRPC services of a process, and the limits of their connections."""

from dataclasses import replace

from tfship.serving.grpc import http2
from tfship.serving.grpc.connection import GrpcService
from tfship.serving.grpc.health import Health
from tfship.serving.grpc.methods import Methods
from tfship.serving.grpc.reflection import Reflection
from tfship.serving.grpc.services import SERVICES
from tfship.serving.inference.request_context import Observer
from tfship.serving.open_inference import messages as open_inference
from tfship.serving.protos.messages import POOL
from tfship.serving.server.connections import Connections
from tfship.serving.server.dispatch import Dispatcher
from tfship.serving.server.settings import Limits, Settings

__all__ = ["GrpcServer"]


class GrpcServer:
    """`methods`, health and reflection. `service` is what connections need."""

    def __init__(
        self, methods: Methods, observer: Observer, dispatcher: Dispatcher, settings: Settings
    ) -> None:
        self.health = Health(("", *SERVICES)) if settings.health else None
        limits, send_bytes, age_seconds = _limits(settings)
        self.service = GrpcService(
            self._all(methods, settings),
            dispatcher,
            observer,
            limits,
            Connections(settings.limits.connections),
            http2.resolved(settings.http2_engine),
            settings.tells_timing,
            send_bytes,
            age_seconds,
        )

    def _all(self, found: Methods, settings: Settings) -> Methods:
        if self.health:
            found = {**found, **self.health.methods}
        if settings.reflection:
            names = {path.decode().split("/")[1] for path in found}
            found = {**found, **Reflection(names, [POOL, open_inference.POOL]).methods}
        return found


def _limits(settings: Settings) -> tuple[Limits, int | None, float | None]:
    """Return the limits, the largest response in bytes and the longest life of a connection in seconds."""
    limits = settings.limits
    arguments = {name: value for name, value in settings.grpc_arguments if isinstance(value, int)}

    def bytes_of(name: str, otherwise: int) -> int:
        value = arguments.get(f"grpc.{name}", otherwise)
        return value if value >= 0 else 2**31 - 1  # -1 means no limit; protobuf has one of 2 GiB

    idle = arguments.get("grpc.max_connection_idle_ms")
    age = arguments.get("grpc.max_connection_age_ms")
    changed = replace(
        limits,
        body_bytes=bytes_of("max_receive_message_length", limits.body_bytes),
        header_bytes=bytes_of("max_metadata_size", limits.header_bytes),
        streams=bytes_of("max_concurrent_streams", limits.streams),
        idle_seconds=idle / 1e3 if idle else limits.idle_seconds,
    )
    sends = bytes_of("max_send_message_length", -1)
    return changed, sends, age / 1e3 if age else None
