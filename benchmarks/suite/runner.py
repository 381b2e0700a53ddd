"""A benchmark run: every format and every way of serving, on the same images. Interrupted runs can be resumed."""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tfship.benchmarks.harness.checkpoint import Journal
from tfship.benchmarks.harness.server_process import Addresses
from tfship.benchmarks.harness.timer import QUANTILES, SLICES
from tfship.benchmarks.suite import result_record, serving_backends
from tfship.benchmarks.suite.measured_model import Bench, Options
from tfship.benchmarks.suite.model_selection import ExportedModel
from tfship.benchmarks.suite.modes import Mode
from tfship.benchmarks.suite.serving_backends import Backend
from tfship.benchmarks.suite.stages import TIMED, measurements
from tfship.benchmarks.suite.system_under_test import (
    BROWSER,
    REST_BASE64,
    Subject,
    in_browser,
    in_process,
    served,
)
from tfship.export.runtimes import browser
from tfship.serving.server.settings import cores
from tfship.train.common import environment, tensorflow_loader
from tfship.train.common.errors import TargetError
from tfship.train.common.files import write_bytes
from tfship.train.common.progress import Progress

__all__ = ["RESULTS", "SCHEMA", "rows", "run"]

RESULTS = "results.json"

# Increased when a field of the result file changes its meaning.
SCHEMA = 3

_NO_BYTES = "a TFLite file has no signature for encoded images"
_QUICK = "left out by --quick"


def run(
    models: Sequence[ExportedModel],
    mode: Mode,
    options: Options,
    out: Path,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure the models, write `out`/results.json and return its content. `say` prints a line.

    An interrupted run is resumed if the models, the data, the machine and the options are the same. Raises TargetError,
    with the last lines of the log, if a server can't be started or dies. Measurements made until then are kept.
    """
    models = [each.limited(mode.images) for each in models]
    (evaluated,) = {each.images.data["sha256"]: each.images.data for each in models}.values()
    unavailable = serving_backends.unavailable() if mode.tensorflow else _QUICK
    servers = [
        each
        for each in serving_backends.SERVERS
        if (mode.tensorflow or not each.tensorflow)
        and not (each is serving_backends.OFFICIAL and unavailable)
    ]
    journal = Journal(out / "partial", _inputs(models, mode, options, [each.name for each in servers]))
    if journal.resumed:
        say(f"resuming an interrupted run: {len(journal):,} files in {journal.folder}")
    try:
        with _counting(models, mode, options, servers) as count:
            measured = {
                each.name: _measure(each, mode, options, servers, unavailable, journal, count)
                for each in models
            }
    except BaseException:
        say(f"measured so far: {len(journal):,} files in {journal.folder}; the same command resumes the run")
        raise
    results = {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "resumed": journal.resumed,
        "mode": mode.name,
        "environment": environment.describe(),
        "threads": _threads(mode),
        "bound_ms": options.bound_ms,
        "quantiles": list(QUANTILES),
        "data": evaluated,
        "models": measured,
    }
    # Indentation would more than double the size.
    write_bytes(out / RESULTS, (json.dumps(results, allow_nan=False) + "\n").encode())
    journal.remove()
    return results


def _inputs(
    models: Sequence[ExportedModel], mode: Mode, options: Options, servers: Sequence[str]
) -> dict[str, Any]:
    """Return all inputs of a run: it is resumed only if these are the same."""
    return {
        "schema": SCHEMA,
        "mode": asdict(mode),
        "options": asdict(options),
        "servers": servers,
        "environment": environment.describe(),
        "models": [
            {
                "version": str(each.version.resolve()),
                "files": each.card.files,
                "keras": each.keras is not None,
                "browser": browser.unavailable(),
                "data": each.images.data["sha256"],
            }
            for each in models
        ],
    }


def _threads(mode: Mode) -> list[int]:
    return sorted({1, cores()}) if mode.variants else [1]


@contextlib.contextmanager
def _counting(
    models: Sequence[ExportedModel], mode: Mode, options: Options, servers: Sequence[Backend]
) -> Iterator[Callable[[str, str, str], None]]:
    """Show progress; yield a function that counts a measurement, or a slice of one, of a model, a stage and a row.

    Windows beyond the expected number aren't counted.
    """
    nowhere = Addresses("127.0.0.1:1", "127.0.0.1:1")
    left = Counter(
        {
            (model.name, stage, row.name): number * SLICES
            for model in models
            for row in rows(model, mode, dict.fromkeys(servers, nowhere))
            for stage, number in measurements(mode, row, loadgen=options.loadgen).items()
        }
    )
    done = 0
    with Progress("benchmark", left.total() // SLICES, "measurements") as progress:

        def count(model: str, stage: str, row: str) -> None:
            nonlocal done
            slices = min(left[model, stage, row], 1 if stage in TIMED else SLICES)
            left[model, stage, row] -= slices
            before, done = done, done + slices
            progress.advance(done // SLICES - before // SLICES, f"{model}: {stage}: {row}")

        yield count


def rows(model: ExportedModel, mode: Mode, running: Mapping[Backend, Addresses]) -> list[Subject]:
    """Return the rows of a model: in this process, and behind the `running` servers."""
    found = in_process(
        model.version, model.card, model.contract, model.keras if mode.tensorflow else None, _threads(mode),
        variants=mode.variants, tensorflow=mode.tensorflow,
    )  # fmt: skip
    if mode.variants:
        found += in_browser(model.version, model.card, model.contract)[0]
    for server, addresses in running.items():
        found += served(
            server.name, addresses, model.version, model.card, model.contract, server.format(model.card)
        )
    return found


def _measure(
    model: ExportedModel,
    mode: Mode,
    options: Options,
    servers: Sequence[Backend],
    unavailable: str | None,
    journal: Journal,
    count: Callable[[str, str, str], None],
) -> dict[str, Any]:
    """Start the servers and measure one model."""
    if mode.tensorflow:
        tensorflow_loader.tensorflow()  # now, so that no measurement includes it
    with contextlib.ExitStack() as stack:
        running = {each: stack.enter_context(each.start(model.models, model.name)) for each in servers}
        subjects = rows(model, mode, {each: found.addresses for each, found in running.items()})
        bench = Bench(
            model.version, model.card, model.contract, model.keras, subjects,
            {each.name: found for each, found in running.items()}, model.images, mode, options, journal,
            lambda stage, row: count(model.name, stage, row),
        )  # fmt: skip
        try:
            return result_record.measure(bench, _absent(model, mode, unavailable))
        except TargetError:
            # The last lines of the server's log say more than a refused connection.
            for found in running.values():
                found.check()
            raise


def _absent(model: ExportedModel, mode: Mode, unavailable: str | None) -> dict[str, str]:
    """Return the missing rows, with the reason."""
    absent = dict(model.card.unconverted)
    if not mode.tensorflow:
        absent |= dict.fromkeys(("savedmodel", "keras", "embedded SavedModel"), _QUICK)
    elif model.keras is None:
        absent["keras"] = f"{model.name}.keras is missing, or isn't the file that was exported"
    absent[f"{serving_backends.EMBEDDED_TFLITE.name}, {REST_BASE64}"] = _NO_BYTES
    if mode.variants:
        absent |= in_browser(model.version, model.card, model.contract)[1]
    else:
        absent |= dict.fromkeys(BROWSER, _QUICK)
    if unavailable:
        absent[serving_backends.OFFICIAL.name] = unavailable
    return absent
