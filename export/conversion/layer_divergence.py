"""Where a quantized file goes astray: its layers' outputs beside the float32 file's, on the same images.

The figure is the signal-to-noise ratio of each channel, and of the channels the median: one scale for a whole
tensor serves its largest channel well, however little it leaves of the others.
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

# Below this many decibels, a tenth of a channel's amplitude is noise; int8 leaves 30 to 40 in a layer.
DIVERGES = 20.0

# The memory for all tensors of the images that run at once.
_TENSOR_BYTES = 1 << 28

# No layers: shapes being computed, and numbers changing their type.
_PLUMBING = {"DELEGATE", "DEQUANTIZE", "PACK", "QUANTIZE", "SHAPE", "STRIDED_SLICE"}


@dataclass(frozen=True)
class Layer:
    """One layer: its `name`, TFLite's `operator`, and the median of its channels' `snr_db` (None: exact)."""

    name: str
    operator: str
    snr_db: float | None

    @property
    def diverges(self) -> bool:
        """Whether there is more noise than any format should make."""
        return self.snr_db is not None and self.snr_db < DIVERGES

    def describe(self) -> dict[str, Any]:
        """Return it as cards hold it."""
        return {**asdict(self), "diverges": self.diverges}


def compare(
    reference: Path,
    quantized: Path,
    pixels: NDArray[np.uint8],
    contract: Contract,
    known: Sequence[str] = (),
) -> list[Layer]:
    """Return the layers of `quantized` in order of execution, compared with those of the float32 file.

    `pixels` are uint8 [N, H, W, C], of which only the first are used where the tensors of all would take too much
    memory. `known` are the layers' names in Keras, which replace tensors' names where they are part of them.
    """
    count = min(batch(path.read_bytes(), len(pixels))[1] for path in (reference, quantized))
    expected, found = (_outputs(path, pixels[:count], contract) for path in (reference, quantized))
    if [operator for operator, _, _ in expected] == [operator for operator, _, _ in found]:
        pairs = list(zip(expected, found, strict=True))
    else:
        # The converter fused otherwise: what has the same name is the same.
        by_name = {tensor: (operator, tensor, values) for operator, tensor, values in found}
        pairs = [(each, by_name[each[1]]) for each in expected if each[1] in by_name]
    return [
        Layer(name(tensor, known), operator, _snr(signal, values))
        for (operator, tensor, signal), (_, _, values) in pairs
        if signal.shape == values.shape and signal.dtype == np.float32
    ]


def name(tensor: str, known: Sequence[str]) -> str:
    """Return which of the `known` layers a tensor belongs to, or the tensor's own name, shortened.

    TensorFlow names tensors by path, joined by semicolons where operators were fused, and Keras may have added
    a number to a layer's name. Layers that became one operator are named together.
    """
    parts = {part for path in tensor.split(";") for part in path.split("/")}
    fitting = {max((each for each in known if _is(part, each)), key=len, default="") for part in parts}
    return " + ".join(each for each in known if each in fitting) or tensor.split(";")[0]


def batch(data: bytes, most: int) -> tuple[bool, int]:
    """Return whether a TFLite file takes any number of images, and at most how many may keep all their tensors.

    That is the file's own number where it is fixed, otherwise up to `most`, whose tensors have 256 MB.
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
    # Without the constants, which are most of the file.
    return True, int(np.clip(_TENSOR_BYTES // max(1, tensors - len(data)), 1, most))


def feed(interpreter: Interpreter, images: NDArray[np.float32]) -> None:
    """Give images float32 [N, H, W, C] to an interpreter's one input, quantized where it is, tensors allocated."""
    (input_,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(input_["index"], images.shape)
    interpreter.allocate_tensors()
    scale, zero_point = input_["quantization"]
    if scale:
        quantization = Quantization(float(scale), int(zero_point))
        interpreter.set_tensor(input_["index"], quantization.quantize(images, np.dtype(input_["dtype"])))
    else:
        interpreter.set_tensor(input_["index"], images)


def _is(part: str, layer: str) -> bool:
    """Tell whether a part of a tensor's path is a layer's name, or that and a number."""
    return part == layer or (part.startswith(f"{layer}_") and part[len(layer) + 1 :].isdigit())


def _outputs(
    path: Path, pixels: NDArray[np.uint8], contract: Contract
) -> list[tuple[str, str, NDArray[np.float32]]]:
    """Run a file and return operator, tensor name and real values of each layer's output."""
    with warnings.catch_warnings():
        # Keeping all tensors is for debugging only, it warns; this is debugging.
        warnings.filterwarnings("ignore", message=r".*experimental_preserve_all_tensors")
        # Without XNNPACK, which runs several layers as one and shows none of them.
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
    lit = power > 0
    if not (noise[lit] > 0).any():
        return None
    # A channel without noise is as good as one that has 200 dB.
    return round(float(np.median(10 * np.log10(power[lit] / np.maximum(noise[lit], power[lit] * 1e-20)))), 1)
