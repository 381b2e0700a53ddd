"""Generator of `descriptors.binpb`; run `python -m tfship.export.derive_descriptors` when locked packages change.

The descriptors are taken from the generated modules of tensorflow-serving-api, tensorflow and gRPC's services.
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

from tfship.train.common import cli
from tfship.train.common.errors import ArtifactError
from tfship.train.common.files import write_bytes

__all__ = ["FILE", "derived"]

FILE = Path(__file__).with_name("descriptors.binpb")
# Files used by `serving.protos.messages` and gRPC reflection; files that they import are added.
_FILES = (
    "grpc_health/v1/health.proto",
    "grpc_reflection/v1alpha/reflection.proto",
    "tensorflow/core/example/example.proto",
    "tensorflow/core/protobuf/config.proto",
    "tensorflow/core/protobuf/meta_graph.proto",
    "tensorflow/core/protobuf/saved_model.proto",
    "tensorflow_serving/apis/model_service.proto",
    "tensorflow_serving/apis/prediction_log.proto",
    "tensorflow_serving/apis/prediction_service.proto",
    "tensorflow_serving/config/model_server_config.proto",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file and return 0; ArtifactError if a package isn't installed."""
    cli.parser("python -m tfship.export.derive_descriptors", "Generate export/descriptors.binpb.").parse_args(
        argv
    )
    files = derived()
    write_bytes(FILE, files.SerializeToString(deterministic=True))
    version = importlib.metadata.version("tensorflow-serving-api")
    cli.say(f"{FILE}: {len(files.file)} files; set export.descriptors.VERSION to {version}")
    return 0


def derived() -> Any:
    """Return the FileDescriptorSet of the installed packages; imported files come first."""
    found: dict[str, Any] = {}

    def add(file: Any) -> None:
        if file.name not in found:
            for each in file.dependencies:
                add(each)
            found[file.name] = file

    for name in _FILES:
        module = f"{name.removesuffix('.proto').replace('/', '.')}_pb2"
        try:
            add(importlib.import_module(module).DESCRIPTOR)
        except ImportError as error:
            raise ArtifactError(f"{module}: can't be imported ({error}); run `make install` first") from error
    files = descriptor_pb2.FileDescriptorSet()
    for file in found.values():
        file.CopyToProto(files.file.add())
    return files


if __name__ == "__main__":
    sys.exit(cli.run(main))
