"""`tfship benchmark`: measure every format and every way of serving, and write a report."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tfship.benchmarks.report import command
from tfship.benchmarks.studies.registry import STUDIES
from tfship.benchmarks.suite.modes import BOUND_MS, MODES
from tfship.train.common import cli
from tfship.train.common.errors import UsageError

__all__ = ["OTHERS", "main"]

# The other commands of `tfship benchmark` besides the studies, with their modules.
OTHERS = {
    "report": "report.command",
    "gate": "analysis.gate_command",
    "readme": "readme_command",
}
_MOST_BOUND_MS = 60_000.0


def main(argv: Sequence[str]) -> int:
    """Measure, write results and report, print the tables and return the exit code."""
    arguments = _arguments(argv)
    # Imported late: they load the client and the server's protocol, and --help needs neither.
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
        "Measure every format and every way of serving; write results.json, report.html and report.md. The same "
        "command resumes an interrupted run. Other commands, each with its own --help: "
        f"{', '.join([*OTHERS, *STUDIES])}.",
    )
    parser.add_argument("--models", type=Path, default=Path("models"), help="the folder of exported models")
    parser.add_argument(
        "--model", action="append", metavar="NAME",
        help="only this model (may be repeated; default: both digit networks, or the only model in the folder)",
    )  # fmt: skip
    parser.add_argument(
        "--data", metavar="PATH",
        help="the MNIST file or folder that the models were trained on; for your own model a folder of images by "
        "class, or an .npz with pixels x and classes y",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=command.OUT, help="folder for the results and the report")
    thoroughly = parser.add_mutually_exclusive_group()
    thoroughly.add_argument("--quick", action="store_true", help=MODES["quick"].use)
    thoroughly.add_argument("--official", action="store_true", help=MODES["official"].use)
    parser.add_argument(
        "--latency-bound", type=_milliseconds, default=BOUND_MS, metavar="MS",
        help="bound of the 99th percentile in the Server scenario (default: MLPerf's for image classification, "
        f"{BOUND_MS:g})",
    )  # fmt: skip
    parser.add_argument(
        "--loadgen", action="store_true", help="also drive the rows by MLPerf's LoadGen (mlcommons-loadgen)"
    )
    command.add_judging(parser)
    arguments = parser.parse_args(argv)
    if len(set(arguments.model or ())) != len(arguments.model or ()):
        raise UsageError(f"--model {' '.join(arguments.model)}: expected each model once")
    return arguments


def _milliseconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= _MOST_BOUND_MS:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected milliseconds, more than 0 and at most {_MOST_BOUND_MS:g}"
        )
    return value
