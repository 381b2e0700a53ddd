"""`client.api.client`'s Client for asyncio."""

from __future__ import annotations  # so that help() says ImageLike, and not all that it may be

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

from numpy.typing import NDArray

from tfship.client.api.base_client import Asked, Configured, Prediction, culprits, several, stacked
from tfship.client.api.inputs import ImageLike
from tfship.client.images.batches import BATCH, batched
from tfship.client.targets.binding import ENCODED, Answer, Binding
from tfship.export.runtimes.protocol import Signature
from tfship.train.common.errors import Refused, TfshipError, UsageError

__all__ = ["AsyncClient"]

_Result = TypeVar("_Result")


class AsyncClient(Configured):
    """Does what `Client` does, with its arguments, results and errors, in an event loop.

        async with AsyncClient("localhost:8500", model="cnn") as client:
            prediction = await client.predict("seven.png")
            several = await asyncio.gather(*map(client.predict, paths))

    gRPC is native to the loop, and any number of predictions share one connection. REST, for which requests knows no
    coroutines, is asked in up to 32 threads of the client's own. Pictures are read and prepared in threads, too, so
    that the loop isn't kept waiting.

    A task that waits here may be cancelled at any time, also by asyncio.timeout. A gRPC call is cancelled with it; a
    thread that asks over REST goes on until its answer or the end of `timeout`, and what it hears is dropped.

    An AsyncClient belongs to the event loop in which it is first used, and raises UsageError in others. See `Client`
    for the arguments and the errors.
    """

    _loop: asyncio.AbstractEventLoop | None = None
    _finding: asyncio.Task[None] | None = None

    async def predict(self, image: ImageLike) -> Prediction:
        """Return what the model says of one image; see `Client.predict`."""
        target, binding = await self._opened()
        asked = Asked("picture", await asyncio.to_thread(self._row, image, "picture", binding))
        self._read([asked], await target.answer(stacked([asked.row], binding)))
        return self._prediction(asked)

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
        """Return what the model says of each image, in their order; see `Client.predict_many`.

        `images` is gone through in the event loop, 64 at a time.
        """
        numbered, strict = several(images, errors), errors == "raise"
        target, binding = await self._opened()

        def prepared(block: Sequence[tuple[int, Any]]) -> list[Asked]:
            return [self._prepared(number, image, binding, strict) for number, image in block]

        asked: list[Asked] = []
        while block := list(itertools.islice(numbered, BATCH)):
            for batch in batched(await asyncio.to_thread(prepared, block)):
                asked += await self._asked(batch, target, binding, strict)
        return list(map(self._outcome, asked))

    async def close(self) -> None:
        """Close the connections, when what is under way has ended."""
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
            self._target, self._loop = self._made(), asyncio.get_running_loop()
        self._check_loop()
        while self._binding is None:
            # All who wait ask once, and none who is cancelled takes the answer from the others.
            if self._finding is None:
                self._finding = asyncio.ensure_future(self._find())
            await asyncio.shield(self._finding)
        return self._target, self._binding

    async def _find(self) -> None:
        found: dict[str, Signature] | Refused
        try:
            found = await self._target.signatures()
        except Refused as error:
            found = error
        finally:
            self._finding = None
        self._bind(self._target, found)

    def _check_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise UsageError(f"{self!r} belongs to another event loop; make one in each")

    def _made(self) -> Any:
        if self._is_rest:
            from tfship.client.targets.rest import MOST_CONNECTIONS, Rest

            return _InThreads(Rest(self._connection, self._servable), MOST_CONNECTIONS)
        from tfship.client.targets.async_grpc import GrpcAio

        return GrpcAio(self._connection, self._servable)

    async def _asked(
        self, batch: Sequence[Asked], target: Any, binding: Binding, strict: bool
    ) -> Sequence[Asked]:
        """Ask for the images of a batch that can be asked for, and return all."""
        asked = [each for each in batch if each.error is None]
        try:
            for part in binding.parts(len(asked)):
                rows = [each.row for each in asked[part]]
                self._read(asked[part], await target.answer(stacked(rows, binding)))
        except Refused as refusal:
            # As in client.api.client.
            if binding.dtype != ENCODED or len(asked) == 1:
                raise
            for each in asked:
                if each.answer is not None:
                    continue
                try:
                    self._read([each], await target.answer(stacked([each.row], binding)))
                except Refused as error:
                    each.error = Refused(f"{each.name}: {error}")
            culprits(asked, refusal, strict=strict)
        return batch


class _InThreads:
    """A target that waits for its answers, with coroutines that don't.

    In threads of its own: a server that keeps them waiting must not take those in which the loop looks up names.
    """

    def __init__(self, target: Any, threads: int) -> None:
        self._target, self._threads = target, ThreadPoolExecutor(threads, "tfship predict")

    @property
    def binding(self) -> Binding:
        """See `client.targets.binding`."""
        binding: Binding = self._target.binding
        return binding

    @binding.setter
    def binding(self, binding: Binding) -> None:
        self._target.binding = binding

    async def answer(self, images: NDArray[Any]) -> Answer:
        return await self._in_a_thread(self._target.answer, images)

    async def signatures(self) -> dict[str, Signature]:
        return await self._in_a_thread(self._target.signatures)

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)
        self._target.close()

    async def _in_a_thread(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        try:
            answering = self._threads.submit(function, *arguments)
        except RuntimeError as error:  # the threads have ended
            raise UsageError(f"the client has been closed ({error})") from None
        return await asyncio.wrap_future(answering)
