"""int8 but for the layers that lose accuracy by it, which stay float32; found by measuring each of them.

With ai-edge-quantizer, layer by layer, from the float32 file. TensorFlow is not needed and never loaded.
"""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils
from numpy.typing import NDArray

from export import signature_metadata
from export.layers import name
from export.runtime import DEFAULT_SIGNATURE, IMAGE, PROBABILITIES
from train import interruption
from train.backend import quiet
from train.errors import ConversionError
from train.progress import Progress

__all__ = ["ENOUGH", "quantize"]

# Of the probability, this share may move to other classes on average; the examples' int8 files move 0.002 to
# 0.007, and lose nothing by it.
ENOUGH = 0.01

# Images calibrated with at once: all tensors of all of them are kept meanwhile.
_AT_ONCE = 20


def quantize(
    reference: Path, calibration: NDArray[np.float32], known: Sequence[str] = ()
) -> tuple[bytes, list[str]]:
    """Return the float32 file as an int8 file with float32 inputs and outputs, and the layers kept in float32.

    Each layer is quantized alone, and what that moves of the probabilities of the `calibration` images, float32
    [N, H, W, C], is its damage. Layers stay float32 in the order of their damage until that of the whole is at
    most `ENOUGH`. `known` are the layers' names in Keras. Raises ConversionError if no layer can be quantized.
    """
    work = _Work(reference.read_bytes(), calibration)
    damages = {}
    with Progress("selective: each layer alone", len(work.scopes), "layers") as progress:
        for scope in work.scopes:
            damages[scope] = work.damage({scope})
            progress.advance(note=name(scope, known))
    worst = sorted(damages, key=lambda scope: -damages[scope])
    for count in range(len(worst) + 1):
        interruption.check()
        kept = worst[:count]
        data = work.quantized(set(worst[count:]))
        if work.moved(data) <= ENOUGH:
            break
    if not set(worst) - set(kept):
        raise ConversionError("selective: every layer loses too much in int8")
    return signature_metadata.add(_batch_free(data)), list(
        dict.fromkeys(name(scope, known) for scope in work.scopes if scope in kept)
    )


class _Work:
    """A file, calibrated once, to be quantized in any of its layers."""

    def __init__(self, data: bytes, calibration: NDArray[np.float32]) -> None:
        from ai_edge_quantizer import quantizer, recipe
        from ai_edge_quantizer.utils import tfl_flatbuffer_utils

        self._quantizer, self._data, self._images = quantizer.Quantizer, data, calibration
        self._base = recipe.static_wi8_ai8()
        graph = tfl_flatbuffer_utils.read_model(data).subgraphs[0]
        self.scopes = [tfl_flatbuffer_utils.get_op_scope(each, graph.tensors) for each in graph.operators]
        whole = self._with(set(self.scopes))
        self._ranges: dict[str, dict[str, Any]] = {}
        for start in range(0, len(calibration), _AT_ONCE):
            interruption.check()
            with _silent():
                # One by one: of several batches it takes a moving average of their ranges, which cuts the largest off.
                samples = {DEFAULT_SIGNATURE: [{IMAGE: calibration[start : start + _AT_ONCE]}]}
                found = whole.calibrate(samples, num_threads=1)
            for tensor, range_ in found.items():
                before = self._ranges.setdefault(tensor, range_)
                for end, wider in (("min", np.minimum), ("max", np.maximum)):
                    if end in range_:
                        before[end] = wider(before[end], range_[end])
        self._expected = self._run(data)

    def _with(self, scopes: set[str]) -> Any:
        from ai_edge_quantizer.algorithm_manager import AlgorithmName

        found = self._quantizer(self._data)
        found.load_quantization_recipe(self._base)
        for edge in ("INPUT", "OUTPUT"):
            found.update_quantization_recipe(".*", edge, None, AlgorithmName.NO_QUANTIZE)
        for scope in self.scopes:
            if scope not in scopes:
                found.update_quantization_recipe(
                    f"^{re.escape(scope)}$", "*", None, AlgorithmName.NO_QUANTIZE
                )
        return found

    def quantized(self, scopes: set[str]) -> bytes:
        """Return the file with the layers in `scopes` in int8."""
        if not scopes:
            return self._data
        with _silent():
            return bytes(
                self._with(scopes).quantize(self._ranges, enable_progress_report=False).quantized_model
            )

    def damage(self, scopes: set[str]) -> float:
        """Return what quantizing only the layers in `scopes` moves."""
        return self.moved(self.quantized(scopes))

    def moved(self, data: bytes) -> float:
        """Return the mean total variation distance between a file's probabilities and the float32 file's, 0…1."""
        return float(np.abs(self._run(data) - self._expected).sum(1).mean() / 2)

    def _run(self, data: bytes) -> NDArray[np.float32]:
        with quiet():
            interpreter = Interpreter(model_content=data)
        probabilities: NDArray[np.float32] = interpreter.get_signature_runner(DEFAULT_SIGNATURE)(
            **{IMAGE: self._images}
        )[PROBABILITIES]
        return probabilities


def _batch_free(data: bytes) -> bytes:
    """Say again that the outputs' batch is free: the quantizer's own last operator doesn't, though it is."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    for graph in model.subgraphs:
        for index in graph.outputs:
            tensor = graph.tensors[index]
            tensor.shapeSignature = [-1, *tensor.shape[1:]]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Hold back what the quantizer says: a bar of its own, and warnings of what it does on purpose."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), quiet():
        warnings.filterwarnings("ignore", message=r".*experimental_preserve_all_tensors")
        yield
