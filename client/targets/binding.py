"""Binding of a signature: its tensors for images and scores, and the form in which it takes images.

Derived from the signatures that a server or a file reports, or else from the input contract, which describes its own.
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
    "EXPORTED",
    "PIXELS",
    "Binding",
    "RawScores",
    "bound",
    "by_contract",
    "by_signature",
    "checked",
    "images_of",
]

# Dtypes of inputs that take pixels, and encoded images. Inputs of other dtypes take scaled values.
PIXELS, ENCODED = "uint8", "string"
# The dtypes of inputs that take images, by TensorFlow's DataType number.
DTYPES = {1: "float32", 2: "float64", 4: PIXELS, 7: ENCODED, 19: "float16"}
# Method names of the signatures that take tf.Examples.
_EXAMPLES = ("tensorflow/serving/classify", "tensorflow/serving/regress")
_UINT8 = 4
# The integer dtypes of quantized scores.
_INTEGERS = {_UINT8: "uint8", 6: "int8"}
_WHITE = 255


@dataclass(frozen=True)
class Binding:
    """The names of a signature's `input` and `output`, and the form of images and scores.

    `dtype` is one of `DTYPES`' names. `shape` is one image's, None for the contract's; it has the same number of
    values: [28, 28] or [784] for [28, 28, 1]. `batch` is the fixed number of images in a request, None for any number.
    `integers` is the dtype of scores that are integers of unknown scale, "uint8" or "int8". `step` is the distance
    between neighbouring scores if their quantization is known.
    """

    input: str = IMAGE
    output: str = PROBABILITIES
    dtype: str = "float32"
    shape: tuple[int, ...] | None = None
    batch: int | None = None
    integers: str = ""
    step: float = 0.0

    def rows(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return images [N, height, width, channels], or encoded ones [N], as the input's tensor.

        If the input takes a fixed number of images, N may be smaller: the last image is repeated.
        """
        images = images if self.shape is None else images.reshape(len(images), *self.shape)
        lacking = (self.batch or len(images)) - len(images)
        return np.concatenate([images, np.repeat(images[-1:], lacking, 0)]) if lacking > 0 else images

    def parts(self, count: int) -> list[slice]:
        """Return the slices of `count` images that fit into one request each."""
        size = self.batch or max(count, 1)
        return [slice(start, start + size) for start in range(0, count, size)]


# The binding of `serving_default` of exported models.
EXPORTED = Binding()


class RawScores(NamedTuple):
    """A model's raw scores float32 [N, K], and its version number, None if the protocol doesn't report it."""

    scores: NDArray[np.float32]
    version: int | None = None


def bound(
    found: Mapping[str, Signature] | Refused, name: str, contract: Contract, where: str, own: Contract | None
) -> Binding:
    """Return the binding of signature `name`, by the signatures that a target reports or by the model's own contract.

    `found` is what the target reports. A gateway may refuse everything but predictions: then the contract `own`
    decides. Raises that refusal if `own` is None or doesn't describe the signature, and what `by_signature` does.
    """
    if not isinstance(found, Refused):
        return by_signature(found, name, contract, where)
    binding = by_contract(own, name) if own else None
    if binding is None:
        raise found
    return binding


def by_contract(contract: Contract, signature: str) -> Binding | None:
    """Return the binding of a signature that the contract describes, None for any other.

    Raises UsageError for the signature that takes tf.Examples.
    """
    signatures = contract.describe()["signatures"]
    if signature == CLASSIFY:
        raise UsageError(_takes_examples(signature))
    if signature not in signatures:
        return None
    ((name, tensor),) = signatures[signature]["inputs"].items()
    return Binding(name, PROBABILITIES, tensor["dtype"])


def by_signature(signatures: Mapping[str, Signature], name: str, contract: Contract, where: str) -> Binding:
    """Return the binding of signature `name` among the signatures that a model reports.

    Raises UsageError if there is no such signature, if it doesn't take one image of the contract's size, or if no
    output is identifiable as the scores. `where` names the model in messages.
    """
    signature = signatures.get(name)
    if signature is None:
        known = ", ".join(sorted(each for each in signatures if not each.startswith("__"))) or "none"
        raise UsageError(f"{where}: has no signature {name}; there are {known}")
    if signature.method_name in _EXAMPLES:
        raise UsageError(_takes_examples(name))
    if len(signature.inputs) != 1:
        raise UsageError(
            f"{where}: signature {name} takes {', '.join(signature.inputs) or 'nothing'}; expected one image"
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
            f"{where}: signature {name} takes {key} {list(shape)}, but images are prepared as "
            f"{list(contract.shape)}; give the model's contract.json by --contract"
        )
    return replace(binding, shape=shape)


def images_of(pixels: NDArray[np.uint8], contract: Contract, dtype: str) -> NDArray[Any]:
    """Return pixels [N, height, width, channels] as images for an input of `dtype`, one of `DTYPES`' names."""
    return pixels if dtype == PIXELS else contract.scale(pixels).astype(dtype, copy=False)


def checked(response: Any, count: int, where: str) -> NDArray[np.float32]:
    """Return a response as raw scores float32 [count, classes]. Raises Refused if it isn't that."""
    try:
        scores = np.asarray(response, np.float32)
    except (ValueError, TypeError):  # rows of different lengths, or text
        scores = np.empty(0, np.float32)
    if scores.ndim != 2 or len(scores) != count or not scores.size or not np.isfinite(scores).all():
        raise Refused(
            f"{where}: returned {list(scores.shape)} for {count} images; expected finite scores [{count}, classes]"
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
        f"{where}: signature {name} returns {', '.join(sorted(signature.outputs)) or 'nothing'}; expected "
        f"{PROBABILITIES}, or one matrix of scores"
    )


def _is_score(spec: TensorSpec) -> bool:
    floating = DTYPES.get(spec.dtype, "").startswith("float")
    return floating or spec.quantization is not None or spec.dtype in _INTEGERS


def _dtype(spec: TensorSpec, scaling: Scaling) -> str | None:
    """Return the dtype of images for an input, None if it takes none. Values for a quantized input are quantized."""
    if spec.quantization is None:
        return DTYPES.get(spec.dtype)
    return PIXELS if spec.dtype == _UINT8 and _are_pixels(spec.quantization, scaling) else "float32"


def _are_pixels(quantization: Quantization, scaling: Scaling) -> bool:
    """Tell whether a quantized input takes pixels: its integers represent themselves, or the values of pixels."""
    ends = [(pixel - quantization.zero_point) * quantization.scale for pixel in (0, _WHITE)]
    wanted = [(0.0, float(_WHITE))]
    if scaling.uniform:
        wanted.append((scaling.offset[0], scaling.offset[0] + _WHITE * scaling.scale[0]))
    return any(np.allclose(ends, each, rtol=0, atol=abs(each[1] - each[0]) / _WHITE / 2) for each in wanted)


def _takes_examples(signature: str) -> str:
    return f"signature {signature} takes tf.Examples (Classify API); expected one for images, such as serving_bytes"
