"""A model behind TensorFlow Serving's gRPC API, for asyncio."""

import asyncio
from typing import Any

import grpc
from grpc import aio
from numpy.typing import NDArray

from tfship.client.targets.binding import Answer
from tfship.client.targets.connection import Connection, Servable
from tfship.client.targets.grpc import Messages, channel
from tfship.export.runtimes.protocol import Signature
from tfship.serving.protos.stubs import PredictionServiceStub
from tfship.train.common.errors import UsageError

__all__ = ["GrpcAio"]


class GrpcAio(Messages):
    """`client.targets.grpc.Grpc` with coroutines, over one kept channel of the event loop that runs when it is made."""

    def __init__(self, connection: Connection, servable: Servable) -> None:
        super().__init__(connection, servable)
        self._channel = channel(connection, aio)
        self._stub = PredictionServiceStub(self._channel)

    async def answer(self, images: NDArray[Any]) -> Answer:
        """Ask for images as the binding says, encoded ones as dtype object [N]."""
        return self.understood(await self._ask(self._stub.Predict, self.request(images)), len(images))

    async def signatures(self) -> dict[str, Signature]:
        """Return the signatures as the server describes them."""
        return self._described(await self._ask(self._stub.GetModelMetadata, self._metadata_request()))

    async def close(self) -> None:
        """Close the channel, when what is under way has ended."""
        await self._channel.close(self._connection.timeout)

    async def _ask(self, call: Any, request: Any) -> Any:
        try:
            return await call(request, **self._terms(request))
        except aio.UsageError as error:
            raise UsageError(f"{self._where}: {error}") from None  # the channel is closed
        except grpc.RpcError as error:
            # A handshake may take a while.
            raise await asyncio.to_thread(self._failure, error, request) from error
