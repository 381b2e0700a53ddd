"""Warm-up of a version: runs its warm-up requests before it is available, so that the first client needn't wait.

The rules are TensorFlow Serving's (guide "SavedModel Warmup"): `assets.extra/tf_serving_warmup_requests` is a TFRecord
file of at most 1,000 PredictionLog messages, and the load fails if one of them fails.
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
# Format of a record: length, its checksum, data, its checksum (tensorflow/core/lib/io/record_writer.h).
_HEADER, _FOOTER = struct.Struct("<QI"), struct.Struct("<I")


def replay(version: Path, loaded: Loaded, *, skip_unfit: bool = False, iterations: int = 1) -> int:
    """Run the warm-up requests of the directory `version`, `iterations` times each, and return their number.

    With `skip_unfit`, requests that don't fit the signatures of `loaded` are skipped: they are written for a
    SavedModel, and its TFLite file may have fewer signatures. Without a warm-up file, returns 0. Raises ArtifactError,
    with the record's number, if the file is damaged or a request fails.
    """
    path, total = version / WARMUP, 0
    if not path.is_file():
        return 0
    for count, record in enumerate(_records(path), 1):
        if count > _MOST:
            raise ArtifactError(
                f"{path}: holds more than {_MOST:,} warm-up requests, TensorFlow Serving's limit; write fewer"
            )
        try:
            for name, tensors in _requests(prediction_log_pb2.PredictionLog.FromString(record)):
                try:
                    _check_request(loaded, name, tensors)
                except (StatusError, ValueError):
                    if skip_unfit:
                        continue
                    raise
                for _ in range(iterations):
                    run(loaded, name, tensors)
                total += 1
        except (DecodeError, StatusError, ValueError) as error:
            raise ArtifactError(f"{path}: warm-up request {count} fails ({error})") from error
    return total


def _check_request(loaded: Loaded, name: str, tensors: Tensors) -> None:
    if find(loaded, name) is None:
        raise ValueError(f"there is no signature {name}")
    check_inputs(loaded, name, tensors)


def _requests(log: Any) -> Iterator[tuple[str, Tensors]]:
    """Yield the signature and the inputs of each inference of a logged request."""
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
    # The TFRecord format masks checksums, because a CRC of data that contains CRCs is weak.
    if ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF != expected:
        raise ArtifactError(f"{path}: damaged; a record's checksum is wrong")
