"""What a load generator sends to the embedded server, and proof that it is answered rightly."""

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
from tfship.benchmarks.harness.server_process import Addresses
from tfship.benchmarks.studies.reference import LoadCell
from tfship.export.conversion import formats
from tfship.export.publishing import verification
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE, IMAGE, PROBABILITIES
from tfship.serving.protos import tensors
from tfship.serving.protos.messages import predict_pb2
from tfship.train.common.errors import ArtifactError, ResultError, Unreachable
from tfship.train.data.datasets import Digits, to_input

__all__ = ["METHOD", "Case", "framed", "images", "message", "prepare", "stage", "tflite"]

# Where gRPC requests go.
METHOD = "/tensorflow.serving.PredictionService/Predict"
# A pixel as clients send it: 255 greys need no more than four decimals.
_DECIMALS = 4
# What runtimes and encodings may differ by.
_TOLERANCE = 1e-5
_ANSWER_SECONDS = 60.0
# A message in gRPC over HTTP/2: a byte that says whether it is compressed, four for its length.
_PREFIX = struct.Struct(">BI")


@dataclass(frozen=True)
class Case:
    """A cell with what is sent, on disk as the generator wants it, and what must come back."""

    cell: LoadCell
    url: str
    address: str  # of gRPC
    file: Path
    expected: NDArray[np.float32]

    def ask(self) -> int:
        """Have the request answered once and return the answer's size, of gRPC the frame's.

        Raises Unreachable if no answer comes, ResultError if it isn't the right one.
        """
        size, answer = self._rest() if self.cell.protocol == "rest" else self._grpc()
        if answer.shape != self.expected.shape or not np.allclose(answer, self.expected, 0, _TOLERANCE):
            raise ResultError(
                f"{self.cell.name}: the server's answer differs from the model file's in this process"
            )
        return size

    def _rest(self) -> tuple[int, NDArray[np.float32]]:
        try:
            answer = requests.post(self.url, data=self.file.read_bytes(), timeout=_ANSWER_SECONDS)
        except requests.RequestException as error:
            raise Unreachable(f"{self.cell.name}: the server doesn't answer ({error})") from error
        try:
            return len(answer.content), np.array(answer.json()["predictions"], np.float32)
        except (ValueError, KeyError, TypeError):
            raise ResultError(
                f"{self.cell.name}: expected predictions; the server answered {answer.status_code}: {answer.text[:200]}"
            ) from None

    def _grpc(self) -> tuple[int, NDArray[np.float32]]:
        with grpc.insecure_channel(self.address) as channel:
            try:
                answer = channel.unary_unary(METHOD, None, None)(
                    message(self.file.read_bytes()), timeout=_ANSWER_SECONDS
                )
            except grpc.RpcError as error:
                what = f"{error.code().name}: {error.details()}"
                if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise Unreachable(f"{self.cell.name}: the server doesn't answer ({what})") from error
                raise ResultError(
                    f"{self.cell.name}: expected predictions; the server answered {what}"
                ) from error
        try:
            output = predict_pb2.PredictResponse.FromString(answer).outputs[PROBABILITIES]
        except DecodeError as error:
            raise ResultError(f"{self.cell.name}: the server's answer is no PredictResponse") from error
        return len(framed(answer)), tensors.from_proto(output)

    def load(self, connections: int, seconds: int, answer_bytes: int) -> load.Run:
        """Run the generator once."""
        if self.cell.protocol == "rest":
            return load.wrk(self.url, self.file, connections, seconds)
        return load.h2load(self.url, self.file, connections, seconds, answer_bytes)


def images(digits: Digits, count: int) -> NDArray[np.float64]:
    """Return test images [count, 28, 28, 1], 0 to 1, with the decimals that are sent."""
    return to_input(digits.x_test[:count]).astype(np.float64).round(_DECIMALS)


def tflite(version: Path, name: str) -> Path:
    """Return the file of a format in an exported version. ArtifactError if it isn't there."""
    file = version / formats.FORMATS[name].file
    if not file.is_file():
        raise ArtifactError(f"{file}: no such file; `tfship export` writes every format")
    return file


def stage(folder: Path, files: Mapping[str, tuple[Path, str]]) -> None:
    """Lay out models for a server that is to prefer TFLite, by the names that it serves: a version and a format."""
    for name, (version, format_name) in files.items():
        (folder / name / version.name).mkdir(parents=True)
        shutil.copy(tflite(version, format_name), folder / name / version.name / formats.SERVED_FILE)


def prepare(
    cell: LoadCell,
    version: Path,
    format_name: str,
    server: Addresses,
    images: NDArray[np.float64],
    folder: Path,
) -> Case:
    """Write a cell's request into `folder`; the answer must be that of the version's file of this format.

    `images` are float64 [N, 28, 28, 1], of which the first are sent.
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
    """Return a message as gRPC sends it over HTTP/2."""
    return _PREFIX.pack(0, len(message)) + message


def message(frame: bytes) -> bytes:
    """Return the message in a frame."""
    return frame[_PREFIX.size :]
