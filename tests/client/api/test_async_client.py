"""The library's `AsyncClient` in event loops."""

import asyncio
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from client_fixtures import BOTH, INK, SAMPLES, SEVEN, address, counted, digits_served
from serving_fixtures import Client as Ports
from tfship.client import AsyncClient, DataError, Prediction, Unreachable, UsageError


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    with digits_served(tmp_path_factory.mktemp("digits")) as ports:
        yield ports


@BOTH
def test_many_at_a_time_in_an_event_loop(digits: Ports, kind: str) -> None:
    async def asked() -> list[Prediction]:
        async with AsyncClient(address(kind, digits)) as client:
            assert [each.label for each in await client.predict_many(path for path, _ in SAMPLES)] == [
                label for _, label in SAMPLES
            ]
            with pytest.raises(DataError, match="image 2: not an image"):
                await client.predict_many([INK, b"x"])
            returned = await client.predict_many([INK] * 70 + [b"x"], errors="return")
            assert [type(each) for each in returned] == [Prediction] * 70 + [DataError]
            return await asyncio.gather(*(client.predict(INK) for _ in range(200)))

    found = asyncio.run(asked())
    assert {each.label for each in found} == {"7"}
    assert {each.version for each in found} == {1 if kind == "grpc" else None}


def test_an_event_loop_has_one_grpc_connection(digits: Ports) -> None:
    async def asked(port: int) -> set[str]:
        async with AsyncClient(f"127.0.0.1:{port}") as client:
            return {each.label for each in await asyncio.gather(*(client.predict(INK) for _ in range(100)))}

    with counted(digits.grpc_port) as (port, _):
        assert asyncio.run(asked(port)) == {"7"}


@BOTH
def test_preparing_pictures_does_not_block_the_event_loop(digits: Ports, kind: str) -> None:
    async def asked() -> int:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.005)
                ticks += 1

        async with AsyncClient(address(kind, digits)) as client:
            await client.predict(INK)
            ticking = asyncio.create_task(tick())
            await client.predict_many([SEVEN] * 10)
            ticking.cancel()
            return ticks

    # Were they prepared in the loop, there would be one at most.
    assert asyncio.run(asked()) > 1


@pytest.fixture
def silent() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@BOTH
def test_a_task_that_waits_can_be_cancelled(digits: Ports, kind: str, silent: int) -> None:
    async def asked() -> None:
        where = f"127.0.0.1:{silent}" if kind == "grpc" else f"http://127.0.0.1:{silent}"
        async with AsyncClient(where, timeout=2, retries=0) as client:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.predict(INK), 0.2)
            # Others who wait for the same are not cancelled with it.
            one, other = (asyncio.create_task(client.predict(INK)) for _ in range(2))
            await asyncio.sleep(0.1)
            one.cancel()
            with pytest.raises(Unreachable):
                await other
            assert one.cancelled()

    asyncio.run(asked())


@BOTH
def test_a_prediction_under_way_can_be_cancelled_and_the_client_goes_on(digits: Ports, kind: str) -> None:
    async def asked() -> str:
        async with AsyncClient(address(kind, digits)) as client:
            await client.predict(INK)
            tasks = [asyncio.create_task(client.predict(INK)) for _ in range(20)]
            await asyncio.sleep(0)
            for each in tasks[::2]:
                each.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert [isinstance(each, asyncio.CancelledError) for each in found] == [True, False] * 10
            return (await client.predict(INK)).label

    assert asyncio.run(asked()) == "7"


def test_an_event_loop_of_its_own(digits: Ports) -> None:
    client = AsyncClient(address("grpc", digits))

    async def asked() -> None:
        await client.predict(INK)

    async def closed() -> None:
        await client.predict(INK)
        await client.close()

    with asyncio.Runner() if sys.version_info >= (3, 11) else pytest.skip("asyncio.Runner") as runner:
        runner.run(asked())
        with (
            ThreadPoolExecutor(1) as other,
            pytest.raises(
                UsageError, match="belongs to another event loop; create one client per event loop"
            ),
        ):
            other.submit(asyncio.run, asked()).result()
        runner.run(closed())
