"""Which tensors of a signature take the images and answer the scores, and what the images are then.

By what a server or a file says of itself, or by the input contract, which knows its own signatures.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfship.export.preprocessing.input_contract import CLASSIFY, Contract, Scaling
from tfship.export.runtimes.protocol import IMAGE, PROBABILITIES, Quantization, Signature, TensorSpec
from tfship.train.common.errors import Refused, UsageError

__all__ = [
    "DTYPES",
    "ENCODED",
    "PIXELS",
    "Answer",
    "Binding",
    "by_contract",
    "by_signature",
    "checked",
    "images_of",
]

# What a picture is to a signature: its pixels, or the file's bytes as they are. Other dtypes take scaled values.
PIXELS, ENCODED = "uint8", "string"
# The dtypes that a picture can be, by TensorFlow's DataType number.
DTYPES = {1: "float32", 2: "float64", 4: PIXELS, 7: ENCODED, 19: "float16"}
# Their method names, for tf.Examples.
_EXAMPLES = ("tensorflow/serving/classify", "tensorflow/serving/regress")
_UINT8 = 4
# The integers that quantized scores can be.
_INTEGERS = {_UINT8: "uint8", 6: "int8"}
_WHITE = 255


@dataclass(frozen=True)
class Binding:
    """The names of a signature's `input` and `output`, what the input takes, and what the output answers.

    `dtype` is one of `DTYPES`' names; `shape` is that of one image where it may be another than the contract's, with
    as many values: [28, 28] or [784] for [28, 28, 1]. `batch` is the number of images that the input takes at a time,
    None for any. `integers` is the dtype of scores that are integers of an unknown scale, "uint8" or "int8"; `step` is
    the distance between neighbouring scores where they are quantized by a known one.
    """

    input: str = IMAGE
    output: str = PROBABILITIES
    dtype: str = "float32"
    shape: tuple[int, ...] | None = None
    batch: int | None = None
    integers: str = ""
    step: float = 0.0

    def rows(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return images [N, height, width, channels], or encoded ones [N], as the tensor that the input takes.

        Where it takes a fixed number of images, N may be smaller: the last image is repeated.
        """
        images = images if self.shape is None else images.reshape(len(images), *self.shape)
        lacking = (self.batch or len(images)) - len(images)
        return np.concatenate([images, np.repeat(images[-1:], lacking, 0)]) if lacking > 0 else images

    def parts(self, count: int) -> list[slice]:
        """Return the parts of `count` images that the input takes at a time."""
        size = self.batch or max(count, 1)
        return [slice(start, start + size) for start in range(0, count, size)]


class Answer(NamedTuple):
    """Scores float32 [N, classes], and the number of the version that gave them, where the protocol tells."""

    scores: NDArray[np.float32]
    version: int | None = None


def by_contract(contract: Contract, signature: str) -> Binding | None:
    """Return the binding of one of the contract's signatures, None for one that it doesn't know.

    Raises UsageError for the one that takes tf.Examples.
    """
    signatures = contract.describe()["signatures"]
    if signature == CLASSIFY:
        raise UsageError(_takes_examples(signature))
    if signature not in signatures:
        return None
    ((name, tensor),) = signatures[signature]["inputs"].items()
    return Binding(name, PROBABILITIES, tensor["dtype"])


def by_signature(signatures: Mapping[str, Signature], name: str, contract: Contract, where: str) -> Binding:
    """Return the binding of signature `name` of a model that describes itself.

    Raises UsageError if there is none of that name, if it doesn't take one picture, if that has another size than
    the contract's, or if it isn't clear which output holds the probabilities. `where` names the model in messages.
    """
    signature = signatures.get(name)
    if signature is None:
        known = ", ".join(sorted(each for each in signatures if not each.startswith("__"))) or "none"
        raise UsageError(f"{where}: has no signature {name}; there are {known}")
    if signature.method_name in _EXAMPLES:
        raise UsageError(_takes_examples(name))
    if len(signature.inputs) != 1:
        raise UsageError(
            f"{where}: signature {name} takes {', '.join(signature.inputs) or 'nothing'}; expected one picture"
        )
    ((key, spec),) = signature.inputs.items()
    dtype = _dtype(spec, contract.scaling)
    if dtype is None:
        remedy = "; start the server without --prefer_tflite_model" if spec.dtype in _INTEGERS else ""
        raise UsageError(
            f"{where}: signature {name} takes {key} of DataType {spec.dtype}; expected {', '.join(DTYPES.values())}"
            f"{remedy}"
        )
    output = _output(signature, name, where)
    scores = signature.outputs[output]
    scale = scores.quantization
    binding = Binding(
        key,
        output,
        dtype,
        batch=spec.shape[0] if spec.shape and spec.shape[0] > 0 else None,
        integers=_INTEGERS.get(scores.dtype, "") if scale is None else "",
        step=scale.scale if scale else 0.0,
    )
    if dtype == ENCODED or spec.shape is None or -1 in spec.shape[1:] or spec.shape[1:] == contract.shape:
        return binding
    shape = spec.shape[1:]
    if not shape or prod(shape) != prod(contract.shape):
        raise UsageError(
            f"{where}: signature {name} takes {key} {list(shape)}, but pictures are prepared as "
            f"{list(contract.shape)}; give the model's contract.json by --contract"
        )
    return replace(binding, shape=shape)


def images_of(pixels: NDArray[np.uint8], contract: Contract, dtype: str) -> NDArray[Any]:
    """Return pixels [N, height, width, channels] as an input takes images whose dtype has this name of `DTYPES`."""
    return pixels if dtype == PIXELS else contract.scale(pixels).astype(dtype, copy=False)


def checked(answer: Any, count: int, where: str) -> NDArray[np.float32]:
    """Return an answer as raw scores float32 [count, classes]; Refused if that isn't what it is."""
    try:
        scores = np.asarray(answer, np.float32)
    except (ValueError, TypeError):  # rows of different lengths, or texts
        scores = np.empty(0, np.float32)
    if scores.ndim != 2 or len(scores) != count or not scores.size or not np.isfinite(scores).all():
        raise Refused(
            f"{where}: answered {list(scores.shape)} for {count} pictures; expected finite scores [{count}, classes]"
        )
    return scores


def _output(signature: Signature, name: str, where: str) -> str:
    if PROBABILITIES in signature.outputs:
        return PROBABILITIES
    scores = [
        key
        for key, spec in signature.outputs.items()
        if _is_score(spec) and (spec.shape is None or len(spec.shape) == 2)
    ]
    if len(scores) == 1:
        return scores[0]
    raise UsageError(
        f"{where}: signature {name} answers {', '.join(sorted(signature.outputs)) or 'nothing'}; expected "
        f"{PROBABILITIES}, or one matrix of scores"
    )


def _is_score(spec: TensorSpec) -> bool:
    floating = DTYPES.get(spec.dtype, "").startswith("float")
    return floating or spec.quantization is not None or spec.dtype in _INTEGERS


def _dtype(spec: TensorSpec, scaling: Scaling) -> str | None:
    """Return what images are to an input, None if it takes none. Quantized inputs take values, which are quantized."""
    if spec.quantization is None:
        return DTYPES.get(spec.dtype)
    return PIXELS if spec.dtype == _UINT8 and _are_pixels(spec.quantization, scaling) else "float32"


def _are_pixels(quantization: Quantization, scaling: Scaling) -> bool:
    """Tell whether the integers of a quantized input are pixels: they stand for themselves, or for their values."""
    ends = [(pixel - quantization.zero_point) * quantization.scale for pixel in (0, _WHITE)]
    wanted = [(0.0, float(_WHITE))]
    if scaling.uniform:
        wanted.append((scaling.offset[0], scaling.offset[0] + _WHITE * scaling.scale[0]))
    return any(np.allclose(ends, each, rtol=0, atol=abs(each[1] - each[0]) / _WHITE / 2) for each in wanted)


def _takes_examples(signature: str) -> str:
    return f"signature {signature} takes tf.Examples, by the Classify API; pictures as they are go to serving_bytes"
