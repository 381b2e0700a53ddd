"""Run TFLite files with LiteRT (XNNPACK). TensorFlow is not needed and never loaded."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from export.runtime import Quantization, Signature, TensorSpec
from train.errors import ArtifactError

__all__ = ["LiteRT"]

# LiteRT's numpy dtypes as TensorFlow's DataType numbers (tensorflow/core/framework/types.proto).
_DATA_TYPES = {
    np.float32: 1, np.float64: 2, np.int32: 3, np.uint8: 4, np.int16: 5, np.int8: 6, np.bytes_: 7,
    np.complex64: 8, np.int64: 9, np.bool_: 10, np.uint16: 17, np.float16: 19, np.uint32: 22, np.uint64: 23,
}  # fmt: skip


class LiteRT:
    """A TFLite file, loaded; a `Runtime` whose batch dimension follows its input.

    `threads` is the number that an inference may use. Raises ArtifactError if the file is missing, is no
    TFLite model, has no signature or needs an operator that this runtime lacks.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        if not path.is_file():
            raise ArtifactError(f"{path}: no such TFLite file; `make export` writes them")
        # One interpreter has one set of tensors: a second call must wait for the first.
        self._lock = threading.Lock()
        try:
            # Bytes and not the path: a file replaced or truncated under a memory map would kill the process.
            self._interpreter = Interpreter(model_content=path.read_bytes(), num_threads=threads)
            # Before the runners exist: it finds out now what the first inference would stumble over.
            self._interpreter.allocate_tensors()
            self._runners = {
                name: self._interpreter.get_signature_runner(name)
                for name in self._interpreter.get_signature_list()
            }
        except (ValueError, RuntimeError) as error:
            raise ArtifactError(f"{path}: LiteRT can't load it ({error})") from error
        if not self._runners:
            raise ArtifactError(f"{path}: has no signature, so its tensors have no names; export it again")
        self._signatures = {
            name: Signature(
                {key: _spec(each) for key, each in runner.get_input_details().items()},
                {key: _spec(each) for key, each in runner.get_output_details().items()},
                "tensorflow/serving/predict",
            )
            for name, runner in self._runners.items()
        }

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The file's signature definitions."""
        return self._signatures

    def run(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Runtime.run`."""
        with self._lock:
            try:
                outputs: dict[str, NDArray[Any]] = self._runners[signature](**inputs)
            except RuntimeError as error:
                raise ValueError(str(error)) from error
        return outputs

    def close(self) -> None:
        """Free the model's memory."""
        with self._lock:
            self._runners.clear()
            del self._interpreter


def _spec(details: Mapping[str, Any]) -> TensorSpec:
    scale, zero_point = details["quantization"]
    return TensorSpec(
        details["name"],
        _DATA_TYPES[details["dtype"]],
        tuple(int(size) for size in details.get("shape_signature", details["shape"])),
        Quantization(float(scale), int(zero_point)) if scale else None,
    )
