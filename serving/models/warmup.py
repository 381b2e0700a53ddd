"""Warm-up: a version's own requests, run before it is called available, so that no user pays for the first.

As TensorFlow Serving does it (its guide "SavedModel Warmup"): `assets.extra/tf_serving_warmup_requests` is a
TFRecord file of at most 1,000 PredictionLog messages; if one of them fails, so does the load.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
from google.protobuf.message import DecodeError

from tfship.export.preprocessing.input_contract import WARMUP
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE
from tfship.serving.inference.execution import Loaded, Tensors, check_inputs, find, run, serialized
from tfship.serving.protos.messages import prediction_log_pb2
from tfship.serving.protos.status import StatusError
from tfship.serving.protos.tensors import from_proto
from tfship.train.common.errors import ArtifactError

__all__ = ["replay"]

_MOST = 1000
# The records' own format: length, its checksum, the data, its checksum (tensorflow/core/lib/io/record_writer.h).
_HEADER, _FOOTER = struct.Struct("<QI"), struct.Struct("<I")


def replay(version: Path, loaded: Loaded, *, fitting: bool = False, iterations: int = 1) -> int:
    """Run the requests that a version directory brings, each so often, and return how many; 0 where it brings none.

    With `fitting`, those are left out that the model doesn't take: they are written for a SavedModel, of whose
    signatures its TFLite file may have fewer. Raises ArtifactError, naming the record, if the file is damaged or
    a request fails.
    """
    path, ran = version / WARMUP, 0
    if not path.is_file():
        return 0
    for count, record in enumerate(_records(path), 1):
        if count > _MOST:
            raise ArtifactError(
                f"{path}: more than {_MOST:,} warm-up requests, which is TensorFlow Serving's limit"
            )
        try:
            for name, tensors in _requests(prediction_log_pb2.PredictionLog.FromString(record)):
                try:
                    _check_request(loaded, name, tensors)
                except (StatusError, ValueError):
                    if fitting:
                        continue
                    raise
                for _ in range(iterations):
                    run(loaded, name, tensors)
                ran += 1
        except (DecodeError, StatusError, ValueError) as error:
            raise ArtifactError(f"{path}: warm-up request {count} fails ({error})") from error
    return ran


def _check_request(loaded: Loaded, name: str, tensors: Tensors) -> None:
    signature = find(loaded, name)
    if signature is None:
        raise ValueError(f"there is no signature {name}")
    check_inputs(loaded, signature, tensors)


def _requests(log: Any) -> Iterator[tuple[str, Tensors]]:
    """Yield the signature and the inputs of each inference that a logged request asks for."""
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        request = log.predict_log.request
        tensors = {name: from_proto(each) for name, each in request.inputs.items()}
        yield request.model_spec.signature_name or DEFAULT_SIGNATURE, tensors
    elif kind in ("classify_log", "regress_log"):
        request = getattr(log, kind).request
        yield request.model_spec.signature_name or DEFAULT_SIGNATURE, {"inputs": serialized(request.input)}
    elif kind == "multi_inference_log":
        request = log.multi_inference_log.request
        for task in request.tasks:
            yield task.model_spec.signature_name or DEFAULT_SIGNATURE, {"inputs": serialized(request.input)}
    else:
        raise ValueError(f"its type, {kind or 'none'}, can't be replayed")


def _records(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while header := file.read(_HEADER.size):
            if len(header) < _HEADER.size:
                raise ArtifactError(f"{path}: ends within a record")
            length, checksum = _HEADER.unpack(header)
            _check(path, header[:8], checksum)
            data = file.read(min(length, path.stat().st_size))
            footer = file.read(_FOOTER.size)
            if len(data) != length or len(footer) != _FOOTER.size:
                raise ArtifactError(f"{path}: ends within a record")
            _check(path, data, *_FOOTER.unpack(footer))
            yield data


def _check(path: Path, data: bytes, expected: int) -> None:
    crc = google_crc32c.value(data)
    # Masked, so that a checksum of data that holds checksums is still one.
    if ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF != expected:
        raise ArtifactError(f"{path}: damaged; a record's checksum is wrong")
