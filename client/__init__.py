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

Nothing here loads TensorFlow, not REST, not gRPC (`serving.protos`), not TFLite (LiteRT), until a SavedModel or a
`.keras` file is asked for.
"""

import importlib
from typing import TYPE_CHECKING

from tfship.train.errors import (
    ArtifactError,
    DataError,
    Refused,
    TargetError,
    TfshipError,
    Unreachable,
    UsageError,
)

if TYPE_CHECKING:
    from tfship.client.asynchronous import AsyncClient
    from tfship.client.configured import Prediction
    from tfship.client.connection import Tls
    from tfship.client.inputs import ImageLike
    from tfship.client.library import Client
    from tfship.export.contract import Contract, Scaling

__all__ = [
    "COMMAND", "ArtifactError", "AsyncClient", "Client", "Contract", "DataError", "ImageLike", "Prediction", "Refused",
    "Scaling", "TargetError", "TfshipError", "Tls", "Unreachable", "UsageError",
]  # fmt: skip

COMMAND = "tfship predict"

# Imported when they are first asked for: the command line starts without them.
_LATER = {
    "AsyncClient": "asynchronous",
    "Client": "library",
    "Contract": "inputs",
    "ImageLike": "inputs",
    "Prediction": "configured",
    "Scaling": "inputs",
    "Tls": "connection",
}

if not TYPE_CHECKING:  # or every name would be one to a type checker

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
