"""What runs an exported model, whatever its format: named tensors in, named tensors out.

`Runtime` is the protocol; `export.runtimes.litert` (TFLite files, no TensorFlow) and `export.runtimes.saved_model`
implement it. The export's checks, the model server, the client's local mode and the benchmarks all use these, so the
runtime whose accuracy is reported is the runtime that serves.

`Target` is the narrower protocol for image classifiers: images in, probabilities out. A runtime becomes
one by `Classifier`; a server becomes one in `client.targets.registry`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tfship.train.common.errors import ArtifactError

__all__ = [
    "DEFAULT_SIGNATURE",
    "IMAGE",
    "PREDICT",
    "PROBABILITIES",
    "Classifier",
    "Quantization",
    "Runtime",
    "Signature",
    "Target",
    "TensorSpec",
]

# TensorFlow Serving's name for the signature that a request means when it names none.
DEFAULT_SIGNATURE = "serving_default"
# The method name of signatures for Predict (tensorflow/cc/saved_model/signature_constants.h).
PREDICT = "tensorflow/serving/predict"
# The stable names of our own exports; Keras' automatic ones change between runs and break clients.
IMAGE = "image"
PROBABILITIES = "probabilities"


@dataclass(frozen=True)
class Quantization:
    """How a quantized tensor's integers mean numbers: real = scale * (integer - zero_point)."""

    scale: float
    zero_point: int

    def quantize(self, real: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return the nearest integers, saturated to `dtype`'s range (TFLite's rule)."""
        limits = np.iinfo(dtype)
        integers = np.rint(real / np.float32(self.scale)) + self.zero_point
        clipped: NDArray[Any] = np.clip(integers, limits.min, limits.max).astype(dtype)
        return clipped

    def dequantize(self, integers: NDArray[Any]) -> NDArray[np.float32]:
        """Return the real numbers that the integers stand for."""
        real = (integers.astype(np.int32) - self.zero_point) * np.float32(self.scale)
        return real.astype(np.float32)


@dataclass(frozen=True)
class TensorSpec:
    """One named input or output of a signature.

    `name` is the tensor's name in the graph, `dtype` TensorFlow's DataType number (`types.proto`: 1 is
    DT_FLOAT, 4 DT_UINT8, 7 DT_STRING …), `shape` its sizes with -1 for a free one, or None where even the
    rank is free. `quantization` is set where the integers of a TFLite file stand for real numbers.
    `reported_shape` is set where TensorFlow Serving's metadata give another shape than the one that can be sent.
    """

    name: str
    dtype: int
    shape: tuple[int, ...] | None
    quantization: Quantization | None = None
    reported_shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Signature:
    """One way to call a model: inputs and outputs by their public names."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method_name: str


class Runtime(Protocol):
    """A loaded model. `run` may be called from several threads at once."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The signatures by name."""

    def run(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run `signature` on exactly its inputs, with its dtypes, and return all its outputs.

        Strings are arrays of dtype object that hold bytes. Raises ValueError, with the runtime's own
        words, for inputs that the model refuses. Shapes from outside must be checked against the
        signature before: TensorFlow ends the process on some that don't fit (`serving.inference.predict` does it).
        """

    def close(self) -> None:
        """Free the model's memory."""


class Target(Protocol):
    """Anything that classifies images: a model file, a server, a Keras model."""

    def predict(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return probabilities float32 [N, classes] for images float32 [N, H, W, C], 0.0 to 1.0."""

    def close(self) -> None:
        """Free the model or the connection."""


class Classifier:
    """A runtime's signature as a `Target`, quantizing and dequantizing by the file's own scales.

    `output` names the one that holds the probabilities, where the signature has several.
    """

    def __init__(
        self, runtime: Runtime, source: str, signature: str = DEFAULT_SIGNATURE, output: str = ""
    ) -> None:
        self._runtime, self._signature = runtime, signature
        chosen = runtime.signatures.get(signature)
        outputs = [] if chosen is None else [name for name in chosen.outputs if not output or name == output]
        if chosen is None or len(chosen.inputs) != 1 or len(outputs) != 1:
            found = {
                name: [*each.inputs, "→", *each.outputs] for name, each in sorted(runtime.signatures.items())
            }
            raise ArtifactError(
                f"{source}: expected a signature {signature} with one input and one output; found {found}"
            )
        ((self._input, self._in),) = chosen.inputs.items()
        (self._output,) = outputs
        self._out = chosen.outputs[self._output]

    def predict(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """See `Target.predict`; pixels uint8 for a target that `takes_pixels`."""
        output = self.infer(self.prepare(images))
        return self._out.quantization.dequantize(output) if self._out.quantization else output

    @property
    def takes_pixels(self) -> bool:
        """Whether the input takes pixels uint8 as they are."""
        return self._in.dtype == _UINT8

    def prepare(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return images as the tensor that the model takes: quantized where its input is, pixels uint8 unchanged.

        Raises ValueError for values that are no pixels where only pixels fit.
        """
        if self._in.quantization is None or (self.takes_pixels and images.dtype == np.uint8):
            return images
        if self.takes_pixels and self._in.quantization == _PIXELS and (images != np.rint(images)).any():
            raise ValueError("the model takes pixels, whole numbers from 0 to 255; found other values")
        return self._in.quantization.quantize(images, _INTEGERS[self._in.dtype])

    def infer(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """Run the model alone, tensor in, tensor out: what the model-only clock times."""
        return self._runtime.run(self._signature, {self._input: tensor})[self._output]

    def close(self) -> None:
        """Free the model."""
        self._runtime.close()


_UINT8 = 4
# The quantization of an input that takes pixels as they are.
_PIXELS = Quantization(1.0, 0)
# DataType numbers of the integer types that a quantized TFLite file has at its edges.
_INTEGERS: dict[int, np.dtype[Any]] = {
    _UINT8: np.dtype(np.uint8),
    5: np.dtype(np.int16),
    6: np.dtype(np.int8),
}
