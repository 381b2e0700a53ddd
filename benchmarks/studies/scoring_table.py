"""The results of `benchmarks.studies.scoring` as tables: for the terminal and benchmarks/README.md."""

from typing import Any

from tfship.benchmarks.studies.table_layout import load_remark, table

__all__ = ["failures", "render"]

_HEADERS = [
    "images", "engine", "workers", "images/s", "least", "most", "× one worker", "start s", "read", "prepare", "infer",
    "table", "driver, chunk", "limited by",
]  # fmt: skip
_COSTS = ["images", "machines", "images/s", "minutes", "USD per million", "efficiency", "limited by"]
_KINDS = {"png": "PNG", "jpeg": "JPEG"}
_ENGINES = {"local": "threads", "ray": "Ray"}


def render(results: dict[str, Any], layout: str) -> str:
    """See `StudyTable.render`."""
    cores = results["environment"]["cores"]
    one = {(row["images"], row["engine"]): row["rate"] for row in reversed(results["rows"])}
    rows = [
        [
            _KINDS[row["images"]],
            _ENGINES[row["engine"]],
            row["workers"],
            f"{row['rate']:,.0f}",
            f"{min(row['rates']):,.0f}",
            f"{max(row['rates']):,.0f}",
            f"{row['rate'] / one[row['images'], row['engine']]:.2f}",
            f"{row['start']:.1f}",
            *(f"{1000 * value:.2f}" for value in row["phases"].values()),
            f"{1000 * row['driver']:.1f}" if row["engine"] == "ray" else "",
            _limit(row, cores),
        ]
        for row in results["rows"]
    ]
    prices = [
        [
            _KINDS[each["images"]],
            each["nodes"],
            f"{each['rate']:,.0f}",
            f"{each['minutes']:,.1f}",
            f"{each['usd']:.2f}",
            f"{each['efficiency']:.0%}",
            each["limited_by"],
        ]
        for each in results["costs"]
    ]
    align = ["left", "left", *["right"] * 11, "left"]
    return "\n".join(
        [
            _heading(results), "", table(_HEADERS, rows, layout, align), "",
            f"A million images on machines like this one, at {results['price']:g} USD per hour, on paper:", "",
            table(_COSTS, prices, layout, ["left", *["right"] * 5, "left"]), "", *_remarks(results),
        ]
    )  # fmt: skip


def failures(results: dict[str, Any]) -> list[str]:  # noqa: ARG001
    """See `StudyTable.failures`: there are no requirements."""
    return []


def _limit(row: dict[str, Any], cores: int) -> str:
    """Return the phase that takes most of the workers' time, and what they wait for beyond their own work."""
    phase = max(row["phases"], key=lambda name: float(row["phases"][name]))
    if row["workers"] > cores:
        return f"{phase}; {cores} cores"
    return str(phase)


def _heading(results: dict[str, Any]) -> str:
    environment, files = results["environment"], results["files"]
    images = " and ".join(
        f"{each['count']:,} {_KINDS[kind]}s of {each['pixels'][0]} × {each['pixels'][1]} pixels, "
        f"{each['bytes'] / 1024:,.1f} KiB"
        for kind, each in files.items()
    )
    return (
        f"{environment['cpu']}, {environment['cores']} cores shared by driver and workers; {results['created'][:10]}; "
        f"{images}; the cnn in float32; medians of {len(results['rows'][0]['rates'])} runs."
    )


def _remarks(results: dict[str, Any]) -> list[str]:
    remarks = [
        "Images/s are those after the engine's first result; start s is the rest of the process: its "
        "imports, the model, the engine's start, and joining the parts.",
        "Read, prepare (decoding and preparation), infer and table: milliseconds per image of a worker's time, which "
        "includes waiting for a core or for Python's lock. Driver: milliseconds of processor time per chunk in the "
        "process that describes chunks, and collects and writes rows.",
        "On paper: a machine does what the best row with Ray does, a chunk of 256 images takes the driver's measured "
        "time, and all machines are paid from the start on. Not included: reading from object storage, and machines "
        "that start late.",
        *load_remark(results),
    ]
    return [f"- {remark}" for remark in remarks]
