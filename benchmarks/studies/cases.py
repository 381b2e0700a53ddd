"""Requests that a load generator sends to the embedded server, with the expected responses."""

import json
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import requests
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from tfship.benchmarks.harness import load_generators as load
from tfship.benchmarks.harness.raw_requests import METHOD
from tfship.benchmarks.harness.server_process import Addresses
from tfship.benchmarks.studies.reference import LoadCell
from tfship.export.conversion import formats
from tfship.export.publishing import verification
from tfship.export.publishing.cards import SAVED_MODEL
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE, IMAGE, PROBABILITIES
from tfship.serving.protos import tensors
from tfship.serving.protos.messages import predict_pb2
from tfship.train.common.errors import ArtifactError, ResultError, Unreachable
from tfship.train.data.datasets import Digits, to_input

__all__ = ["Case", "framed", "images", "message", "prepare", "stage", "tflite"]

# Decimals of a pixel in a request, enough to distinguish 255 shades of grey.
_DECIMALS = 4
# Tolerance for differences between runtimes and encodings.
_TOLERANCE = 1e-5
_TIMEOUT_SECONDS = 60.0
# Prefix of a message in gRPC over HTTP/2: a byte for compression, four for its length.
_PREFIX = struct.Struct(">BI")


@dataclass(frozen=True)
class Case:
    """A cell with its request, in the generator's file format, and the `expected` scores."""

    cell: LoadCell
    url: str
    address: str  # of gRPC
    file: Path
    expected: NDArray[np.float32]

    def verify(self) -> int:
        """Send the request once, check the response and return its size in bytes, in gRPC the frame's.

        Raises Unreachable without a response, ResultError for a wrong one.
        """
        size, scores = self._rest() if self.cell.protocol == "rest" else self._grpc()
        if scores.shape != self.expected.shape or not np.allclose(scores, self.expected, 0, _TOLERANCE):
            raise ResultError(
                f"{self.cell.name}: the server's response differs from the model file's in this process"
            )
        return size

    def _rest(self) -> tuple[int, NDArray[np.float32]]:
        try:
            response = requests.post(self.url, data=self.file.read_bytes(), timeout=_TIMEOUT_SECONDS)
        except requests.RequestException as error:
            raise Unreachable(f"{self.cell.name}: the server doesn't respond ({error})") from error
        try:
            return len(response.content), np.array(response.json()["predictions"], np.float32)
        except (ValueError, KeyError, TypeError):
            raise ResultError(
                f"{self.cell.name}: expected predictions; the server returned {response.status_code}: "
                f"{response.text[:200]}"
            ) from None

    def _grpc(self) -> tuple[int, NDArray[np.float32]]:
        with grpc.insecure_channel(self.address) as channel:
            try:
                response = channel.unary_unary(METHOD, None, None)(
                    message(self.file.read_bytes()), timeout=_TIMEOUT_SECONDS
                )
            except grpc.RpcError as error:
                what = f"{error.code().name}: {error.details()}"
                if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise Unreachable(f"{self.cell.name}: the server doesn't respond ({what})") from error
                raise ResultError(
                    f"{self.cell.name}: expected predictions; the server returned {what}"
                ) from error
        try:
            output = predict_pb2.PredictResponse.FromString(response).outputs[PROBABILITIES]
        except DecodeError as error:
            raise ResultError(f"{self.cell.name}: the server's response is no PredictResponse") from error
        return len(framed(response)), tensors.from_proto(output)

    def load(self, connections: int, seconds: int, response_bytes: int) -> load.Run:
        """Run the generator once. `response_bytes` is the size that `verify` returned."""
        if self.cell.protocol == "rest":
            return load.wrk(self.url, self.file, connections, seconds)
        return load.h2load(self.url, self.file, connections, seconds, response_bytes)


def images(digits: Digits, count: int) -> NDArray[np.float64]:
    """Return test images [count, 28, 28, 1], 0 to 1, rounded as in requests."""
    return to_input(digits.x_test[:count]).astype(np.float64).round(_DECIMALS)


def tflite(version: Path, name: str) -> Path:
    """Return the file of a format in an exported version. Raises ArtifactError if it is missing."""
    file = version / formats.FORMATS[name].file
    if not file.is_file():
        raise ArtifactError(f"{file}: no such file; run `tfship export`, which writes every format")
    return file


def stage(folder: Path, files: Mapping[str, tuple[Path, str]]) -> None:
    """Lay out models for a server. `files` has a version and a format by the served name.

    The server must prefer TFLite, unless the format is `savedmodel`, which is the version as it is.
    """
    for name, (version, format_name) in files.items():
        served = folder / name / version.name
        if format_name == SAVED_MODEL:
            served.parent.mkdir(parents=True)
            served.symlink_to(version.resolve(), target_is_directory=True)
        else:
            served.mkdir(parents=True)
            shutil.copy(tflite(version, format_name), served / formats.SERVED_FILE)


def prepare(
    cell: LoadCell,
    version: Path,
    format_name: str,
    server: Addresses,
    images: NDArray[np.float64],
    folder: Path,
) -> Case:
    """Write a cell's request into `folder`. The expected response is that of the version's TFLite file of this format.

    `images` are float64 [N, 28, 28, 1]; the request has the first ones.
    """
    batch = images[: cell.batch]
    tensor = batch.astype(np.float32)
    file = folder / cell.name
    if cell.protocol == "rest":
        file.write_text(json.dumps({"instances": batch.tolist()}))
        url = f"http://{server.rest}/v1/models/{cell.model}:predict"
    else:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = cell.model
        request.model_spec.signature_name = DEFAULT_SIGNATURE
        request.inputs[IMAGE].CopyFrom(tensors.to_proto(tensor))
        file.write_bytes(framed(request.SerializeToString()))
        url = f"http://{server.grpc}{METHOD}"
    target = verification.open_tflite(version, formats.FORMATS[format_name])
    try:
        return Case(cell, url, server.grpc, file, target.predict(tensor))
    finally:
        target.close()


def framed(message: bytes) -> bytes:
    """Return a message as a gRPC frame."""
    return _PREFIX.pack(0, len(message)) + message


def message(frame: bytes) -> bytes:
    """Return the message in a gRPC frame."""
    return frame[_PREFIX.size :]
