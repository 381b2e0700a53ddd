"""Checks of the SavedModel's signatures: with the same images, they must agree with each other and the model.

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

# Number of evaluation images used: encoded images are decoded and prepared one by one, which is slow.
_IMAGES = 100
# Largest difference between scores that rounding explains, by the model's precision. A model that Keras quantized to
# int8 is exported in float32.
_TOLERANCE = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 4e-2, "int8": 1e-1}


def requests(contract: Contract, pixels: NDArray[np.uint8]) -> dict[str, Inputs]:
    """Return the inputs of each signature, as clients send them, for the first 100 of `pixels`, uint8 [N, H, W, C]."""
    sample = pixels[:_IMAGES]
    encoded = np.array([graph.png(each) for each in sample], object)
    return {
        DEFAULT_SIGNATURE: {IMAGE: contract.scale(sample)},
        SERVING_UINT8: {IMAGE: sample},
        SERVING_BYTES: {"image_bytes": encoded},
        CLASSIFY: {"inputs": np.array([warmup_requests.example(each) for each in encoded], object)},
    }


def warm_up(
    contract: Contract, inputs: Mapping[str, Inputs], signatures: Collection[str]
) -> Iterator[tuple[str, Inputs]]:
    """Yield warm-up requests, (signature, inputs): one image of `inputs` for each of `signatures`, and encoded images.

    The encoded images, for the signatures that take them, are those of `warmup_requests.images`.
    """
    for signature in signatures:
        yield signature, {name: value[:1] for name, value in inputs[signature].items()}
    if SERVING_BYTES not in signatures:
        return
    for image in warmup_requests.images(contract):
        yield SERVING_BYTES, {"image_bytes": np.array([image], object)}
        yield CLASSIFY, {"inputs": np.array([warmup_requests.example(image)], object)}


def check(source: Source, runtime: Runtime, inputs: Mapping[str, Inputs]) -> None:
    """Compare the outputs of all signatures of `runtime`; ResultError if one differs by more than rounding.

    `inputs` are those of `requests`. The reference is the model of `source`.
    """
    name = source.contract.model
    try:
        outputs = {signature: runtime.run(signature, each) for signature, each in inputs.items()}
    except ValueError as error:
        # For example, an empty image where the contract expects a digit.
        raise ResultError(
            f"{name}: a signature refuses evaluation images ({error}); nothing was published; remove these images"
        ) from error
    expected = source.predict(graph.prepared(source.contract, inputs[SERVING_BYTES]["image_bytes"]))
    tolerance = _TOLERANCE[source.precision]
    for signature, output, reference in (
        (SERVING_UINT8, PROBABILITIES, outputs[DEFAULT_SIGNATURE][PROBABILITIES]),
        (SERVING_BYTES, PROBABILITIES, expected),
        (CLASSIFY, "scores", expected),
    ):
        difference = float(np.abs(outputs[signature][output] - reference).max())
        if not difference <= tolerance:  # also true for NaN
            raise ResultError(
                f"{name}: the signature {signature} differs from the model by {difference:.2g} on the same images; "
                f"expected at most {tolerance:g}, the effect of rounding; nothing was published"
            )
