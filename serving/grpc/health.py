"""gRPC's health service (grpc.health.v1.Health): Check, Watch and List."""

from typing import Any

from grpc_health.v1 import health_pb2

from tfship.serving.grpc.methods import Method, ServerStream, Unary, parsed
from tfship.serving.protos.status import Code, StatusError

__all__ = ["Health"]

_SERVICE = "grpc.health.v1.Health"
_Status = health_pb2.HealthCheckResponse


class Health:
    """The health of `services`, "" meaning the whole server: SERVING until `stop`. Used by the loop's thread only."""

    def __init__(self, services: tuple[str, ...]) -> None:
        self._services = frozenset(services)
        self._status = _Status.SERVING
        self._watches: set[_Watch] = set()

    @property
    def methods(self) -> dict[bytes, Method]:
        """The service's methods by path."""
        check = Unary.of("Check", health_pb2.HealthCheckRequest, self._check, place="loop")
        listed = Unary.of("List", health_pb2.HealthListRequest, self._list, place="loop")
        return {
            f"/{_SERVICE}/Check".encode(): check,
            f"/{_SERVICE}/List".encode(): listed,
            f"/{_SERVICE}/Watch".encode(): lambda stream: _Watch(self, stream),
        }

    def stop(self) -> None:
        """Set all services to NOT_SERVING, so that load balancers send no new requests."""
        self._status = _Status.NOT_SERVING
        for watch in self._watches.copy():
            watch.tell()

    def status(self, service: str) -> Any:
        """Return the status of a service, or SERVICE_UNKNOWN."""
        return self._status if service in self._services else _Status.SERVICE_UNKNOWN

    def _check(self, request: Any, _call: object) -> Any:
        if request.service not in self._services:
            raise StatusError(Code.NOT_FOUND, f"unknown service {request.service!r}"[:200])
        return _Status(status=self._status)

    def _list(self, _request: Any, _call: object) -> Any:
        response = health_pb2.HealthListResponse()
        for service in sorted(self._services):
            response.statuses[service].status = self._status
        return response


class _Watch:
    """A call of Watch, a `Streaming` method: the status now and after each change."""

    def __init__(self, health: Health, stream: ServerStream) -> None:
        self._health, self._stream = health, stream
        self._service: str | None = None

    def on_message(self, data: bytes) -> None:
        if self._service is not None:
            raise StatusError(Code.UNIMPLEMENTED, "expected one message")
        self._service = parsed(health_pb2.HealthCheckRequest, data).service
        self._health._watches.add(self)
        self.tell()

    def on_end(self) -> None:
        if self._service is None:
            raise StatusError(Code.UNIMPLEMENTED, "no message received; expected one")

    def on_closed(self) -> None:
        self._health._watches.discard(self)

    def tell(self) -> None:
        """Send the status."""
        assert self._service is not None  # noqa: S101 - it is watched after the request only
        self._stream.send(_Status(status=self._health.status(self._service)).SerializeToString())
