"""The command `tfship`: the table of its commands, whose modules are imported only when called."""

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tfship.train.common import cli, interruption
from tfship.train.common.errors import UsageError
from tfship.train.common.quick_import import uncollected

__all__ = ["COMMANDS", "Command", "main", "model_server", "run"]


@dataclass(frozen=True)
class Command:
    """A command: the `module` whose `main` takes its arguments, its `purpose` for `--help`, and the `extra` it needs.

    With `at_once`, Ctrl-C ends the command immediately, since it writes no files. None: the command handles signals
    itself.
    """

    module: str
    purpose: str
    extra: str = ""
    at_once: bool | None = False


COMMANDS = {
    "train": Command("tfship.train.command", "train the two digit classifiers", "tensorflow"),
    "export": Command("tfship.export.command", "export a model to verified SavedModel and TFLite files", "tensorflow"),
    "serve": Command("tfship.serving.command", "serve models with TensorFlow Serving's APIs", "serve", None),
    "web": Command("tfship.serving.web_command", "draw digits and try models in the browser", "serve", None),
    "predict": Command("tfship.client.predict", "classify images", at_once=True),
    "score": Command("tfship.client.score.command", "classify many images into a Parquet file", "score"),
    "compare": Command("tfship.client.compare.command", "find out why targets give different results", at_once=True),
    "doctor": Command("tfship.client.doctor.command", "find out why a server doesn't respond", at_once=True),
    "benchmark": Command("tfship.benchmarks.command", "benchmark every format and serving method", "benchmark"),
    "report": Command("tfship.benchmarks.report.command", "render the report of the last benchmark again", "benchmark"),
    "kubernetes": Command("tfship.serving.kubernetes.command", "write Kubernetes manifests for a model", "kubernetes"),
    "versions": Command("tfship.export.versions_command", "list, verify, retire and restore exported versions"),
}  # fmt: skip


# For each extra, a package that only this extra installs.
_PACKAGES = {
    "tensorflow": "tensorflow",
    "serve": "httptools",
    "benchmark": "jinja2",
    "kubernetes": "yaml",
    "score": "pyarrow",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command named by the first argument and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    name, *arguments = argv or ["--help"]
    if name in ("-h", "--help"):
        print(_help())  # noqa: T201
        return 0
    if name == "--version":
        from importlib.metadata import version

        print(f"tfship {version('tfship')}")  # noqa: T201
        return 0
    if name not in COMMANDS:
        raise UsageError(f"tfship {name}: no such command; expected one of {', '.join(COMMANDS)}")
    return _call(name, "main", arguments)


def run() -> int:
    """Run the command line of this process and return the exit code."""
    command = COMMANDS.get(next(iter(sys.argv[1:]), ""))
    if command is not None and command.at_once is not None:
        interruption.catch(at_once=command.at_once)  # before the slow imports
    return cli.run(main)


def model_server() -> int:
    """Run `tfship-model-server`, the replacement of `tensorflow_model_server`, which also requires a model's path."""
    return cli.run(lambda argv: _call("serve", "model_server", sys.argv[1:] if argv is None else argv))


def _call(name: str, function: str, argv: Sequence[str]) -> int:
    command = COMMANDS[name]
    # Checked first, since some packages are imported late or only in child processes.
    if command.extra and importlib.util.find_spec(_PACKAGES[command.extra]) is None:
        raise cli.missing(f"tfship {name}", _PACKAGES[command.extra], command.extra)
    try:
        with uncollected():
            module = importlib.import_module(command.module)
        code: int = getattr(module, function)(argv)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "tfship"):
            raise
        raise cli.missing(f"tfship {name}", package, command.extra) from error
    return code


def _help() -> str:
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {command.purpose}" for name, command in COMMANDS.items())
    return (
        "usage: tfship COMMAND …\n\n"
        "Deploy Keras classifiers on TensorFlow Serving and TFLite, with verification.\n\n"
        f"commands:\n{listed}\n\n"
        "See `tfship COMMAND --help` for a command's options. `tfship --version` prints the version.\n\n"
        f"{cli.EXIT_CODES}"
    )


if __name__ == "__main__":
    sys.exit(run())
