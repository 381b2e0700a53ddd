"""Selective quantization: int8, except for layers that are measured to lose accuracy by it and stay float32.

It quantizes the float32 file with ai-edge-quantizer. TensorFlow is not needed and never loaded.
"""

import bisect
import contextlib
import heapq
import io
import re
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils
from numpy.typing import NDArray

from tfship.export.conversion import calibration, signature_metadata
from tfship.export.conversion.layer_divergence import batch, name
from tfship.export.preprocessing.input_contract import INDEPENDENT, Contract
from tfship.export.preprocessing.outputs import decisions
from tfship.export.runtimes.isolation import Isolation, report
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE, IMAGE, PROBABILITIES
from tfship.train.common.errors import ConversionError
from tfship.train.common.progress import Progress
from tfship.train.common.tensorflow_loader import quiet

__all__ = ["CHANGED", "MOVED", "SECONDS", "quantize", "write"]

# The mean share of the probability that may move to other classes. The examples' int8 files move 0.002 to 0.007
# without a loss of accuracy.
MOVED = 0.01
# The share of the decisions that may change; at least one decision may.
CHANGED = 0.01
# Seconds for calibration and measurements unless the caller says otherwise.
SECONDS = 120.0

# Shares of the time limit for the calibration and for the first measurement.
_CALIBRATION, _MEASUREMENT = 1 / 3, 1 / 40
# The largest batch for calibration, which keeps all tensors in memory.
_AT_ONCE = 20


def write(
    isolation: Isolation,
    reference: Path,
    images: Path,
    contract: Contract,
    path: Path,
    known: Sequence[str] = (),
    seconds: float = SECONDS,
) -> tuple[list[str], int]:
    """Run `quantize` in a child process of `isolation`, and show its progress on stderr; see `quantize`."""
    with Progress("selective", round(seconds), "s") as progress:
        shown = 0

        def show(state: tuple[float, str]) -> None:
            nonlocal shown
            spent = min(round(state[0]), round(seconds))
            progress.advance(spent - shown, note=state[1])
            shown = spent

        result: tuple[list[str], int] = isolation.run(
            "the quantizer",
            quantize,
            reference,
            images,
            contract,
            path,
            known,
            seconds,
            seconds=isolation.seconds + seconds,
            watch=show,
            subject=path.stem,
        )
    return result


def quantize(
    reference: Path,
    images: Path,
    contract: Contract,
    path: Path,
    known: Sequence[str] = (),
    seconds: float = SECONDS,
) -> tuple[list[str], int]:
    """Quantize the float32 file `reference` to an int8 file `path` with float32 inputs and outputs.

    Returns the names of the layers kept in float32 and the number of calibration images. `images` is a file of pixels
    uint8 [N, H, W, C]. `known` are the layers' names in Keras.

    The damage of a group of layers is measured with only this group in int8. It is the larger of two ratios: moved
    probability to `MOVED`, and changed decisions to `CHANGED`. If the damage of all layers exceeds 1, the group with
    the most damage is bisected down to a single layer, which stays float32. This repeats until the damage is at
    most 1. After `seconds`, groups that weren't bisected stay float32 as a whole. For large models the time also limits
    the number of images. Raises ConversionError if no layer can be in int8.
    """
    work = _Work(reference.read_bytes(), np.load(images, mmap_mode="r"), contract, seconds)
    data, kept = _search(work)
    path.write_bytes(signature_metadata.add(_batch_free(data) if work.batch_free else data))
    return list(dict.fromkeys(name(work.scopes[index], known) for index in sorted(kept))), work.calibrated


def _search(work: "_Work") -> tuple[bytes, set[int]]:
    """Return a file whose damage is at most 1, and the indices of its layers in float32."""
    count = len(work.scopes)
    data = work.quantized(range(count))
    total = work.damage(data, "all layers")
    if total <= 1:
        return data, set()
    # Groups of consecutive layers, the most damage first.
    groups, kept = [(-total, 0, count)], set[int]()
    while groups and work.left > 0:
        _, start, end = heapq.heappop(groups)
        if end - start > 1:
            middle = (start + end) // 2
            for low, high in ((start, middle), (middle, end)):
                damage = work.damage(
                    work.quantized(range(low, high)), f"layers {low + 1} to {high} of {count}"
                )
                heapq.heappush(groups, (-damage, low, high))
            continue
        kept.add(start)
        data = work.quantized(set(range(count)) - kept)
        if work.damage(data, f"all but {len(kept)} of {count} layers") <= 1:
            return data, kept
    groups.sort()

    def kept_with(number: int) -> set[int]:
        return kept.union(*(range(low, high) for _, low, high in groups[:number]))

    def is_enough(number: int) -> bool:
        rest = set(range(count)) - kept_with(number)
        return work.damage(work.quantized(rest), f"{len(rest)} of {count} layers") <= 1

    # The smallest number of groups, by damage, that must stay float32.
    kept = kept_with(bisect.bisect_left(range(len(groups)), True, lo=1, key=is_enough) if groups else 0)
    if len(kept) == count:
        reason = "every layer loses too much accuracy in int8; serve another format"
        if work.left <= 0:
            reason = "found no layer for int8 within the time limit; raise --selective-seconds"
        raise ConversionError(f"selective: {reason}")
    return work.quantized(set(range(count)) - kept), kept


class _Work:
    """A float32 file, calibrated once, of which any set of layers can be quantized and measured.

    `scopes` are the quantizer's names of the layers, in execution order. `batch_free` is whether the file takes any
    number of images. `calibrated` is the number of calibration images used.
    """

    def __init__(self, data: bytes, pixels: NDArray[np.uint8], contract: Contract, seconds: float) -> None:
        from ai_edge_quantizer import quantizer, recipe
        from ai_edge_quantizer.utils import tfl_flatbuffer_utils

        self._start, self._seconds = time.monotonic(), seconds
        self._quantizer, self._data, self._pixels, self._contract = (
            quantizer.Quantizer,
            data,
            pixels,
            contract,
        )
        self._base = recipe.static_wi8_ai8()
        graph, *bodies = tfl_flatbuffer_utils.read_model(data).subgraphs
        if bodies:
            raise ConversionError(
                "selective: the model has loops or branches, for example of recurrent layers; the quantizer can't "
                "calibrate them; serve another format"
            )
        self.scopes = [tfl_flatbuffer_utils.get_op_scope(each, graph.tensors) for each in graph.operators]
        self.batch_free, self._at_once = batch(data, _AT_ONCE)
        self._order = calibration.order(len(pixels))
        self._ranges = self._calibrate(seconds * _CALIBRATION)
        self._images = len(pixels)
        self._expected = self._run(data, seconds * _MEASUREMENT)
        self._images = len(self._expected)

    @property
    def left(self) -> float:
        """The remaining seconds."""
        return self._seconds - (time.monotonic() - self._start)

    def quantized(self, layers: Iterable[int]) -> bytes:
        """Return the file with the layers at these indices in int8."""
        scopes = {self.scopes[index] for index in layers}
        if not scopes:
            return self._data
        with _silent():
            return bytes(
                self._quantizer_of(scopes)
                .quantize(self._ranges, enable_progress_report=False)
                .quantized_model
            )

    def damage(self, data: bytes, what: str) -> float:
        """Return the damage of the file `data` (see `quantize`); `what` describes it in the progress."""
        found, expected = self._run(data), self._expected
        self._report(what)
        # The mean total variation distance between the probabilities.
        moved = float(np.abs(found - expected).sum(1).mean() / 2)
        several = self._contract.outputs == INDEPENDENT
        changes = np.not_equal(decisions(found, several=several), decisions(expected, several=several))
        changed = float(changes.mean())
        return max(moved / MOVED, changed / max(CHANGED, 1 / len(changes.ravel())))

    def _report(self, what: str) -> None:
        report((self._seconds - self.left, what))

    def _calibrate(self, seconds: float) -> dict[str, dict[str, Any]]:
        """Return the ranges of all tensors, over the images that can be run in `seconds`."""
        whole, ranges, end = (
            self._quantizer_of(set(self.scopes)),
            dict[str, dict[str, Any]](),
            self.left - seconds,
        )
        self.calibrated = 0
        for images in self._batches(len(self._pixels)):
            self.calibrated += len(images)
            with _silent():
                # Batch by batch: over several, the quantizer averages the ranges, which cuts off the extremes.
                found = whole.calibrate({DEFAULT_SIGNATURE: [{IMAGE: images}]}, num_threads=1)
            for tensor, range_ in found.items():
                before = ranges.setdefault(tensor, range_)
                for side, wider in (("min", np.minimum), ("max", np.maximum)):
                    if side in range_:
                        before[side] = wider(before[side], range_[side])
            self._report("calibrating")
            if self.left < end:
                break
        return ranges

    def _run(self, data: bytes, seconds: float = np.inf) -> NDArray[np.float32]:
        """Return a file's probabilities [n, labels] for the images that can be run in `seconds`, by default all."""
        with quiet():
            interpreter = Interpreter(model_content=data)
        runner, parts, end = interpreter.get_signature_runner(DEFAULT_SIGNATURE), [], self.left - seconds
        for images in self._batches(self._images):
            parts.append(runner(**{IMAGE: images})[PROBABILITIES])
            if self.left < end:
                break
        return np.concatenate(parts)

    def _batches(self, count: int) -> Iterator[NDArray[np.float32]]:
        for start in range(0, count, self._at_once):
            yield self._contract.scale(self._pixels[self._order[start : min(start + self._at_once, count)]])

    def _quantizer_of(self, scopes: set[str]) -> Any:
        from ai_edge_quantizer.algorithm_manager import AlgorithmName

        made = self._quantizer(self._data)
        made.load_quantization_recipe(self._base)
        for edge in ("INPUT", "OUTPUT"):
            made.update_quantization_recipe(".*", edge, None, AlgorithmName.NO_QUANTIZE)
        for scope in self.scopes:
            if scope not in scopes:
                made.update_quantization_recipe(f"^{re.escape(scope)}$", "*", None, AlgorithmName.NO_QUANTIZE)
        return made


def _batch_free(data: bytes) -> bytes:
    """Return the file `data` with a free batch in the outputs' shapes, which the quantizer's last operator omits."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    for graph in model.subgraphs:
        for index in graph.outputs:
            tensor = graph.tensors[index]
            tensor.shapeSignature = [-1, *tensor.shape[1:]]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Suppress the quantizer's progress bar, output and warnings."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), quiet():
        warnings.filterwarnings("ignore", message=r".*experimental_preserve_all_tensors")
        yield
