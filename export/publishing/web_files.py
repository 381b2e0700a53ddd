"""The files for browsers of a version: written, run in headless Chromium if there is one, and checked by the gate."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.conversion import web_file
from tfship.export.conversion.formats import FORMATS, WEB, Format
from tfship.export.preprocessing.input_contract import Contract
from tfship.export.publishing import verification
from tfship.export.publishing.gate import Gate, GateCheck
from tfship.export.runtimes.browser import DTYPES, Browser
from tfship.export.runtimes.litert import LiteRT
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE, Classifier, Runtime, TensorSpec
from tfship.export.sources.source import Source
from tfship.train.common import interruption
from tfship.train.common.errors import ArtifactError, ResultError, UsageError
from tfship.train.common.files import sha256
from tfship.train.common.progress import Progress
from tfship.train.common.tensorflow_loader import quiet

__all__ = ["NATIVE_DIFFERENCE", "WebFiles"]

# Limits for a format, since WebAssembly is slower and runs image by image. LiteRT alone needs a few images: that the
# format itself is right was verified on all.
_MOST_IMAGES, _MOST_WITHOUT_BROWSER, _SECONDS = 1000, 100, 5.0
# Images of the first batch, and the seconds up to which the next one is twice as large.
_BATCH, _SHORT = 20, 0.5
# Field of an entry: the largest difference of a score from the format's own file in LiteRT.
NATIVE_DIFFERENCE = "native_difference"


@dataclass
class WebFiles:
    """The files for browsers of the version in `folder`; `checks` are the gate's, of those that are published.

    `reference` are the original model's scores of the evaluation images. With `force`, files that the gate doesn't
    bless are kept.
    """

    source: Source
    folder: Path
    contract: Contract
    gate: Gate
    reference: NDArray[np.float32]
    say: Callable[[str], None]
    force: bool
    checks: list[GateCheck] = field(default_factory=list)

    def write(self, formats: Sequence[str]) -> list[dict[str, Any]]:
        """Write and check the files of the TFLite `formats` in `folder`, and return the card's entries.

        A file that fails in the browser, or doesn't answer there as the format does in LiteRT, is left out; its entry
        has `left_out`, the reason. Without a browser, the files run in LiteRT, and the entries' `browser` is empty.
        """
        with contextlib.ExitStack() as stack:
            running = None
            try:
                if formats:
                    running = stack.enter_context(contextlib.closing(Browser()))
            except (ArtifactError, UsageError) as error:
                self.say(f"{self.contract.model}: the files for browsers weren't run in a browser: {error}")
            # Spread over all images, since a folder's are sorted by class.
            total = len(self.source.evaluation.pixels)
            most = _MOST_IMAGES if running else _MOST_WITHOUT_BROWSER
            self._chosen = np.random.default_rng(0).permutation(total)[:most]
            return [self._entry(FORMATS[name], running) for name in formats]

    def _entry(self, row: Format, running: Browser | None) -> dict[str, Any]:
        """Write and check the file of one format, and return the card's entry."""
        interruption.check()
        path = self.folder / row.web_file
        path.parent.mkdir(exist_ok=True)
        about = f"{self.contract.model} {WEB}/{row.name}"
        try:
            path.write_bytes(web_file.fixed_batch(self.folder / row.file))
            return self._checked(row, path, running, about)
        except (ArtifactError, ResultError) as error:
            interruption.check()  # Ctrl-C also ends the browser
            path.unlink(missing_ok=True)
            reason = str(error).removeprefix(f"{path}: ").removeprefix(f"{about}: ")
            self.say(f"{about}: left out: {reason}")
            return {"format": row.name, "left_out": reason}

    def _checked(self, row: Format, path: Path, running: Browser | None, about: str) -> dict[str, Any]:
        with contextlib.ExitStack() as stack:
            with quiet():  # LiteRT prints a line about its delegate
                native = LiteRT(self.folder / row.file)
                stack.callback(native.close)
                model: Runtime = LiteRT(path) if running is None else running.load(path)
                stack.callback(model.close)
            where = "LiteRT" if running is None else running.version
            scores = self._scores(Classifier(model, str(path)), f"{about}: verifying in {where}")
            done = self._chosen[: len(scores)]
            expected = self._predict(Classifier(native, row.file), done)
            signature = model.signatures[DEFAULT_SIGNATURE]
        several = self.source.several
        same = verification.compare(about, scores, expected, None, several=several)
        # By the rules for float32: the format itself has passed its own, and a browser must not change its answers.
        checks = self.gate.checks(f"{WEB}/{row.name}", exact=True, figures=same, reference=None, blessed=None)
        if failed := [check.text() for check in checks if not check.passed and not self.force]:
            raise ResultError("; ".join(failed))
        self.checks += checks
        truth = self.source.evaluation.truth[done] if self.source.evaluation.labelled else None
        return {
            "format": row.name,
            "file": path.relative_to(self.folder).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
            "input": _tensor(signature.inputs),
            "output": _tensor(signature.outputs),
            "browser": "" if running is None else running.version,
            NATIVE_DIFFERENCE: same["largest_difference"],
            **verification.compare(about, scores, self.reference[done], truth, several=several),
        }

    def _scores(self, target: Classifier, label: str) -> NDArray[np.float32]:
        """Return the scores of the chosen images, of as many as the time limit allows, at least one batch."""
        begin, parts, waiting, size = time.monotonic(), [], self._chosen, _BATCH
        with Progress(label, len(waiting), "images") as progress:
            while len(waiting) and (seconds := time.monotonic() - begin) < _SECONDS:
                parts.append(self._predict(target, waiting[:size]))
                progress.advance(len(parts[-1]))
                interruption.check()
                waiting = waiting[size:]
                if time.monotonic() - begin - seconds < _SHORT:
                    size *= 2  # each batch is a message, which takes longer than a small network
        return np.concatenate(parts)

    def _predict(self, target: Classifier, chosen: NDArray[np.intp]) -> NDArray[np.float32]:
        pixels = self.source.evaluation.pixels[chosen]
        return target.predict(pixels if target.takes_pixels else self.contract.scale(pixels))


def _tensor(tensors: Mapping[str, TensorSpec]) -> dict[str, Any]:
    (spec,) = tensors.values()
    scale = spec.quantization
    return {
        "dtype": DTYPES.get(spec.dtype, ""),
        "quantization": None if scale is None else {"scale": scale.scale, "zero_point": scale.zero_point},
    }
