"""Ask a model about pictures: over REST, over gRPC, or from a model file in this process.

    from tfship.client import Client

    with Client("localhost:8500", model="cnn") as client:
        print(client.predict("seven.png").label)

`AsyncClient` is the same for asyncio. Every error is a TfshipError:

    TfshipError
    ├── UsageError        arguments ask for something impossible
    ├── DataError         an image can't be used
    ├── ArtifactError     a contract is missing or damaged
    └── TargetError
        ├── Unreachable   no server answers there in time
        └── Refused       it answers, and the answer is an error

Nothing here loads TensorFlow, not REST, not gRPC (`serving.protos.messages`), not TFLite (LiteRT), until a SavedModel
or a `.keras` file is asked for.
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

# Imported when they are first asked for: the command line starts without them.
_LATER = {
    "AsyncClient": "api.async_client",
    "Client": "api.client",
    "Contract": "api.inputs",
    "ImageLike": "api.inputs",
    "Prediction": "api.base_client",
    "Scaling": "api.inputs",
    "Tls": "targets.connection",
}

if not TYPE_CHECKING:  # or every name would be one to a type checker

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
