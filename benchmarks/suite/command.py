"""`tfship benchmark`: measure every format and every way of serving, and report."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tfship.benchmarks.report import command
from tfship.benchmarks.studies.registry import STUDIES
from tfship.benchmarks.suite.modes import BOUND_MS, MODES
from tfship.train.common import cli
from tfship.train.common.errors import UsageError

__all__ = ["OTHERS", "main"]

# What else `tfship benchmark` can do, and the module that does it, besides the studies.
OTHERS = {
    "report": "report.command",
    "gate": "analysis.gate_command",
    "readme": "readme_command",
}
_MOST_BOUND_MS = 60_000.0


def main(argv: Sequence[str]) -> int:
    """Measure, write results and report, print the tables, return the exit code."""
    arguments = _arguments(argv)
    # TensorFlow, the client and the server's protocol are needed only here.
    from tfship.benchmarks.suite import mlperf_stage, model_selection, runner
    from tfship.benchmarks.suite.measured_model import Options

    if arguments.loadgen:
        mlperf_stage.require()
    mode = MODES["quick" if arguments.quick else "official" if arguments.official else "default"]
    names = arguments.model or model_selection.default(arguments.models)
    models = model_selection.find(arguments.models, names, arguments.data, cli.say)
    options = Options(arguments.latency_bound, arguments.loadgen)
    results = runner.run(models, mode, options, arguments.out, cli.say)
    return command.written(results, arguments.out / runner.RESULTS, arguments)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser(
        "tfship benchmark",
        "Measure every format and every way of serving, and report: results.json, report.html, report.md. What is "
        "interrupted goes on where it was when the command is given again. Other commands, each with its own --help: "
        f"{', '.join([*OTHERS, *STUDIES])}.",
    )
    parser.add_argument("--models", type=Path, default=Path("models"), help="the folder of exported models")
    parser.add_argument(
        "--model", action="append", metavar="NAME",
        help="only this one (may be repeated; else both digit networks, or the only model that there is)",
    )  # fmt: skip
    parser.add_argument(
        "--data", metavar="PATH",
        help="MNIST, as the models were trained on it; for a model of your own an .npz with pixels x and classes y",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=command.OUT, help="where the results and the report are")
    thoroughly = parser.add_mutually_exclusive_group()
    thoroughly.add_argument("--quick", action="store_true", help=MODES["quick"].use)
    thoroughly.add_argument("--official", action="store_true", help=MODES["official"].use)
    parser.add_argument(
        "--latency-bound", type=_milliseconds, default=BOUND_MS, metavar="MS",
        help="what the Server scenario's 99th percentile must keep; MLPerf's for image classification",
    )  # fmt: skip
    parser.add_argument(
        "--loadgen", action="store_true", help="have MLPerf's LoadGen drive the rows, too (mlcommons-loadgen)"
    )
    command.add_judging(parser)
    arguments = parser.parse_args(argv)
    if len(set(arguments.model or ())) != len(arguments.model or ()):
        raise UsageError(f"--model {' '.join(arguments.model)}: expected each once")
    return arguments


def _milliseconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= _MOST_BOUND_MS:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected milliseconds, more than 0, {_MOST_BOUND_MS:g} at most"
        )
    return value
