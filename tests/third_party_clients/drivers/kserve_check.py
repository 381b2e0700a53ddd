"""What KServe's SDK gets over HTTP and gRPC, as JSON. Arguments: HTTP port, gRPC port."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from kserve import (  # type: ignore[import-not-found]
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
)

ROWS = np.array([[1.0, 2.0], [3.0, 4.5]], np.float32)


def _request(model: str, rows: Any, *, binary: bool) -> Any:
    tensor = InferInput("x", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[tensor])


async def _check(infer: Callable[[Any], Awaitable[Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for binary in (False, True):
        for _ in range(10):
            response = await infer(_request("double", ROWS, binary=binary))
        found["binary" if binary else "typed"] = response.outputs[0].as_numpy().tolist()
    large = np.arange(2**22, dtype=np.float32).reshape(-1, 2)
    response = await infer(_request("double", large, binary=True))
    found["large"] = bool((response.outputs[0].as_numpy() == 2 * large).all())
    try:
        await infer(_request("größe", ROWS, binary=True))
    except Exception as error:  # noqa: BLE001 - the client's own kinds, and those of its libraries
        found["unknown"] = str(error)
    return found


async def _main() -> None:
    http, grpc = sys.argv[1:]
    base = f"http://localhost:{http}"
    rest = InferenceRESTClient(RESTConfig(protocol="v2", timeout=300, retries=0))

    async def by_rest(request: Any) -> Any:
        return await rest.infer(base, request, model_name=request.model_name)

    found: dict[str, Any] = {"http": await _check(by_rest)}
    found["http"]["live"] = await rest.is_server_live(base)
    found["http"]["ready"] = await rest.is_server_ready(base)
    found["http"]["models"] = [await rest.is_model_ready(base, each) for each in ("double", "none")]
    await rest.close()
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    client = InferenceGRPCClient(f"localhost:{grpc}", channel_args=options, timeout=300)
    found["grpc"] = await _check(client.infer)
    found["grpc"]["live"] = await client.is_server_live()
    found["grpc"]["ready"] = await client.is_server_ready()
    found["grpc"]["models"] = [await client.is_model_ready(each) for each in ("double", "none")]
    await client.close()
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(_main())
