"""The client library for asyncio: `AsyncClient`."""

from __future__ import annotations  # so that help() shows ImageLike, not its members

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

from numpy.typing import NDArray

from tfship.client.api.base_client import BaseClient, Prediction, enumerated
from tfship.client.api.inputs import ImageLike, Query
from tfship.client.images.batches import BATCH, Exchange, batched
from tfship.client.targets.binding import Binding, RawScores
from tfship.export.runtimes.protocol import Signature
from tfship.train.common.errors import Refused, TfshipError, UsageError

__all__ = ["AsyncClient"]

_Result = TypeVar("_Result")


class AsyncClient(BaseClient):
    """`Client` for asyncio, with the same arguments, results and errors.

        async with AsyncClient("localhost:8500", model="cnn") as client:
            prediction = await client.predict("seven.png")
            several = await asyncio.gather(*map(client.predict, paths))

    gRPC runs natively in the event loop, and all predictions share one connection. REST requests run in up to 32
    threads, since requests has no coroutines. Images are read and prepared in threads, too, so the loop isn't blocked.

    A waiting task may be cancelled at any time, also by asyncio.timeout. This cancels a gRPC call. A REST request
    continues in its thread until the response or the timeout, and its result is dropped.

    An AsyncClient belongs to the event loop in which it is first used, and raises UsageError in others. See `Client`
    for arguments and errors.
    """

    _loop: asyncio.AbstractEventLoop | None = None
    _binding_task: asyncio.Task[None] | None = None

    async def predict(self, image: ImageLike) -> Prediction:
        """Return the prediction for one image; see `Client.predict`."""
        target, binding = await self._opened()
        query = await asyncio.to_thread(self._query, image, binding)
        await _complete(self._exchange([query], binding), target)
        return self._prediction(query)

    @overload
    async def predict_many(
        self, images: Iterable[ImageLike], *, errors: Literal["raise"] = "raise"
    ) -> list[Prediction]: ...

    @overload
    async def predict_many(
        self, images: Iterable[ImageLike], *, errors: Literal["return"]
    ) -> list[Prediction | TfshipError]: ...

    async def predict_many(
        self, images: Iterable[ImageLike], *, errors: Literal["raise", "return"] = "raise"
    ) -> list[Prediction] | list[Prediction | TfshipError]:
        """Return the predictions for images, in their order; see `Client.predict_many`.

        The iterable `images` is consumed in the event loop, 64 at a time.
        """
        numbered, strict = enumerated(images, errors), errors == "raise"
        target, binding = await self._opened()

        def prepared(block: Sequence[tuple[int, Any]]) -> list[Query]:
            return [self._numbered(number, image, binding, strict) for number, image in block]

        queries: list[Query] = []
        while block := list(itertools.islice(numbered, BATCH)):
            for batch in batched(await asyncio.to_thread(prepared, block)):
                await _complete(self._exchange(batch, binding, strict), target)
                queries += batch
        return list(map(self._outcome, queries))

    async def close(self) -> None:
        """Close the connections once the requests in flight have ended."""
        self._closed = True
        if self._target is not None:
            self._check_loop()
            await self._target.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _opened(self) -> tuple[Any, Binding]:
        self._check_open()
        if self._target is None:
            self._target, self._loop = self._transport(), asyncio.get_running_loop()
        self._check_loop()
        while self._binding is None:
            # All waiting tasks share one request, which the cancellation of one of them doesn't cancel.
            if self._binding_task is None:
                self._binding_task = asyncio.ensure_future(self._request_binding())
            await asyncio.shield(self._binding_task)
        return self._target, self._binding

    async def _request_binding(self) -> None:
        found: dict[str, Signature] | Refused
        try:
            found = await self._target.signatures()
        except Refused as error:
            found = error
        finally:
            self._binding_task = None
        self._bind(self._target, found)

    def _check_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise UsageError(f"{self!r} belongs to another event loop; create one client per event loop")

    def _transport(self) -> Any:
        if self._is_rest:
            from tfship.client.targets.rest import MOST_CONNECTIONS, Rest

            return _InThreads(Rest(self._connection, self._servable), MOST_CONNECTIONS)
        from tfship.client.targets.async_grpc import GrpcAio

        return GrpcAio(self._connection, self._servable)


async def _complete(steps: Exchange, target: Any) -> None:
    """Send the tensors of an exchange, as `client.images.batches.complete` does."""
    with contextlib.suppress(StopIteration):
        tensor = next(steps)
        while True:
            try:
                received = await target.send(tensor)
            except Refused as error:
                tensor = steps.throw(error)
            else:
                tensor = steps.send(received)


class _InThreads:
    """A blocking transport with coroutines, which run it in `threads` threads.

    It doesn't use the event loop's threads: a slow server must not block the loop's DNS lookups.
    """

    def __init__(self, target: Any, threads: int) -> None:
        self._target, self._threads = target, ThreadPoolExecutor(threads, "tfship predict")

    @property
    def binding(self) -> Binding:
        """See `Transport`."""
        binding: Binding = self._target.binding
        return binding

    @binding.setter
    def binding(self, binding: Binding) -> None:
        self._target.binding = binding

    async def send(self, images: NDArray[Any]) -> RawScores:
        """See `Transport.send`."""
        return await self._in_thread(self._target.send, images)

    async def signatures(self) -> dict[str, Signature]:
        """See `Transport.signatures`."""
        return await self._in_thread(self._target.signatures)

    async def close(self) -> None:
        """See `Transport.close`."""
        await asyncio.to_thread(self._threads.shutdown)
        self._target.close()

    async def _in_thread(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        try:
            future = self._threads.submit(function, *arguments)
        except RuntimeError as error:  # the threads have ended
            raise UsageError(f"the client was closed ({error})") from None
        return await asyncio.wrap_future(future)
