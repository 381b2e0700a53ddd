"""One export: SavedModel and TFLite files built in a stage, verified, judged, then published as a version."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export import cards, gate, layers, micro, selective, store, verify
from export.cards import SAVED_MODEL, ExportCard
from export.contract import CLASSIFY, SERVING_BYTES, SERVING_UINT8
from export.formats import FORMATS, REFERENCE, SERVED_FILE, Format
from export.gate import Check, Gate
from export.runtime import DEFAULT_SIGNATURE, IMAGE, PROBABILITIES, Classifier, Runtime
from export.savedmodel import SavedModel
from export.source import Source
from train import environment, stats
from train.errors import ArtifactError, ConversionError, ResultError, UsageError
from train.files import sha256, write_json

__all__ = ["Plan", "export", "refusal_path"]

# On so many evaluation images the SavedModel's other signatures are compared, and TensorFlow Lite Micro, whose
# reference kernels take their time.
_SOME = 100
# Float arithmetic in another order, in float32.
_SAME = 1e-4
# Each holds the model once more.
_MOST_INTERPRETERS = 8
# On so many images a failed format is compared layer by layer.
_LAYER_IMAGES = 100


@dataclass(frozen=True)
class Plan:
    """What an export makes of a source: which formats, which of them `model.tflite` is, and what must hold.

    With `force`, what isn't blessed is published all the same, and the card says so.
    """

    rows: Sequence[Format]
    serves: str = REFERENCE
    gate: Gate = field(default_factory=Gate)
    force: bool = False

    def __post_init__(self) -> None:
        """Refuse a `serves` that isn't among the rows; UsageError."""
        if self.serves not in {row.name for row in self.rows}:
            raise UsageError(
                f"--serve {self.serves}: not among the formats asked for, {', '.join(row.name for row in self.rows)}"
            )


def export(source: Source, models: Path, plan: Plan, say: Callable[[str], None]) -> tuple[Path, ExportCard]:
    """Export `source` as the next version of `models/<its name>` and return its directory and card.

    Every artefact is loaded back by the runtime that serves it and run over all evaluation images, and the gate
    judges, before anything is published. A format that can't be written is left out and said. Raises
    ResultError, naming each failed check, if the export isn't blessed (unless forced): nothing is published
    then, and the record of why lies in `refusal_path`.
    """
    name = source.contract.model
    before = _last_blessed(models / name, source.evaluation.data["sha256"])
    with store.draft(models / name) as draft:
        work = _Work(source, draft.folder, plan, before, say)
        card = work.run()
        refused = refusal_path(models, name)
        if not card.blessing["blessed"] and not plan.force:
            write_json(
                refused, {**card.blessing, "model": name, "created": card.created, "layers": card.layers}
            )
            raise ResultError(_refusal(card, refused))
        card.write(draft.folder)
        published = draft.publish()
        refused.unlink(missing_ok=True)
        return published, card


def refusal_path(models: Path, name: str) -> Path:
    """Return where the record of the last export of `name` lies that wasn't blessed."""
    return models / f"{name}.not-blessed.json"


class _Work:
    """One export on its way; `run` does the steps in order."""

    def __init__(
        self, source: Source, folder: Path, plan: Plan, before: dict[str, float], say: Callable[[str], None]
    ) -> None:
        self._source, self._folder, self._plan, self._before, self._say = source, folder, plan, before, say
        self._name = source.contract.model
        self._pixels, self._truth = source.evaluation.pixels, source.evaluation.classes
        self._calibration = _calibration(source)
        self._artefacts: list[dict[str, Any]] = []
        self._checks: list[Check] = []
        self._seconds: dict[str, float] = {}

    def run(self) -> ExportCard:
        """Build, verify and judge everything, and return the card, not yet written."""
        from export import convert, warmup

        source, plan = self._source, self._plan
        contract = source.contract
        with self._step("keras"):
            self._reference = source.predict(self._pixels)
            self._accuracy = stats.accuracy(self._reference.argmax(1), self._truth)
        with self._step(SAVED_MODEL):
            convert.to_saved_model(source.exported, source.tracked, contract, self._folder)
            contract.write(self._folder)
            files = [path for path in self._folder.rglob("*") if path.is_file()]
            requests = self._requests()
            firsts = {
                key: {name: value[:1] for name, value in each.items()} for key, each in requests.items()
            }
            warmup.write(self._folder, self._name, firsts)
            runtime = SavedModel(self._folder)
            with contextlib.closing(Classifier(runtime, str(self._folder))) as target:
                self._check_signatures(runtime, requests)
                warmed = warmup.replay(self._folder, runtime)
                self._verify(SAVED_MODEL, sorted(files), [target], exact=True, extra={})
        unconverted: dict[str, str] = {}
        for row in plan.rows:
            try:
                with self._step(row.name):
                    self._format(row)
            except ArtifactError as error:  # it can't be converted, or no runtime takes what came out
                (self._folder / row.file).unlink(missing_ok=True)
                reason = str(error) if isinstance(error, ConversionError) else f"{row.name}: {error}"
                unconverted[row.name] = reason
                self._say(f"{self._name} {reason}; left out")
        if plan.serves in unconverted:
            raise ConversionError(
                f"model.tflite was to be {unconverted[plan.serves]}; choose another with --serve"
            )
        shutil.copyfile(self._folder / FORMATS[plan.serves].file, self._folder / SERVED_FILE)
        blessing = gate.record(plan.gate, self._checks, forced=plan.force)
        return ExportCard(
            model=self._name,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            keras_sha256=source.sha256,
            request=source.request,
            classes=list(contract.labels),
            data=source.evaluation.data,
            calibration=source.calibrated_with,
            equalized=source.equalized,
            keras_accuracy=self._accuracy,
            artefacts=self._artefacts,
            unconverted=unconverted,
            serves=plan.serves,
            warmup=warmed,
            blessing=blessing,
            layers=self._diagnose(),
            seconds=self._seconds,
            files=cards.listing(self._folder),
            environment=environment.describe(),
        )

    def _format(self, row: Format) -> None:
        """Write and verify one TFLite format."""
        from export import convert

        path = self._folder / row.file
        path.parent.mkdir(exist_ok=True)
        extra: dict[str, Any] = {}
        if row.selective:
            extra["float_layers"] = self._selective(path)
        else:
            source = self._source
            data = convert.to_tflite(source.exported, source.tracked, source.contract, row, self._calibration)
            path.write_bytes(data)
        if row.integer and micro.AVAILABLE:
            extra["micro"] = self._micro(row)
        self._verify(row.name, [path], self._opened(row), exact=row.exact, extra=extra)

    def _selective(self, path: Path) -> list[str]:
        reference = self._folder / FORMATS[REFERENCE].file
        if self._calibration is None or not reference.is_file():
            raise ConversionError(f"{path.stem}: needs the format {REFERENCE} beside it, and --calibration")
        data, kept = selective.quantize(reference, self._calibration, self._source.layers)
        path.write_bytes(data)
        self._say(f"{self._name} {path.stem}: {', '.join(kept) if kept else 'no layer'} kept in float32")
        return kept

    def _micro(self, row: Format) -> dict[str, Any]:
        """Run some images in TensorFlow Lite Micro and compare with LiteRT; a file it can't run is no failure."""
        path, target = self._folder / row.file, verify.open_tflite(self._folder, row)
        tensors = target.prepare(self._some(_SOME))
        try:
            found = micro.predict(path, tensors).argmax(1)
            expected = target.infer(tensors).argmax(1)
            agreement = float(np.mean(found == expected))
            return {"arena_bytes": micro.arena(path), "agreement": agreement, "images": len(found)}
        except ArtifactError as error:
            return {"refused": str(error)}
        finally:
            target.close()

    def _opened(self, row: Format) -> list[Classifier]:
        # One interpreter runs one inference at a time; together they use the whole processor.
        return [
            verify.open_tflite(self._folder, row) for _ in range(min(os.cpu_count() or 1, _MOST_INTERPRETERS))
        ]

    def _verify(
        self,
        format_name: str,
        files: list[Path],
        targets: Sequence[Classifier],
        *,
        exact: bool,
        extra: dict[str, Any],
    ) -> None:
        with contextlib.ExitStack() as stack:
            for target in targets:
                stack.callback(target.close)
            label = f"{self._name} {format_name}: verifying"
            probabilities = verify.predict_all(targets, self._pixels, label, self._source.contract.scale)
        figures = verify.compare(f"{self._name} {format_name}", probabilities, self._reference, self._truth)
        self._checks += self._plan.gate.checks(
            format_name,
            exact=exact,
            figures=figures,
            reference=self._accuracy["value"],  # type: ignore[arg-type]
            blessed=self._before.get(format_name),
        )
        self._artefacts.append(
            {
                "format": format_name,
                "files": [path.relative_to(self._folder).as_posix() for path in files],
                "bytes": sum(path.stat().st_size for path in files),
                "sha256": sha256(*files),
                **figures,
                **extra,
            }
        )

    def _some(self, count: int) -> NDArray[np.float32]:
        """Return the first evaluation images as the model takes them."""
        return self._source.contract.scale(self._pixels[:count])

    def _requests(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Return the inputs of each signature for the first of the evaluation images, as users send them."""
        from export import prepare, warmup

        pictures = np.array([prepare.png(each) for each in self._pixels[:_SOME]], object)
        return {
            DEFAULT_SIGNATURE: {IMAGE: self._some(_SOME)},
            SERVING_UINT8: {IMAGE: self._pixels[:_SOME]},
            SERVING_BYTES: {"image_bytes": pictures},
            CLASSIFY: {"inputs": np.array([warmup.example(each) for each in pictures], object)},
        }

    def _check_signatures(self, runtime: Runtime, requests: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
        """Compare what the SavedModel's signatures answer for the same images."""
        from export import prepare

        try:
            answers = {name: runtime.run(name, inputs) for name, inputs in requests.items()}
        except ValueError as error:
            # An empty page, for instance, among images that are to be prepared as digits.
            raise ResultError(
                f"{self._name}: a signature refuses evaluation images ({error}); nothing was published"
            ) from error
        default = answers[DEFAULT_SIGNATURE][PROBABILITIES]
        self._same(SERVING_UINT8, answers[SERVING_UINT8][PROBABILITIES], default)
        contract = self._source.contract
        prepared = self._source.predict(prepare.prepared(contract, requests[SERVING_BYTES]["image_bytes"]))
        self._same(SERVING_BYTES, answers[SERVING_BYTES][PROBABILITIES], prepared)
        self._same(CLASSIFY, answers[CLASSIFY]["scores"], prepared)

    def _same(self, signature: str, found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
        difference = float(np.abs(found - expected).max())
        if difference > _SAME:
            raise ResultError(
                f"{self._name}: the signature {signature} differs from the model by {difference:.2g} on the same "
                f"images, more than rounding does ({_SAME:g}); nothing was published"
            )

    def _diagnose(self) -> dict[str, list[dict[str, Any]]]:
        """Return the layer by layer report of every TFLite format that failed a check."""
        failed = dict.fromkeys(check.format for check in self._checks if not check.passed)
        reference = self._folder / FORMATS[REFERENCE].file
        if not reference.is_file():
            return {}
        return {
            name: [
                each.describe()
                for each in layers.compare(
                    reference,
                    self._folder / FORMATS[name].file,
                    self._some(_LAYER_IMAGES),
                    self._source.layers,
                )
            ]
            for name in failed
            if name in FORMATS and name != REFERENCE
        }

    @contextlib.contextmanager
    def _step(self, label: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[label] = round(time.perf_counter() - start, 2)
        self._say(f"{self._name} {label}: written and verified in {self._seconds[label]:.1f} s")


def _calibration(source: Source) -> NDArray[np.float32] | None:
    """Return the calibration images as the model takes them, or None if there are none.

    Adds a black and a white pixel, so that one step of a quantized input is one step of a pixel.
    """
    if source.calibration is None:
        return None
    pixels = source.calibration.copy()
    pixels[0, 0, 0], pixels[0, -1, -1] = 0, 255
    return source.contract.scale(pixels)


def _last_blessed(base: Path, data_sha256: str) -> dict[str, float]:
    """Return the accuracies by format of the highest blessed version that was verified on the same images."""
    for path in reversed(store.versions(base).values()):
        try:
            card = cards.read(path)
        except ArtifactError:
            continue
        if card.blessing["blessed"] and card.data["sha256"] == data_sha256:
            return {each["format"]: each["accuracy"]["value"] for each in card.artefacts}
    return {}


def _refusal(card: ExportCard, record: Path) -> str:
    """Return in one line what failed, where it goes wrong, and what can be published."""
    failed = list(dict.fromkeys(check["format"] for check in card.blessing["checks"] if not check["passed"]))
    where = [
        f"in {name} the output of {first['name']} is the first to go astray ({first['snr_db']:.0f} dB)"
        for name, found in card.layers.items()
        if (first := next((each for each in found if each["diverges"]), None))
    ]
    good = [
        each["format"]
        for each in card.artefacts
        if each["format"] in FORMATS and each["format"] not in failed
    ]
    remedy = f"--formats {','.join(good)} leaves out what failed, " if good else ""
    return (
        f"{card.model}: not blessed, so nothing was published: {'; '.join(card.blessing['why_not'] + where)} "
        f"({record}); {remedy}--force publishes all the same and records it"
    )
