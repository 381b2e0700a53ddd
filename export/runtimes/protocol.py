"""Protocols of runtimes, which run exported models of any format: named tensors in, named tensors out.

`Runtime` is implemented by `export.runtimes.litert` (TFLite files, no TensorFlow) and `export.runtimes.saved_model`.
The export's checks, the model server, the client's local mode and the benchmarks all use these implementations.
Reported accuracy is thus that of the serving runtime.

`Target` is the narrower protocol for image classifiers: images in, probabilities out. `Classifier` adapts a runtime
to it, `client.targets.registry` a server.
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

# TensorFlow Serving's default signature, used by requests that name none.
DEFAULT_SIGNATURE = "serving_default"
# Method name of signatures for Predict (tensorflow/cc/saved_model/signature_constants.h).
PREDICT = "tensorflow/serving/predict"
# Fixed tensor names of exported models; Keras' automatic names change between runs and would break clients.
IMAGE = "image"
PROBABILITIES = "probabilities"


@dataclass(frozen=True)
class Quantization:
    """Parameters of a quantized tensor: real = scale * (integer - zero_point)."""

    scale: float
    zero_point: int

    def quantize(self, real: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return the nearest integers to `real`, saturated to the range of `dtype` (TFLite's rule)."""
        limits = np.iinfo(dtype)
        integers = np.rint(real / np.float32(self.scale)) + self.zero_point
        clipped: NDArray[Any] = np.clip(integers, limits.min, limits.max).astype(dtype)
        return clipped

    def dequantize(self, integers: NDArray[Any]) -> NDArray[np.float32]:
        """Return the real values of `integers`."""
        real = (integers.astype(np.int32) - self.zero_point) * np.float32(self.scale)
        return real.astype(np.float32)


@dataclass(frozen=True)
class TensorSpec:
    """One named input or output of a signature.

    `name` is the tensor's name in the graph, `dtype` TensorFlow's DataType number (`types.proto`: 1 is
    DT_FLOAT, 4 DT_UINT8, 7 DT_STRING …). `shape` holds -1 for free dimensions, and is None for a free rank.
    `quantization` is set for quantized tensors of a TFLite file. `reported_shape` is set if TensorFlow Serving's
    metadata report another shape than requests may have.
    """

    name: str
    dtype: int
    shape: tuple[int, ...] | None
    quantization: Quantization | None = None
    reported_shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Signature:
    """One way to call a model: inputs and outputs by public name."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method_name: str


class Runtime(Protocol):
    """A loaded model. `run` may be called from several threads at once."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The signatures by name."""

    def run(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run `signature` on `inputs` and return all its outputs, both by name.

        `inputs` must be exactly those of the signature, with its dtypes; strings are arrays of dtype object with
        bytes. Raises ValueError with the runtime's message if the model refuses them. Callers must check untrusted
        shapes against the signature, as `serving.inference.predict` does: TensorFlow aborts the process on some.
        """

    def close(self) -> None:
        """Free the model's memory."""


class Target(Protocol):
    """Anything that classifies images: a model file, a server, a Keras model."""

    def predict(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return probabilities float32 [N, classes], 0.0 to 1.0, for images float32 [N, H, W, C]."""

    def close(self) -> None:
        """Free the model or the connection."""


class Classifier:
    """Adapter of a runtime's signature to `Target`; it quantizes and dequantizes with the file's scales.

    `source` names the model in errors. `output` is the name of the output with the probabilities, required if the
    signature has several. Raises ArtifactError unless the signature has one input and one such output.
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
        """Whether the input takes unscaled pixels, uint8."""
        return self._in.dtype == _UINT8

    def prepare(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return the model's input tensor for `images`: quantized if the input is; uint8 pixels stay unchanged.

        Raises ValueError if the model takes only pixels and `images` holds other values.
        """
        if self._in.quantization is None or (self.takes_pixels and images.dtype == np.uint8):
            return images
        if self.takes_pixels and self._in.quantization == _PIXELS and (images != np.rint(images)).any():
            raise ValueError("the model takes pixels; expected whole numbers from 0 to 255, found fractions")
        return self._in.quantization.quantize(images, _INTEGERS[self._in.dtype])

    def infer(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """Return the output tensor for the input `tensor`; benchmarks report this call as model-only time."""
        return self._runtime.run(self._signature, {self._input: tensor})[self._output]

    def close(self) -> None:
        """Free the model."""
        self._runtime.close()


_UINT8 = 4
# The quantization of an input that takes unscaled pixels.
_PIXELS = Quantization(1.0, 0)
# Integer dtypes of the inputs and outputs of quantized TFLite files, by DataType number.
_INTEGERS: dict[int, np.dtype[Any]] = {
    _UINT8: np.dtype(np.uint8),
    5: np.dtype(np.int16),
    6: np.dtype(np.int8),
}
