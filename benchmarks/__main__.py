"""`python -m benchmarks`: measure, report, keep the README's tables true.

python -m benchmarks                    measure both models; print the tables, write JSON, a page and Markdown
python -m benchmarks report [FILE]      render the report of the last run, or of that result file, again
python -m benchmarks training           train plainly and by the fast recipe, in turn; print the ratios
python -m benchmarks server             the embedded server's speed against TensorFlow Serving's (see its --help)
python -m benchmarks soak               how soon that server answers, whether its memory grows (see its --help)
python -m benchmarks pictures           how well photographs of digits are read (see its --help)
python -m benchmarks client             how long the client takes, process and all (see its --help)
python -m benchmarks gate               fail if anything got worse since a baseline (see its --help)
python -m benchmarks readme [--check]   put the committed results into the README, or compare
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import client_command, gate_command, pictures_command, report, soak_command, speed_command
from train import cards, cli, data
from train.errors import ArtifactError, ResultError, UsageError
from train.files import read_json, write_bytes, write_json
from train.recipe import NETWORKS

_FOLDER = Path(__file__).resolve().parent
_OUT = _FOLDER / "out"
# Measured on full MNIST and committed: where the README's tables come from.
_COMMITTED = _FOLDER / "results.json"
_COMMITTED_TRAINING = _FOLDER / "training.json"
_COMMITTED_SPEED = _FOLDER / "server.json"
_COMMITTED_SOAK = _FOLDER / "soak.json"
_COMMITTED_PICTURES = _FOLDER / "pictures.json"
_COMMITTED_CLIENT = _FOLDER / "client.json"
_RELEASED = _FOLDER.parent / "models" / cards.RELEASED
_README = _FOLDER.parent / "README.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the commands and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    commands = (speed_command, soak_command, pictures_command, client_command, gate_command)
    others: dict[str, Callable[[Sequence[str]], int]] = {each.COMMAND: each.main for each in commands}
    if argv and argv[0] in others:
        return others[argv[0]](argv[1:])
    parser = cli.parser(
        "python -m benchmarks",
        "Measure every format and every way of serving; report. What has options of its own: python -m "
        "benchmarks server --help, soak --help, pictures --help, client --help, gate --help.",
    )
    parser.add_argument("command", nargs="?", default="run", choices=("run", "report", "training", "readme"))
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="report: the results, if not the last run's"
    )
    parser.add_argument("--models", type=Path, default=Path("models"), help="the folder of exported models")
    parser.add_argument("--model", action="append", choices=NETWORKS, help="only this one (may be repeated)")
    parser.add_argument("--data", metavar="PATH", help="the data that the models were trained on")
    parser.add_argument("--out", type=Path, default=_OUT, help="where results.json and the reports are")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of the tables")
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="training: pairs of runs, by seed"
    )
    parser.add_argument("--check", action="store_true", help="readme: change nothing, exit 6 if it differs")
    arguments = parser.parse_args(argv)
    if arguments.check and arguments.command != "readme":
        raise UsageError("--check belongs to `python -m benchmarks readme`")
    if arguments.file and arguments.command != "report":
        raise UsageError(f"{arguments.file}: a result file belongs to `python -m benchmarks report`")
    if arguments.command == "readme":
        return _readme(check=arguments.check)
    if arguments.command == "training":
        return _training(arguments)
    results_file = arguments.file or arguments.out / "results.json"
    if arguments.command == "report":
        results = report.read(results_file)
    else:
        # TensorFlow, the client and the server's protocol are needed only here.
        from benchmarks.run import run

        digits = data.load(data.find(arguments.data, say=cli.say))
        results = run(arguments.models, arguments.model or list(NETWORKS), digits)
        write_json(results_file, results)
    page, plain = results_file.with_name("report.html"), results_file.with_name("report.md")
    write_bytes(page, report.html(results).encode())
    write_bytes(plain, report.markdown(results).encode())
    print(json.dumps(results, indent=2) if arguments.json else report.text(results))
    print(f"\nwritten: {results_file}, {page}, {plain}", file=sys.stderr)
    return 0


def _training(arguments: argparse.Namespace) -> int:
    from benchmarks import training

    if arguments.repeats < 1:
        raise UsageError(f"--repeats {arguments.repeats}: expected 1 or more")
    digits = data.load(data.find(arguments.data, say=cli.say))
    results = training.compare(digits, arguments.repeats, say=cli.say)
    file = arguments.out / "training.json"
    write_json(file, results)
    print(json.dumps(results, indent=2) if arguments.json else training.text(results))
    print(f"\nwritten: {file}", file=sys.stderr)
    return 0


def _readme(*, check: bool) -> int:
    from benchmarks import client_table, pictures, soak_table, speed_table, training

    released = {name: cards.read(_RELEASED, name) for name in NETWORKS}
    blocks = {
        "results": report.readme_block(report.read(_COMMITTED)),
        "training": training.readme_block(released, read_json(_COMMITTED_TRAINING)),
        "server": speed_table.readme_block(speed_table.read(_COMMITTED_SPEED)),
        "soak": soak_table.readme_block(soak_table.read(_COMMITTED_SOAK)),
        "pictures": pictures.readme_block(pictures.read(_COMMITTED_PICTURES)),
        "client": client_table.readme_block(client_table.read(_COMMITTED_CLIENT)),
    }
    before = after = _README.read_text(encoding="utf-8")
    for name, block in blocks.items():
        begin = f"<!-- {name}: written by `python -m benchmarks readme`, not by hand -->"
        end = f"<!-- end of {name} -->"
        head, found, rest = after.partition(begin)
        _, closed, tail = rest.partition(end)
        if not found or not closed:
            raise ArtifactError(f"{_README}: the markers of the {name} are gone; expected {begin} … {end}")
        after = f"{head}{begin}\n\n{block}\n\n{end}{tail}"
    if check and after != before:
        raise ResultError(
            f"{_README}: its tables are not the measured ones; run `python -m benchmarks readme`"
        )
    if not check:
        write_bytes(_README, after.encode())
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
