"""Loop of the drivers in Python: a command is a line of JSON on stdin, and its end a line on stdout.

    {"id": 1, "do": "connect", "port": …, "ca": …, "key": …, "certificate": …, "keepalive_ms": …, "gzip": …}
    {"id": 2, "do": "call", "channel": 1, "path": …, "request": …, "response": …, "timeout": …}
    {"id": 3, "do": "cancel", "call": 2}

Requests and responses are files. The end of a call is its status: `{"id": 2, "code": 0, "message": ""}`.
"""

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any, Protocol


class Driver(Protocol):
    """A client. `call` returns the response's bytes, or the status of a call that has failed."""

    def connect(self, options: dict[str, Any]) -> Any:
        """Return a channel."""

    async def call(
        self, channel: Any, path: str, request: bytes, timeout: float | None
    ) -> bytes | tuple[int, str]:
        """Make a unary call."""

    async def close(self, channel: Any) -> None:
        """Close a channel."""


def main(driver: Driver) -> None:
    asyncio.run(_main(driver))


def _say(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


async def _main(driver: Driver) -> None:
    channels: dict[int, Any] = {}
    calls: dict[int, asyncio.Task[None]] = {}
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        if command["do"] == "connect":
            channels[command["id"]] = driver.connect(command)
            _say(id=command["id"], code=0, message="")
        elif command["do"] == "call":
            channel = channels[command["channel"]]
            calls[command["id"]] = asyncio.create_task(_call(driver, channel, command))
        else:
            calls[command["call"]].cancel()
            _say(id=command["id"], code=0, message="")
    for task in calls.values():
        task.cancel()
    with contextlib.suppress(Exception):
        await asyncio.gather(*calls.values(), return_exceptions=True)
    for channel in channels.values():
        await driver.close(channel)


async def _call(driver: Driver, channel: Any, command: dict[str, Any]) -> None:
    code, message = 1, "cancelled by the test"
    with contextlib.suppress(asyncio.CancelledError):
        request = Path(command["request"]).read_bytes()
        result = await driver.call(channel, command["path"], request, command["timeout"])
        if isinstance(result, bytes):
            Path(command["response"]).write_bytes(result)
            code, message = 0, ""
        else:
            code, message = result
    _say(id=command["id"], code=code, message=message)
