"""`tfship benchmark readme`: write the committed results into README.md and benchmarks/README.md, or check these."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfship.benchmarks import report
from tfship.benchmarks.studies.registry import STUDIES
from tfship.benchmarks.studies.table_layout import table
from tfship.train import cards
from tfship.train.common import cli
from tfship.train.common.errors import ArtifactError, ResultError
from tfship.train.common.files import write_bytes
from tfship.train.data.corruptions import CORRUPTIONS
from tfship.train.recipe import NETWORKS

__all__ = ["main"]

_FOLDER = Path(__file__).resolve().parent
# Committed results, measured on full MNIST.
_RESULTS = _FOLDER / "results"
_RELEASED = _FOLDER.parent / "models" / cards.RELEASED
_README = _FOLDER.parent / "README.md"
_TABLES = _FOLDER / "README.md"


def main(argv: Sequence[str]) -> int:
    """Write the tables, or compare them with --check, and return the exit code."""
    parser = cli.parser(
        "tfship benchmark readme",
        "Write the committed results into README.md and benchmarks/README.md, or compare.",
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 6 for differences")
    arguments = parser.parse_args(argv)
    results = report.read(_RESULTS / "formats.json")
    blocks = {"results": report.readme_block(results), "released": _released()}
    for name, study in STUDIES.items():
        if study.committed:
            blocks[name] = study.table().render(study.read(_RESULTS / f"{name}.json"), "github")
    written = {_README: {"formats": report.headline(results)}, _TABLES: blocks}
    before = {file: file.read_text(encoding="utf-8") for file in written}
    after = {file: _filled(file, before[file], each) for file, each in written.items()}
    for file, text in after.items():
        if not arguments.check:
            write_bytes(file, text.encode())
        elif text != before[file]:
            raise ResultError(f"{file}: tables differ from the results; run `tfship benchmark readme`")
    return 0


def _filled(file: Path, text: str, blocks: Mapping[str, str]) -> str:
    """Return the file's text with these blocks between their markers. Raises ArtifactError if markers are missing."""
    for name, block in blocks.items():
        begin = f"<!-- {name}: written by `tfship benchmark readme`, not by hand -->"
        end = f"<!-- end of {name} -->"
        head, found, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not found or not closed:
            raise ArtifactError(f"{file}: the markers of the {name} are missing; expected {begin} … {end}")
        text = f"{head}{begin}\n\n{block}\n\n{end}{tail}"
    return text


def _released() -> str:
    """Return the table of the released weights, from their cards."""
    rows = []
    found = {name: cards.read(_RELEASED, name) for name in NETWORKS}
    for name, card in found.items():
        low, high = card.accuracy["interval95"]
        values = [run["accuracy"] for run in card.seeds]
        rows.append(
            [
                f"`{name}`",
                f"{card.parameters:,}",
                f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}",
                f"{card.seed}: {card.accuracy['value']:.4f} ({low:.4f}–{high:.4f})",
                *(f"{card.corruptions[kind]:.4f}" for kind in CORRUPTIONS),
            ]
        )
    (count,) = {len(card.seeds) for card in found.values()}
    headers = ["network", "parameters", f"{count} seeds: mean ± sd", "released seed (95 % interval)"]
    kinds = [kind.replace("_", " ") for kind in CORRUPTIONS]
    text = table([*headers, *kinds], rows, "github")
    return f"{text}\n\nAccuracy on MNIST's test images; for the released seed also on nine corrupted copies of them."
