"""The tables of a report as data, for all output formats: columns with a function that fills a row's cell."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tfship.benchmarks.analysis import formatting
from tfship.benchmarks.analysis.ratios import ratio
from tfship.benchmarks.report.figures import EMPTY, number, probability
from tfship.benchmarks.report.models import Model, Row

__all__ = [
    "ACCURACY", "BRIEF", "COST", "HEADLINE", "IN_BROWSER", "REQUESTS", "SCENARIOS", "SERVED_COST", "TIME",
    "Cell", "Column", "Line", "Table", "scenarios", "table",
]  # fmt: skip

_UNSTABLE = "unstable, no three consecutive windows agreed within 10 %"
_NO_REASON = "not measured in this run"
# By the name in a result file: MLPerf's scenario, its metric, the column's head and description.
SCENARIOS = {
    "single_stream": ("SingleStream", "p90_us", "p90, µs", "90th percentile of queries of one image"),
    "multi_stream": ("MultiStream", "p99_us", "p99, µs", "99th percentile of queries of eight images"),
    "server": ("Server", "rate", "queries/s", "the highest Poisson rate whose p99 keeps the bound"),
    "offline": ("Offline", "rate", "images/s", "all images at once, on all cores"),
}


@dataclass(frozen=True)
class Cell:
    """A cell's text, and a note: the reason why it is empty or marked."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class Column:
    """A column: its group, head, description, and the function that fills a row's cell."""

    group: str
    head: str
    description: str
    fill: Callable[[Row, Model], Cell]

    @property
    def title(self) -> str:
        """Group and head."""
        return f"{self.group} {self.head}".strip()


@dataclass(frozen=True)
class Line:
    """A row of a table, and its cells, each with its note's number (0: none)."""

    row: Row
    cells: list[tuple[Cell, int]]


@dataclass(frozen=True)
class Table:
    """A filled table; `notes` are numbered from 1."""

    columns: list[Column]
    lines: list[Line]
    notes: list[str]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The groups of columns in order, with their numbers of columns."""
        groups: list[tuple[str, int]] = []
        for column in self.columns:
            if groups and groups[-1][0] == column.group:
                groups[-1] = (column.group, groups[-1][1] + 1)
            else:
                groups.append((column.group, 1))
        return groups


def table(columns: Iterable[Column], rows: Iterable[Row], model: Model) -> Table:
    """Fill a table; cells with the same note share its number."""
    columns = list(columns)
    notes: list[str] = []
    lines = []
    for row in rows:
        cells = []
        for column in columns:
            cell = column.fill(row, model)
            if cell.note and cell.note not in notes:
                notes.append(cell.note)
            cells.append((cell, notes.index(cell.note) + 1 if cell.note else 0))
        lines.append(Line(row, cells))
    return Table(columns, lines, notes)


def _figure(
    key: str, text: Callable[[Any], str], otherwise: str = _NO_REASON
) -> Callable[[Row, Model], Cell]:
    """Fill with a row's figure; if it is null, the note is the reason in the row, or `otherwise`."""

    def fill(row: Row, _: Model) -> Cell:
        return _missing(row, key, otherwise) if row[key] is None else Cell(text(row[key]))

    return fill


def _missing(row: Row, key: str, otherwise: str = _NO_REASON) -> Cell:
    return Cell(EMPTY, row["empty"].get(key, otherwise))


def _percentile(clock: str, which: str) -> Callable[[Row, Model], Cell]:
    def fill(row: Row, _: Model) -> Cell:
        timing = row[clock]
        if timing is None:
            return _missing(row, clock)
        value = timing[f"{which}_us"]
        if value is None:
            return Cell(EMPTY, timing["missing"].get(which, _NO_REASON))
        return Cell(number(value)) if timing["stable"] else Cell(f"~ {number(value)}", f"~: {_UNSTABLE}")

    return fill


def _relative_time(clock: str) -> Callable[[Row, Model], Cell]:
    """Fill with the row's median relative to the reference's by the same clock."""

    def fill(row: Row, model: Model) -> Cell:
        found = ratio(row[clock], model.reference[clock])
        return _missing(row, clock) if found is None else Cell(formatting.times(found.value))

    return fill


def _rate(batch: str) -> Callable[[Row, Model], Cell]:
    def fill(row: Row, _: Model) -> Cell:
        found = row["batches"].get(batch)
        return _missing(row, "batches") if found is None else Cell(number(found["rate"]))

    return fill


def _seconds(where: str) -> Callable[[Row, Model], Cell]:
    def fill(row: Row, _: Model) -> Cell:
        by_process: Mapping[str, float | None] | None = row["cpu_seconds_per_1000"]
        if by_process is None:
            return _missing(row, "cpu_seconds_per_1000")
        seconds = by_process[where]
        return _missing(row, "cpu_seconds_per_1000") if seconds is None else Cell(number(seconds))

    return fill


def _accuracy(row: Row, _: Model) -> Cell:
    return Cell(f"{row['accuracy']['value']:.4f}")


def _interval(row: Row, _: Model) -> Cell:
    low, high = row["accuracy"]["interval95"]
    return Cell(f"{low:.4f}–{high:.4f}")


def _accuracy_and_interval(row: Row, model: Model) -> Cell:
    return Cell(f"{_accuracy(row, model).text} ({_interval(row, model).text})")


def _paired(key: str, text: Callable[[Any], str] = "{:,}".format) -> Callable[[Row, Model], Cell]:
    """Fill with a figure of the comparison with the reference; empty for the reference itself."""

    def fill(row: Row, model: Model) -> Cell:
        return Cell("" if row is model.reference else text(row["against_float32"][key]))

    return fill


def _difference(row: Row, model: Model) -> Cell:
    if row is model.reference:
        return Cell("")
    paired = row["against_float32"]
    p = probability(paired["mcnemar_p"])
    return Cell(f"{paired['disagreements']:,} (+{paired['wins']}/-{paired['losses']}, p {p})")


def _scenario(key: str, figure: str, *, all_cores: bool = False) -> Callable[[Row, Model], Cell]:
    def fill(row: Row, model: Model) -> Cell:
        source = model.on_all_cores(row) if all_cores and row["scenarios"][key] is None else row
        scenario = source["scenarios"][key]
        if scenario is None:
            return _missing(row, key)
        if scenario[figure] is None:
            return Cell(EMPTY, f"no tried rate kept the bound ({len(scenario['trials'])} trials)")
        return Cell(number(scenario[figure]))

    return fill


def _loadgen(key: str) -> Callable[[Row, Model], Cell]:
    def fill(row: Row, _: Model) -> Cell:
        if row["loadgen"] is None or key not in row["loadgen"]:
            return _missing(row, "loadgen", "LoadGen ran for some rows only")
        result = row["loadgen"][key]
        if not result["valid"]:
            return Cell(
                f"! {number(result['loadgen'])}",
                "!: LoadGen reports its run as invalid; its summary has the reason",
            )
        return Cell(number(result["loadgen"]))

    return fill


def _size(value: int) -> str:
    return number(value / 1024)


_PAIRED = "against float32"
ACCURACY = (
    Column("", "accuracy", "share of the images whose class is right", _accuracy),
    Column("", "95 % interval", "Wilson score interval of the accuracy", _interval),
    Column(_PAIRED, "changed", "images whose class differs from the reference's", _paired("disagreements")),
    Column(_PAIRED, "won", "changed images that are right here, wrong by the reference", _paired("wins")),
    Column(_PAIRED, "lost", "changed images that are wrong here, right by the reference", _paired("losses")),
    Column(_PAIRED, "p", "McNemar's exact two-sided p of won against lost", _paired("mcnemar_p", probability)),
    Column("", "calibration error", "expected calibration error: mean difference of confidence and accuracy",
           _figure("calibration_error", lambda error: f"{error['value']:.4f}")),
    Column("", "size, KiB", "on disk", _figure("bytes", _size)),
    Column("", "arena, KiB", "memory that TensorFlow Lite Micro's interpreter allocates",
           _figure("arena_bytes", _size, "TensorFlow Lite Micro runs integer formats only")),
)  # fmt: skip


def _percentiles(group: str, clock: str, description: str, *which: str) -> tuple[Column, ...]:
    """Return the columns of a clock: percentiles, and the median relative to the reference's."""
    relative = f"{description}: the median relative to the reference's"
    return (
        *(
            Column(group, f"{each}, µs", f"{description}, of all samples", _percentile(clock, each))
            for each in which
        ),
        Column(group, "× float32", relative, _relative_time(clock)),
    )


def _startup(load: str) -> tuple[Column, ...]:
    return (
        Column("", "load, ms", load, _figure("load_ms", number)),
        Column("", "first, ms", "the first inference after loading", _figure("first_ms", number)),
    )


_ALL = ("p50", "p90", "p99", "p99.9")
_MODEL_ONLY = "from a prepared image to its probabilities"
_END_TO_END = _percentiles("end to end", "end_to_end", "from an encoded image to its label", "p50", "p99")
TIME = (
    *_startup("from the file to a ready model, in a new process, file cached"),
    *_percentiles("model only", "query", _MODEL_ONLY, *_ALL),
    *_END_TO_END,
)
IN_BROWSER = _percentiles("model only", "query", f"{_MODEL_ONLY}, in headless Chromium", *_ALL)
REQUESTS = (
    *_startup("from the server's start to ready"),
    *_percentiles("request", "query", _MODEL_ONLY, *_ALL),
    *_END_TO_END,
)
_CPU = "CPU s per 1,000"
COST = (
    *(
        Column("images/s in batches of", batch, f"closed loop, {batch} images per query", _rate(batch))
        for batch in ("1", "8", "64")
    ),
    Column("", "peak, MiB", "largest resident memory of a process that loads it and predicts; served: of the server's",
           _figure("peak_bytes", lambda value: number(value / 2**20))),
    Column(_CPU, "here", "CPU seconds of this process for 1,000 single predictions", _seconds("here")),
)  # fmt: skip
SERVED_COST = (
    *COST,
    Column(_CPU, "server", "CPU seconds of the server's processes for the same", _seconds("server")),
)

BRIEF = (
    Column("", "size, KiB", "on disk", _figure("bytes", _size)),
    Column("", "accuracy (95 % interval)", "", _accuracy_and_interval),
    Column("", "≠ float32", "", _difference),
    *_percentiles("model only", "query", _MODEL_ONLY, "p50", "p99"),
    *_END_TO_END,
    Column("", "images/s", "in batches of 64", _rate("64")),
)

HEADLINE = (
    Column("", "size, KiB", "on disk", _figure("bytes", _size)),
    Column("", "accuracy", "share of the images whose class is right", _accuracy),
    Column("", "× float32", "median time of one image relative to float32's", _relative_time("query")),
)


def scenarios(rows: Iterable[Row]) -> list[Column]:
    """Return the columns of MLPerf's scenarios, with LoadGen's figure if it ran for one of the rows."""
    rows = list(rows)
    columns = []
    for key, (name, figure, head, description) in SCENARIOS.items():
        columns.append(Column(name, head, description, _scenario(key, figure, all_cores=key == "offline")))
        if any(key in (row["loadgen"] or {}) for row in rows):
            columns.append(Column(name, "LoadGen's", "the same, by MLPerf LoadGen's summary", _loadgen(key)))
    return columns
