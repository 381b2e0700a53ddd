"""The SavedModel's signatures, called with the same images: they must agree with each other and with the model.

Loads TensorFlow.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.preprocessing import graph
from tfship.export.preprocessing.input_contract import CLASSIFY, SERVING_BYTES, SERVING_UINT8, Contract
from tfship.export.publishing import warmup_requests
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE, IMAGE, PROBABILITIES, Runtime
from tfship.export.sources.source import Source
from tfship.train.common.errors import ResultError

__all__ = ["Inputs", "check", "requests", "warm_up"]

# The inputs of a signature by name.
Inputs = Mapping[str, NDArray[Any]]

# Encoded images are decoded and prepared one by one, so a part of the evaluation images must do.
_IMAGES = 100
# How far scores of the same model may differ by the order of float arithmetic, by the precision it computes in. A model
# that Keras quantized to int8 is exported in float32.
_SAME = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 4e-2, "int8": 1e-1}


def requests(contract: Contract, pixels: NDArray[np.uint8]) -> dict[str, Inputs]:
    """Return the inputs of each signature for the first images, pixels uint8 [N, H, W, C], as users send them."""
    some = pixels[:_IMAGES]
    encoded = np.array([graph.png(each) for each in some], object)
    return {
        DEFAULT_SIGNATURE: {IMAGE: contract.scale(some)},
        SERVING_UINT8: {IMAGE: some},
        SERVING_BYTES: {"image_bytes": encoded},
        CLASSIFY: {"inputs": np.array([warmup_requests.example(each) for each in encoded], object)},
    }


def warm_up(
    contract: Contract, inputs: Mapping[str, Inputs], signatures: Collection[str]
) -> Iterator[tuple[str, Inputs]]:
    """Yield the warm-up requests: one image for each signature, and encoded images of every kind and size."""
    for signature in signatures:
        yield signature, {name: value[:1] for name, value in inputs[signature].items()}
    if SERVING_BYTES not in signatures:
        return
    for image in warmup_requests.images(contract):
        yield SERVING_BYTES, {"image_bytes": np.array([image], object)}
        yield CLASSIFY, {"inputs": np.array([warmup_requests.example(image)], object)}


def check(source: Source, runtime: Runtime, inputs: Mapping[str, Inputs]) -> None:
    """Compare the answers of all signatures; ResultError if one differs from the model by more than rounding."""
    name = source.contract.model
    try:
        answers = {signature: runtime.run(signature, each) for signature, each in inputs.items()}
    except ValueError as error:
        # An empty page, for instance, among images that are to be prepared as digits.
        raise ResultError(
            f"{name}: a signature refuses evaluation images ({error}); nothing was published"
        ) from error
    expected = source.predict(graph.prepared(source.contract, inputs[SERVING_BYTES]["image_bytes"]))
    most = _SAME[source.precision]
    for signature, output, right in (
        (SERVING_UINT8, PROBABILITIES, answers[DEFAULT_SIGNATURE][PROBABILITIES]),
        (SERVING_BYTES, PROBABILITIES, expected),
        (CLASSIFY, "scores", expected),
    ):
        difference = float(np.abs(answers[signature][output] - right).max())
        if not difference <= most:  # NaN isn't
            raise ResultError(
                f"{name}: the signature {signature} differs from the model by {difference:.2g} on the same images, "
                f"more than rounding does ({most:g}); nothing was published"
            )
