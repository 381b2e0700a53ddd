"""The tables of a report as data, whatever they are written in: columns that know how to fill a row's cell."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tfship.benchmarks.analysis import formatting
from tfship.benchmarks.analysis.ratios import ratio
from tfship.benchmarks.report.figures import EMPTY, number, probability
from tfship.benchmarks.report.models import Model, Row

__all__ = [
    "ANSWERS", "BRIEF", "COST", "HEADLINE", "REQUESTS", "SCENARIOS", "SERVED_COST", "TIME",
    "Cell", "Column", "Line", "Table", "scenarios", "table",
]  # fmt: skip

_UNSTABLE = "never settled: no three windows in a row agreed within 10 %"
_NO_REASON = "not measured in this run"
# By their names in a result file: MLPerf's scenario, and the figure that it is judged by.
SCENARIOS = {
    "single_stream": ("SingleStream", "p90_us", "p90, µs", "90th percentile of queries of one image"),
    "multi_stream": ("MultiStream", "p99_us", "p99, µs", "99th percentile of queries of eight images"),
    "server": ("Server", "rate", "queries/s", "the highest Poisson rate whose p99 keeps the bound"),
    "offline": ("Offline", "rate", "images/s", "all images at once, on all cores"),
}


@dataclass(frozen=True)
class Cell:
    """A cell's text, and what must be known about it: why it is empty, or is marked."""

    text: str
    why: str = ""


@dataclass(frozen=True)
class Column:
    """A column: the group that it belongs to, its head, what that means, and how a row's cell is filled."""

    group: str
    head: str
    means: str
    fill: Callable[[Row, Model], Cell]

    @property
    def title(self) -> str:
        """Group and head in one."""
        return f"{self.group} {self.head}".strip()


@dataclass(frozen=True)
class Line:
    """A row of a table, and its cells with the number of the note that belongs to each (0: none)."""

    row: Row
    cells: list[tuple[Cell, int]]


@dataclass(frozen=True)
class Table:
    """A table that is filled; `notes` are numbered from 1."""

    columns: list[Column]
    lines: list[Line]
    notes: list[str]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The groups of columns in order, and how many columns each has."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            if found and found[-1][0] == column.group:
                found[-1] = (column.group, found[-1][1] + 1)
            else:
                found.append((column.group, 1))
        return found


def table(columns: Iterable[Column], rows: Iterable[Row], model: Model) -> Table:
    """Fill a table; what is said of several cells is one note."""
    columns = list(columns)
    notes: list[str] = []
    lines = []
    for row in rows:
        cells = []
        for column in columns:
            cell = column.fill(row, model)
            if cell.why and cell.why not in notes:
                notes.append(cell.why)
            cells.append((cell, notes.index(cell.why) + 1 if cell.why else 0))
        lines.append(Line(row, cells))
    return Table(columns, lines, notes)


def _figure(
    key: str, written: Callable[[Any], str], otherwise: str = _NO_REASON
) -> Callable[[Row, Model], Cell]:
    """Fill with a row's figure; where it is null with the reason that the row gives, or else `otherwise`."""

    def fill(row: Row, _: Model) -> Cell:
        return _missing(row, key, otherwise) if row[key] is None else Cell(written(row[key]))

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


def _times(clock: str) -> Callable[[Row, Model], Cell]:
    """Fill with the row's median as a multiple of the reference's by the same clock."""

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
        spent: Mapping[str, float | None] | None = row["cpu_seconds_per_1000"]
        if spent is None:
            return _missing(row, "cpu_seconds_per_1000")
        seconds = spent[where]
        return _missing(row, "cpu_seconds_per_1000") if seconds is None else Cell(number(seconds))

    return fill


def _accuracy(row: Row, _: Model) -> Cell:
    return Cell(f"{row['accuracy']['value']:.4f}")


def _interval(row: Row, _: Model) -> Cell:
    low, high = row["accuracy"]["interval95"]
    return Cell(f"{low:.4f}–{high:.4f}")


def _both(row: Row, model: Model) -> Cell:
    return Cell(f"{_accuracy(row, model).text} ({_interval(row, model).text})")


def _paired(key: str, written: Callable[[Any], str] = "{:,}".format) -> Callable[[Row, Model], Cell]:
    """Fill with a figure of the comparison with the reference, which isn't compared with itself."""

    def fill(row: Row, model: Model) -> Cell:
        return Cell("" if row is model.reference else written(row["against_float32"][key]))

    return fill


def _difference(row: Row, model: Model) -> Cell:
    if row is model.reference:
        return Cell("")
    paired = row["against_float32"]
    p = probability(paired["mcnemar_p"])
    return Cell(f"{paired['disagreements']:,} (+{paired['wins']}/-{paired['losses']}, p {p})")


def _scenario(key: str, figure: str, *, all_cores: bool = False) -> Callable[[Row, Model], Cell]:
    def fill(row: Row, model: Model) -> Cell:
        taken = model.on_all_cores(row) if all_cores and row["scenarios"][key] is None else row
        found = taken["scenarios"][key]
        if found is None:
            return _missing(row, key)
        if found[figure] is None:
            return Cell(EMPTY, f"no rate that was tried kept the bound ({len(found['trials'])} trials)")
        return Cell(number(found[figure]))

    return fill


def _loadgen(key: str) -> Callable[[Row, Model], Cell]:
    def fill(row: Row, _: Model) -> Cell:
        if row["loadgen"] is None or key not in row["loadgen"]:
            return _missing(row, "loadgen", "LoadGen drove a few rows only")
        theirs = row["loadgen"][key]
        if not theirs["valid"]:
            return Cell(
                f"! {number(theirs['loadgen'])}", "!: LoadGen calls its run invalid; its summary says why"
            )
        return Cell(number(theirs["loadgen"]))

    return fill


def _size(value: int) -> str:
    return number(value / 1024)


_PAIRED = "against float32"
ANSWERS = (
    Column("", "accuracy", "share of the images whose class is right", _accuracy),
    Column("", "95 % interval", "Wilson score interval of the accuracy", _interval),
    Column(_PAIRED, "changed", "images whose class differs from the reference's", _paired("disagreements")),
    Column(_PAIRED, "won", "of them, right here and wrong by the reference", _paired("wins")),
    Column(_PAIRED, "lost", "of them, wrong here and right by the reference", _paired("losses")),
    Column(_PAIRED, "p", "McNemar's exact two-sided p of won against lost", _paired("mcnemar_p", probability)),
    Column("", "calibration error", "expected calibration error: how far confidence is from accuracy, on average",
           _figure("calibration_error", lambda error: f"{error['value']:.4f}")),
    Column("", "size, KiB", "on disk", _figure("bytes", _size)),
    Column("", "arena, KiB", "what TensorFlow Lite Micro's interpreter allocates",
           _figure("arena_bytes", _size, "TensorFlow Lite Micro runs integer formats only")),
)  # fmt: skip


def _percentiles(group: str, clock: str, means: str, *which: str) -> tuple[Column, ...]:
    """Return the columns of a clock: percentiles, and the median beside the reference's."""
    return (
        *(
            Column(group, f"{each}, µs", f"{means}, of all samples", _percentile(clock, each))
            for each in which
        ),
        Column(group, "× float32", f"{means}: the median as a multiple of the reference's", _times(clock)),
    )


def _starting(load: str) -> tuple[Column, ...]:
    return (
        Column("", "load, ms", load, _figure("load_ms", number)),
        Column("", "first, ms", "the first inference after that", _figure("first_ms", number)),
    )


_ALL = ("p50", "p90", "p99", "p99.9")
_MODEL_ONLY = "a prepared image to its probabilities"
_END_TO_END = _percentiles("end to end", "end_to_end", "an encoded picture to its label", "p50", "p99")
TIME = (
    *_starting("from the file to a model that can run, in a new process, file cached"),
    *_percentiles("model only", "query", _MODEL_ONLY, *_ALL),
    *_END_TO_END,
)
REQUESTS = (
    *_starting("from the server's command to its being ready"),
    *_percentiles("request", "query", _MODEL_ONLY, *_ALL),
    *_END_TO_END,
)
_CPU = "CPU s per 1,000"
COST = (
    *(
        Column("images/s in batches of", batch, f"closed loop, {batch} in a query", _rate(batch))
        for batch in ("1", "8", "64")
    ),
    Column("", "peak, MiB", "largest resident memory of a process that loads it and predicts; served, of the server's",
           _figure("peak_bytes", lambda value: number(value / 2**20))),
    Column(_CPU, "here", "processor seconds of this process for 1,000 single predictions", _seconds("here")),
)  # fmt: skip
SERVED_COST = (
    *COST,
    Column(_CPU, "server", "processor seconds of the server's processes for the same", _seconds("server")),
)

BRIEF = (
    Column("", "size, KiB", "on disk", _figure("bytes", _size)),
    Column("", "accuracy (95 % interval)", "", _both),
    Column("", "≠ float32", "", _difference),
    *_percentiles("model only", "query", _MODEL_ONLY, "p50", "p99"),
    *_END_TO_END,
    Column("", "images/s", "in batches of 64", _rate("64")),
)

HEADLINE = (
    Column("", "size, KiB", "on disk", _figure("bytes", _size)),
    Column("", "accuracy", "share of the images whose class is right", _accuracy),
    Column("", "× float32", "median of one image as a multiple of float32's", _times("query")),
)


def scenarios(rows: Iterable[Row]) -> list[Column]:
    """Return the columns on MLPerf's scenarios, with LoadGen's figure beside ours where it drove one of the rows."""
    rows = list(rows)
    columns = []
    for key, (name, figure, head, means) in SCENARIOS.items():
        columns.append(Column(name, head, means, _scenario(key, figure, all_cores=key == "offline")))
        if any(key in (row["loadgen"] or {}) for row in rows):
            columns.append(
                Column(name, "LoadGen's", "the same by MLPerf LoadGen's own summary", _loadgen(key))
            )
    return columns
