"""What NVIDIA's client gets over HTTP and gRPC, as JSON. Arguments: HTTP port, gRPC port."""

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc  # type: ignore[import-not-found]
import tritonclient.http  # type: ignore[import-not-found]
from tritonclient.utils import InferenceServerException  # type: ignore[import-not-found]


def _main() -> None:
    ports = {"http": sys.argv[1], "grpc": sys.argv[2]}
    print(json.dumps({name: _check(name, f"localhost:{port}") for name, port in ports.items()}))


def _check(name: str, address: str) -> dict[str, Any]:
    api: Any = {"http": tritonclient.http, "grpc": tritonclient.grpc}[name]
    client = api.InferenceServerClient(address)
    rows = np.array([[1.0, 2.0], [3.0, 4.5]], np.float32)

    def infer(model: str, rows: Any, **options: Any) -> Any:
        tensor = api.InferInput("x", list(rows.shape), "FP32")
        tensor.set_data_from_numpy(rows)
        return client.infer(model, [tensor], outputs=[api.InferRequestedOutput("y")], **options)

    def refusal(model: str, rows: Any, **options: Any) -> list[str | None]:
        try:
            infer(model, rows, **options)
        except InferenceServerException as error:
            return [error.status(), error.message()]
        except TimeoutError as error:
            return ["timeout", str(error)]
        return [None, None]

    large = np.arange(2**24, dtype=np.float32).reshape(-1, 2)
    zeros = np.zeros((10_000, 2), np.float32)
    gzip = (
        {"compression_algorithm": "gzip"}
        if name == "grpc"
        else {"request_compression_algorithm": "gzip", "response_compression_algorithm": "gzip"}
    )
    metadata = client.get_model_metadata("double")
    found = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "models": [client.is_model_ready(each) for each in ("double", "none")],
        "name": metadata["name"] if name == "http" else metadata.name,
        "rows": [infer("double", rows).as_numpy("y").tolist() for _ in range(20)][-1],
        "large": bool((infer("double", large).as_numpy("y") == 2 * large).all()),
        "gzip": bool((infer("double", zeros, **gzip).as_numpy("y") == zeros).all()),
        "unknown": refusal("größe", rows),
        "shape": refusal("double", np.zeros((1, 3), np.float32)),
    }
    if name == "grpc":
        found["deadline"] = refusal("held", rows, client_timeout=0.5)
        found["afterwards"] = infer("double", rows).as_numpy("y").tolist()
    client.close()
    return found


if __name__ == "__main__":
    _main()
