"""int8 but for the layers that lose accuracy by it, which stay float32; found by measuring.

With ai-edge-quantizer, from the float32 file. TensorFlow is not needed and never loaded.
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

# Of the probability, this share may move to other classes on average; the examples' int8 files move 0.002 to
# 0.007, and lose nothing by it.
MOVED = 0.01
# This share of the decisions may change, and one decision of few.
CHANGED = 0.01
# Seconds for calibration and measurements unless the caller says otherwise.
SECONDS = 120.0

# The shares of the seconds in which calibration ends, and a single measurement runs images.
_CALIBRATION, _MEASUREMENT = 1 / 3, 1 / 40
# Images that are calibrated at once: all their tensors are kept meanwhile.
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
    """Do what `quantize` does in a child process and show its progress on stderr."""
    with Progress("selective", round(seconds), "s") as progress:
        shown = 0

        def show(state: tuple[float, str]) -> None:
            nonlocal shown
            spent = min(round(state[0]), round(seconds))
            progress.advance(spent - shown, note=state[1])
            shown = spent

        answer: tuple[list[str], int] = isolation.run(
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
            about=path.stem,
        )
    return answer


def quantize(
    reference: Path,
    images: Path,
    contract: Contract,
    path: Path,
    known: Sequence[str] = (),
    seconds: float = SECONDS,
) -> tuple[list[str], int]:
    """Write the float32 file as an int8 file with float32 inputs and outputs.

    Returns the layers kept in float32 and the number of images that the others were calibrated with. `images` is a
    file of pixels uint8 [N, H, W, C]. The damage of layers is what quantizing only them moves and
    changes, relative to `MOVED` and `CHANGED`: the larger of both. If that of all layers is more than 1, the worst half
    is searched for the layer that does most, then the next, and these stay float32 until it is at most 1. After
    `seconds`, groups of layers that haven't been searched stay float32 as a whole. For large models the time limits
    the number of images, too. `known` are the layers' names in Keras. Raises ConversionError if no layer can be in
    int8.
    """
    work = _Work(reference.read_bytes(), np.load(images, mmap_mode="r"), contract, seconds)
    data, kept = _search(work)
    path.write_bytes(signature_metadata.add(_batch_free(data) if work.batch_free else data))
    return list(dict.fromkeys(name(work.scopes[index], known) for index in sorted(kept))), work.calibrated


def _search(work: "_Work") -> tuple[bytes, set[int]]:
    """Return a file whose damage is at most 1, and the indices of its layers in float32."""
    count = len(work.scopes)
    data = work.quantized(range(count))
    whole = work.damage(data, "all layers")
    if whole <= 1:
        return data, set()
    # Groups of consecutive layers, the worst first.
    groups, kept = [(-whole, 0, count)], set[int]()
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

    def without(number: int) -> set[int]:
        return kept.union(*(range(low, high) for _, low, high in groups[:number]))

    def enough(number: int) -> bool:
        rest = set(range(count)) - without(number)
        return work.damage(work.quantized(rest), f"{len(rest)} of {count} layers") <= 1

    kept = without(bisect.bisect_left(range(len(groups)), True, lo=1, key=enough) if groups else 0)
    if len(kept) == count:
        reason = "every layer loses too much in int8"
        if work.left <= 0:
            reason = "no layer was found that can be in int8 in the time; give more by --selective-seconds"
        raise ConversionError(f"selective: {reason}")
    return work.quantized(set(range(count)) - kept), kept


class _Work:
    """A file, calibrated once, to be quantized in any of its layers.

    `scopes` are the quantizer's names of the layers, in order of execution; `batch_free` whether the file takes any
    number of images; `calibrated` how many were used.
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
                "selective: the model has loops or branches, as recurrent layers do, which the quantizer can't "
                "calibrate; serve another format"
            )
        self.scopes = [tfl_flatbuffer_utils.get_op_scope(each, graph.tensors) for each in graph.operators]
        self.batch_free, self._at_once = batch(data, _AT_ONCE)
        self._order = calibration.order(len(pixels))
        self._ranges = self._calibrated(seconds * _CALIBRATION)
        self._images = len(pixels)
        self._expected = self._run(data, seconds * _MEASUREMENT)
        self._images = len(self._expected)

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self._seconds - (time.monotonic() - self._start)

    def quantized(self, layers: Iterable[int]) -> bytes:
        """Return the file with the layers of these indices in int8."""
        scopes = {self.scopes[index] for index in layers}
        if not scopes:
            return self._data
        with _silent():
            return bytes(
                self._with(scopes).quantize(self._ranges, enable_progress_report=False).quantized_model
            )

    def damage(self, data: bytes, what: str) -> float:
        """Return the damage of a file; `what` describes it in the progress."""
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

    def _calibrated(self, seconds: float) -> dict[str, dict[str, Any]]:
        """Return the ranges of all tensors, over as many images as can be calibrated in `seconds`."""
        whole, ranges, end = self._with(set(self.scopes)), dict[str, dict[str, Any]](), self.left - seconds
        self.calibrated = 0
        for images in self._batches(len(self._pixels)):
            self.calibrated += len(images)
            with _silent():
                # One by one: of several batches it takes a moving average of their ranges, which cuts the largest off.
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
        """Return a file's probabilities for the images, or for as many as it takes `seconds`."""
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
