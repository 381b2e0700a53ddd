"""`tfship benchmark readme`: put the committed results into README.md and benchmarks/README.md, or check them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tfship.benchmarks import report
from tfship.benchmarks.studies import (
    client_startup_table,
    photographs_study,
    server_load_table,
    soak_table,
    training_time,
)
from tfship.benchmarks.studies.zoo import table
from tfship.train import cards
from tfship.train.common import cli
from tfship.train.common.errors import ArtifactError, ResultError
from tfship.train.common.files import read_json, write_bytes
from tfship.train.recipe import NETWORKS

__all__ = ["main"]

_FOLDER = Path(__file__).resolve().parent
# Measured on full MNIST and committed: where the tables come from.
_RESULTS = _FOLDER / "results"
_COMMITTED = _RESULTS / "formats.json"
_COMMITTED_TRAINING = _RESULTS / "training.json"
_COMMITTED_SPEED = _RESULTS / "server.json"
_COMMITTED_SOAK = _RESULTS / "soak.json"
_COMMITTED_PICTURES = _RESULTS / "pictures.json"
_COMMITTED_CLIENT = _RESULTS / "client.json"
_COMMITTED_ZOO = _RESULTS / "zoo.json"
_RELEASED = _FOLDER.parent / "models" / cards.RELEASED
_README = _FOLDER.parent / "README.md"
_TABLES = _FOLDER / "README.md"


def main(argv: Sequence[str]) -> int:
    """Write the tables, or with --check compare them, and return the exit code."""
    parser = cli.parser(
        "tfship benchmark readme",
        "Put the committed results into README.md and benchmarks/README.md, or compare.",
    )
    parser.add_argument("--check", action="store_true", help="change nothing, exit 6 if it differs")
    arguments = parser.parse_args(argv)
    released = {name: cards.read(_RELEASED, name) for name in NETWORKS}
    results = report.read(_COMMITTED)
    blocks = {
        "results": report.readme_block(results),
        "training": training_time.readme_block(released, read_json(_COMMITTED_TRAINING)),
        "server": server_load_table.readme_block(server_load_table.read(_COMMITTED_SPEED)),
        "soak": soak_table.readme_block(soak_table.read(_COMMITTED_SOAK)),
        "pictures": photographs_study.readme_block(photographs_study.read(_COMMITTED_PICTURES)),
        "client": client_startup_table.readme_block(client_startup_table.read(_COMMITTED_CLIENT)),
        "zoo": table.readme_block(table.read(_COMMITTED_ZOO)),
    }
    written = {_README: {"formats": report.headline(results)}, _TABLES: blocks}
    before = {file: file.read_text(encoding="utf-8") for file in written}
    after = {file: _filled(file, before[file], each) for file, each in written.items()}
    for file, text in after.items():
        if not arguments.check:
            write_bytes(file, text.encode())
        elif text != before[file]:
            raise ResultError(f"{file}: its tables are not the measured ones; run `tfship benchmark readme`")
    return 0


def _filled(file: Path, text: str, blocks: Mapping[str, str]) -> str:
    """Return the file's text with these blocks between their markers. Raises ArtifactError if markers are gone."""
    for name, block in blocks.items():
        begin = f"<!-- {name}: written by `tfship benchmark readme`, not by hand -->"
        end = f"<!-- end of {name} -->"
        head, found, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not found or not closed:
            raise ArtifactError(f"{file}: the markers of the {name} are gone; expected {begin} … {end}")
        text = f"{head}{begin}\n\n{block}\n\n{end}{tail}"
    return text
