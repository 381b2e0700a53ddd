"""Divergence of a quantized file, layer by layer: its layers' outputs relative to those of the float32 file.

The metric is the median over the channels of their signal-to-noise ratio. A mean would be dominated by the largest
channel, which the common scale of a tensor always represents well.
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from tfship.export.preprocessing.input_contract import Contract
from tfship.export.runtimes.protocol import Quantization
from tfship.train.common.tensorflow_loader import quiet

__all__ = ["DIVERGES", "Layer", "batch", "compare", "feed", "name"]

# In decibels: at 20 dB, a tenth of a channel's amplitude is noise. int8 layers usually have 30 to 40 dB.
DIVERGES = 20.0

# Bytes for all tensors of one batch.
_TENSOR_BYTES = 1 << 28

# Operators that aren't layers: they compute shapes or convert types.
_PLUMBING = {"DELEGATE", "DEQUANTIZE", "PACK", "QUANTIZE", "SHAPE", "STRIDED_SLICE"}


@dataclass(frozen=True)
class Layer:
    """One layer: its `name`, TFLite's `operator`, and the median SNR of its channels in decibels (None: exact)."""

    name: str
    operator: str
    snr_db: float | None

    @property
    def diverges(self) -> bool:
        """Whether there is more noise than a working format produces."""
        return self.snr_db is not None and self.snr_db < DIVERGES

    def describe(self) -> dict[str, Any]:
        """Return the layer's entry in the export card."""
        return {**asdict(self), "diverges": self.diverges}


def compare(
    reference: Path,
    quantized: Path,
    pixels: NDArray[np.uint8],
    contract: Contract,
    known: Sequence[str] = (),
) -> list[Layer]:
    """Return the layers of the file `quantized` in execution order, compared with those of the float32 `reference`.

    `pixels` are uint8 [N, H, W, C]; only the first are used if the tensors of all would exceed 256 MiB. `known` are
    the layers' names in Keras. They replace the names of tensors that contain them.
    """
    count = min(batch(path.read_bytes(), len(pixels))[1] for path in (reference, quantized))
    expected, found = (_outputs(path, pixels[:count], contract) for path in (reference, quantized))
    if [operator for operator, _, _ in expected] == [operator for operator, _, _ in found]:
        pairs = list(zip(expected, found, strict=True))
    else:
        # The converter fused operators differently: tensors with equal names are compared.
        by_name = {tensor: (operator, tensor, values) for operator, tensor, values in found}
        pairs = [(each, by_name[each[1]]) for each in expected if each[1] in by_name]
    return [
        Layer(name(tensor, known), operator, _snr(signal, values))
        for (operator, tensor, signal), (_, _, values) in pairs
        if signal.shape == values.shape and signal.dtype == np.float32
    ]


def name(tensor: str, known: Sequence[str]) -> str:
    """Return the names of the `known` layers that a tensor belongs to, or else the tensor's shortened name.

    TensorFlow joins the paths of fused operators by semicolons, and Keras may add a number to a layer's name. The
    names of layers fused into one operator are joined by " + ".
    """
    parts = {part for path in tensor.split(";") for part in path.split("/")}
    fitting = {max((each for each in known if _is_named(part, each)), key=len, default="") for part in parts}
    return " + ".join(each for each in known if each in fitting) or tensor.split(";")[0]


def batch(data: bytes, most: int) -> tuple[bool, int]:
    """Return whether the batch of the TFLite file `data` is free, and the batch size to run with all tensors kept.

    The size is the file's if it is fixed, otherwise at most `most`, limited so that the tensors fit into 256 MiB.
    """
    with quiet():
        interpreter = Interpreter(model_content=data)
        interpreter.allocate_tensors()
    (input_,) = interpreter.get_input_details()
    if input_["shape_signature"][0] != -1:
        return False, int(input_["shape_signature"][0])
    tensors = sum(
        int(np.prod(each["shape"], dtype=np.int64)) * np.dtype(each["dtype"]).itemsize
        for each in interpreter.get_tensor_details()
    )
    # Constants don't grow with the batch; they are most of the file.
    return True, int(np.clip(_TENSOR_BYTES // max(1, tensors - len(data)), 1, most))


def feed(interpreter: Interpreter, images: NDArray[np.float32]) -> None:
    """Allocate the tensors of `interpreter` and set its one input to `images`, float32 [N, H, W, C].

    A quantized input gets quantized values.
    """
    (input_,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(input_["index"], images.shape)
    interpreter.allocate_tensors()
    scale, zero_point = input_["quantization"]
    if scale:
        quantization = Quantization(float(scale), int(zero_point))
        interpreter.set_tensor(input_["index"], quantization.quantize(images, np.dtype(input_["dtype"])))
    else:
        interpreter.set_tensor(input_["index"], images)


def _is_named(part: str, layer: str) -> bool:
    """Return whether `part` of a tensor's path is a layer's name, with or without a number added by Keras."""
    return part == layer or (part.startswith(f"{layer}_") and part[len(layer) + 1 :].isdigit())


def _outputs(
    path: Path, pixels: NDArray[np.uint8], contract: Contract
) -> list[tuple[str, str, NDArray[np.float32]]]:
    """Run a file and return each layer's operator, output tensor name and dequantized output."""
    with warnings.catch_warnings():
        # The interpreter warns that keeping all tensors is for debugging only.
        warnings.filterwarnings("ignore", message=r".*experimental_preserve_all_tensors")
        # XNNPACK would fuse layers and hide their outputs.
        interpreter = Interpreter(
            model_content=path.read_bytes(),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
    (input_,) = interpreter.get_input_details()
    if input_["dtype"] == np.uint8:
        interpreter.resize_tensor_input(input_["index"], pixels.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(input_["index"], pixels)
    else:
        feed(interpreter, contract.scale(pixels))
    interpreter.invoke()
    outputs = []
    tensors = {each["index"]: each for each in interpreter.get_tensor_details()}
    for operator in interpreter._get_ops_details():
        if operator["op_name"] in _PLUMBING:
            continue
        for index in operator["outputs"]:
            values, details = interpreter.get_tensor(int(index)), tensors[int(index)]
            scale, zero_point = details["quantization"]
            if scale:
                values = Quantization(float(scale), int(zero_point)).dequantize(values)
            outputs.append((operator["op_name"], details["name"], values))
    return outputs


def _snr(signal: NDArray[np.float32], values: NDArray[np.float32]) -> float | None:
    axes = tuple(range(signal.ndim - 1))
    power = np.square(signal, dtype=np.float64).mean(axes)
    noise = np.square(values.astype(np.float64) - signal).mean(axes)
    active = power > 0
    power, noise = power[active], noise[active]
    if not (noise > 0).any():
        return None
    # Channels without noise count as 200 dB.
    return round(float(np.median(10 * np.log10(power / np.maximum(noise, power * 1e-20)))), 1)
