"""The export pipeline: builds all files in a stage, verifies them, applies the gate and publishes a version."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from tfship.export.conversion import calibration, selective_quantization
from tfship.export.conversion.formats import FORMATS, REFERENCE, SERVED_FILE, WEB, Format
from tfship.export.preprocessing import outputs
from tfship.export.publishing import cards, diagnosis, gate, store, verification
from tfship.export.publishing.cards import DIFFERENCE, LOG, SAVED_MODEL, ExportCard
from tfship.export.publishing.gate import Gate, GateCheck
from tfship.export.publishing.web_files import WebFiles
from tfship.export.runtimes import isolation, tflite_micro
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE, Classifier
from tfship.export.runtimes.saved_model import SavedModel
from tfship.export.sources.source import Source, any_batch
from tfship.train.common import environment, interruption, statistics
from tfship.train.common.errors import ArtifactError, ConversionError, ResultError, UsageError
from tfship.train.common.files import sha256, stage, write_json

__all__ = ["ExportPlan", "export", "refusal_path"]

# Limits for verification, since each interpreter holds a copy of the model.
_MOST_INTERPRETERS, _INTERPRETERS_BYTES = 8, 200_000_000
# Number of float32 layers named on the terminal; the card names all.
_NAMED = 5


@dataclass(frozen=True)
class ExportPlan:
    """Options of an export.

    `rows` are the formats to try. Nothing is published if a format of `required` fails. `serves` is the format to
    copy to `model.tflite`, or None for no such file; servers that prefer TFLite then use the first format that was
    made. With `force`, exports that aren't blessed are published too, and the card records it. `selective_seconds`
    is the time limit for the search of the format selective.
    """

    rows: Sequence[Format]
    serves: str | None = None
    required: Sequence[str] = ()
    gate: Gate = field(default_factory=Gate)
    force: bool = False
    selective_seconds: float = selective_quantization.SECONDS

    def __post_init__(self) -> None:
        """Raise UsageError for a required format that isn't in `rows`."""
        rows = [row.name for row in self.rows]
        for flag, names in (("--serve", [self.serves] if self.serves else []), ("--require", self.required)):
            if missing := [name for name in names if name not in rows]:
                raise UsageError(
                    f"{flag} {', '.join(missing)}: not among the formats of --formats, {', '.join(rows)}"
                )

    @property
    def obligatory(self) -> list[str]:
        """Names of the formats without which nothing is published."""
        return list(dict.fromkeys([*self.required, *([self.serves] if self.serves else [])]))


def export(
    source: Source, models: Path, plan: ExportPlan, say: Callable[[str], None]
) -> tuple[Path, ExportCard]:
    """Export `source` as the next version of `models/<its name>`; return the version's directory and card.

    Before publication, each format is loaded by the runtime that serves it and run over all evaluation images, and
    the gate checks the results. A format that can't be written, run or blessed is left out, with the reason in the
    card. If the model, its SavedModel or an obligatory format fails, and `force` isn't set, nothing is published.
    ResultError or ConversionError is then raised, and the gate's record is in the file `refusal_path`. `say` is
    called with each line of progress.
    """
    name = source.contract.model
    blessed = cards.last_blessed(models / name, source.evaluation.data["sha256"])
    isolation.start()
    with store.draft(models / name) as draft, stage(models / name, "conversion") as scratch:
        scratch.mkdir()
        refused = refusal_path(models, name)
        card = _Export(source, draft.folder, scratch, plan, blessed, refused, say).run()
        card.write(draft.folder)
        interruption.check()
        published = draft.publish()
        refused.unlink(missing_ok=True)
        refused.with_suffix(".log").unlink(missing_ok=True)
        return published, card


def refusal_path(models: Path, name: str) -> Path:
    """Return the path of the record that the last export of `name` left if it wasn't blessed."""
    return models / f"{name}.not-blessed.json"


class _Export:
    """An export in progress; `run` does the steps in order."""

    def __init__(
        self,
        source: Source,
        folder: Path,
        scratch: Path,
        plan: ExportPlan,
        blessed: dict[str, dict[str, Any]],
        refused: Path,
        say: Callable[[str], None],
    ) -> None:
        from tfship.export.conversion.converter import TFLite

        self._source, self._folder, self._plan, self._blessed = source, folder, plan, blessed
        self._refused, self._say = refused, say
        self._contract, self._name = source.contract, source.contract.model
        self._pixels = source.evaluation.pixels
        self._truth = source.evaluation.truth if source.evaluation.labelled else None
        self._artefacts: list[dict[str, Any]] = []
        self._checks: list[GateCheck] = []
        self._seconds: dict[str, float] = {}
        self._unconverted: dict[str, str] = {}
        self._withheld: dict[str, str] = {}
        self._layers: dict[str, list[dict[str, Any]]] = {}
        # A model of another precision is exported in float32, so rounding differs.
        self._exact = source.precision == "float32"
        self._calibration = calibration.write(source.calibration, scratch)
        self._log = folder / LOG
        self._isolation = isolation.Isolation(self._log)
        self._tflite = TFLite(
            source.exported,
            source.tracked,
            source.contract,
            self._calibration,
            scratch,
            self._isolation,
            source.batch,
        )

    def run(self) -> ExportCard:
        """Build and verify everything, apply the gate, and return the card, not yet written."""
        source, plan = self._source, self._plan
        with self._step("original"):
            self._reference = source.predict(self._pixels)
            self._accuracy = self._check_model()
        self._refuse_unless(self._checks, "the model itself fails")
        with self._step(SAVED_MODEL):
            warmed = self._write_saved_model()
        self._refuse_unless(
            [each for each in self._checks if each.format == SAVED_MODEL], "the SavedModel fails"
        )
        for row in plan.rows:
            self._make(row)
        self._contract = replace(self._contract, tflite_batch=self._tflite.batch)
        self._require_obligatory()
        # In the order of the table.
        made = [each["format"] for each in self._artefacts if each["format"] != SAVED_MODEL]
        with self._step(WEB):
            web = WebFiles(
                source, self._folder, self._contract, plan.gate, self._reference, self._say, plan.force
            )
            web_entries = web.write(made)
        self._checks += web.checks
        serves = plan.serves or next(iter(made), "")
        if plan.serves:
            shutil.copyfile(self._folder / FORMATS[serves].file, self._folder / SERVED_FILE)
        self._contract.write(self._folder)
        published = [check for check in self._checks if check.format not in self._withheld]
        blessing = gate.record(plan.gate, published, forced=plan.force)
        for line in gate.warnings(self._artefacts):
            self._say(f"warning: {self._name} {line}")
        return ExportCard(
            model=self._name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            keras_sha256=source.sha256,
            request=source.request,
            classes=list(self._contract.labels),
            data=source.evaluation.data,
            calibration=source.calibrated_with,
            equalized=source.equalized,
            keras_accuracy=self._accuracy,
            artefacts=self._artefacts,
            unconverted=self._unconverted,
            withheld=self._withheld,
            serves=serves,
            warmup=warmed,
            blessing=blessing,
            layers=self._layers,
            seconds=self._seconds,
            files=cards.listing(self._folder),
            environment=environment.describe(),
            detected=source.detected,
            web=web_entries,
        )

    def _check_model(self) -> dict[str, Any]:
        """Add the original model's checks and return its accuracy; the value is None without labels."""
        if self._truth is None:
            return {"value": None, "images": len(self._pixels)}
        decided = outputs.decisions(self._reference, several=self._source.several)
        accuracy: dict[str, Any] = statistics.accuracy(decided.ravel(), self._truth.ravel())
        if self._source.several:
            accuracy["mean_average_precision"] = statistics.average_precision(self._reference, self._truth)
        self._checks += self._plan.gate.model_checks(accuracy, statistics.chance_p(decided, self._truth))
        return accuracy

    def _write_saved_model(self) -> list[str]:
        """Write and verify the SavedModel, replay its warm-up requests, and return the signatures that they call."""
        from tfship.export.conversion import saved_model_writer
        from tfship.export.publishing import signature_checks, warmup_requests

        source, contract = self._source, self._contract
        saved_model_writer.to_saved_model(
            any_batch(source.exported, source.batch), source.tracked, contract, self._folder
        )
        contract.write(self._folder)
        files = [path for path in self._folder.rglob("*") if path.is_file()]
        requests = signature_checks.requests(contract, self._pixels)
        # TensorFlow Serving fails on warm-up requests for signatures that a TFLite file lacks.
        only = [DEFAULT_SIGNATURE] if self._plan.serves else list(requests)
        warmup_requests.write(self._folder, self._name, signature_checks.warm_up(contract, requests, only))
        runtime = SavedModel(self._folder)
        with contextlib.closing(Classifier(runtime, str(self._folder))) as target:
            signature_checks.check(source, runtime, requests)
            warmed = warmup_requests.replay(self._folder, runtime)
            self._verify(SAVED_MODEL, sorted(files), [target], exact=self._exact, extra={})
        return warmed

    def _make(self, row: Format) -> None:
        """Write and verify one TFLite format and apply the gate; if a step fails, leave the format out."""
        path = self._folder / row.file
        checked = len(self._checks)
        try:
            with self._step(row.name):
                self._write_format(row)
        except (ArtifactError, ResultError) as error:
            interruption.check()  # Ctrl-C also ends the child process
            path.unlink(missing_ok=True)
            reason = str(error).removeprefix(f"{row.name}: ").removeprefix(f"{self._name} {row.name}: ")
            self._unconverted[row.name] = reason
            self._say(f"{self._name} {row.name}: left out: {reason}")
            return
        failed = [check for check in self._checks[checked:] if not check.passed]
        if not failed:
            return
        if layers := self._by_layers(row):
            self._layers[row.name] = layers
        if self._plan.force:
            return
        why = [check.text().removeprefix(f"{row.name}: ") for check in failed]
        reason = "; ".join([*why, *diagnosis.first_divergence(self._layers.get(row.name, []))])
        self._withheld[row.name] = reason
        self._artefacts = [each for each in self._artefacts if each["format"] != row.name]
        path.unlink()
        self._say(f"{self._name} {row.name}: withheld: {reason}")

    def _refuse_unless(self, checks: Sequence[GateCheck], what: str) -> None:
        failed = [check.text() for check in checks if not check.passed]
        if failed and not self._plan.force:
            self._refuse(f"{what}: {'; '.join(failed)}", "--force publishes it and records that")

    def _require_obligatory(self) -> None:
        """Refuse the export if an obligatory format was left out."""
        for name in self._plan.obligatory:
            if reason := self._unconverted.get(name):
                raise ConversionError(
                    f"{self._name}: {name} is required but can't be made ({reason}); nothing was published; leave it "
                    "out of --require and --serve"
                )
            if reason := self._withheld.get(name):
                self._refuse(
                    f"{name} is required but withheld: {reason}",
                    "leave it out of --require and --serve, or pass --force, which publishes it and records that",
                )

    def _refuse(self, why: str, remedy: str) -> NoReturn:
        """Write the gate's record to `refusal_path` and raise ResultError."""
        record = gate.record(self._plan.gate, self._checks, forced=False)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        about = {"model": self._name, "created": created, "layers": self._layers, "withheld": self._withheld}
        write_json(self._refused, {**record, **about})
        if self._log.is_file():
            self._log.replace(self._refused.with_suffix(".log"))
        raise ResultError(
            f"{self._name}: not blessed, so nothing was published: {why} ({self._refused}); {remedy}"
        )

    def _write_format(self, row: Format) -> None:
        """Write and verify one TFLite format."""
        path = self._folder / row.file
        path.parent.mkdir(exist_ok=True)
        extra: dict[str, Any] = {}
        if row.selective:
            extra["float_layers"], calibrated = self._write_selective(path)
        else:
            calibrated = self._tflite.write(row, path)
        if row.calibrated and self._source.calibration is not None:
            extra["calibration_images"] = calibrated
            if calibrated < (total := len(self._source.calibration)):
                self._say(
                    f"{self._name} {row.name}: calibrated with {calibrated} of {total} images within the time limit"
                )
        if row.integer and tflite_micro.AVAILABLE:
            target = verification.open_tflite(self._folder, row)
            with contextlib.closing(target):
                extra["micro"] = diagnosis.micro(self._isolation, target, path, self._contract, self._pixels)
        self._verify(row.name, [path], self._open(row), exact=row.exact and self._exact, extra=extra)

    def _write_selective(self, path: Path) -> tuple[list[str], int]:
        """Write the format selective; return its layers in float32 and the number of calibration images."""
        reference = self._folder / FORMATS[REFERENCE].file
        if self._calibration is None or not reference.is_file():
            raise ConversionError(f"{path.stem}: needs --calibration, and {REFERENCE} among --formats")
        kept, calibrated = selective_quantization.write(
            self._isolation,
            reference,
            self._calibration,
            self._contract,
            path,
            self._source.layers,
            self._plan.selective_seconds,
        )
        named = ", ".join(kept[:_NAMED]) + (f" and {len(kept) - _NAMED} more" if len(kept) > _NAMED else "")
        self._say(f"{self._name} {path.stem}: {named or 'no layer'} kept in float32")
        return kept, calibrated

    def _open(self, row: Format) -> list[Classifier]:
        # An interpreter runs one inference at a time, so several are needed to use all cores.
        size = (self._folder / row.file).stat().st_size
        count = min(os.cpu_count() or 1, _MOST_INTERPRETERS, max(1, _INTERPRETERS_BYTES // size))
        return [verification.open_tflite(self._folder, row) for _ in range(count)]

    def _verify(
        self,
        format_name: str,
        files: list[Path],
        targets: Sequence[Classifier],
        *,
        exact: bool,
        extra: dict[str, Any],
    ) -> None:
        label = f"{self._name} {format_name}"
        with contextlib.ExitStack() as stack:
            for target in targets:
                stack.callback(target.close)
            scale = (lambda pixels: pixels) if targets[0].takes_pixels else self._contract.scale
            scores = verification.predict_all(targets, self._pixels, f"{label}: verifying", scale)
        figures = verification.compare(
            label, scores, self._reference, self._truth, several=self._source.several
        )
        if format_name == SAVED_MODEL:
            self._saved_model_scores = scores
        elif format_name == REFERENCE:
            extra[DIFFERENCE] = verification.largest_difference(scores, self._saved_model_scores)
        self._checks += self._plan.gate.checks(
            format_name,
            exact=exact,
            figures=figures,
            reference=None if self._truth is None else self._accuracy,
            blessed=self._blessed.get(format_name),
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

    def _by_layers(self, row: Format) -> list[dict[str, Any]]:
        reference = self._folder / FORMATS[REFERENCE].file
        if not reference.is_file() or row.name == REFERENCE:
            return []
        return diagnosis.by_layers(
            self._isolation,
            reference,
            self._folder / row.file,
            self._contract,
            self._source.layers,
            self._pixels,
        )

    @contextlib.contextmanager
    def _step(self, label: str) -> Iterator[None]:
        interruption.check()
        start = time.perf_counter()
        yield
        self._seconds[label] = round(time.perf_counter() - start, 2)
        self._say(f"{self._name} {label}: written and verified in {self._seconds[label]:.1f} s")
