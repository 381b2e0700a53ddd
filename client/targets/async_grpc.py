"""Transport over TensorFlow Serving's gRPC API for asyncio."""

import asyncio
from typing import Any

import grpc
from grpc import aio
from numpy.typing import NDArray

from tfship.client.targets.binding import RawScores
from tfship.client.targets.connection import Connection, Servable
from tfship.client.targets.grpc import Messages, channel, metadata_request
from tfship.export.runtimes.protocol import Signature
from tfship.serving.protos.stubs import PredictionServiceStub
from tfship.train.common.errors import UsageError

__all__ = ["GrpcAio"]


class GrpcAio(Messages):
    """`client.targets.grpc.Grpc` with coroutines. Its channel belongs to the event loop that runs it first."""

    def __init__(self, connection: Connection, servable: Servable) -> None:
        super().__init__(connection, servable)
        self._channel = channel(connection, aio)
        self._stub = PredictionServiceStub(self._channel)

    async def send(self, images: NDArray[Any]) -> RawScores:
        """See `Transport.send`."""
        return self.understood(await self._call(self._stub.Predict, self.request(images)), len(images))

    async def signatures(self) -> dict[str, Signature]:
        """See `Transport.signatures`."""
        return self._signatures(
            await self._call(self._stub.GetModelMetadata, metadata_request(self._servable))
        )

    async def close(self) -> None:
        """Close the channel once the calls in flight have ended, at the latest after the timeout."""
        await self._channel.close(self._connection.timeout)

    async def _call(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, **self._call_options(request))
        except aio.UsageError as error:
            raise UsageError(f"{self._where}: {error}") from None  # the channel is closed
        except grpc.RpcError as error:
            # In a thread, since it may wait for a TLS handshake.
            raise await asyncio.to_thread(self._failure, error, request) from error
