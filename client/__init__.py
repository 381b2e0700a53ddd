"""Predictions for images: over REST, over gRPC, or by a model file in this process.

    from tfship.client import Client

    with Client("localhost:8500", model="cnn") as client:
        print(client.predict("seven.png").label)

`AsyncClient` is the same for asyncio. All errors are TfshipErrors:

    TfshipError
    ├── UsageError        invalid arguments
    ├── DataError         an invalid image
    ├── ArtifactError     a missing or damaged contract
    └── TargetError
        ├── Unreachable   no server responds in time
        └── Refused       an error response

Only SavedModels and `.keras` files load TensorFlow; REST, gRPC (`serving.protos.messages`) and TFLite (LiteRT) don't.
"""

import importlib
from typing import TYPE_CHECKING

from tfship.train.common.errors import (
    ArtifactError,
    DataError,
    Refused,
    TargetError,
    TfshipError,
    Unreachable,
    UsageError,
)

if TYPE_CHECKING:
    from tfship.client.api.async_client import AsyncClient
    from tfship.client.api.base_client import Prediction
    from tfship.client.api.client import Client
    from tfship.client.api.inputs import ImageLike
    from tfship.client.targets.connection import Tls
    from tfship.export.preprocessing.input_contract import Contract, Scaling

__all__ = [
    "COMMAND", "ArtifactError", "AsyncClient", "Client", "Contract", "DataError", "ImageLike", "Prediction", "Refused",
    "Scaling", "TargetError", "TfshipError", "Tls", "Unreachable", "UsageError",
]  # fmt: skip

COMMAND = "tfship predict"

# Imported on first use, so that the command line starts without them.
_LAZY = {
    "AsyncClient": "api.async_client",
    "Client": "api.client",
    "Contract": "api.inputs",
    "ImageLike": "api.inputs",
    "Prediction": "api.base_client",
    "Scaling": "api.inputs",
    "Tls": "targets.connection",
}

if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
