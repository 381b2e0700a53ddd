"""`make demo`: all steps from training to the benchmark, by a user's commands; each is printed before it runs."""

if __name__ == "__main__":
    from tfship.train.common import interruption

    interruption.catch()  # before the imports, which take long

import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tfship.benchmarks.harness.server_process import embedded
from tfship.export.runtimes import web_build
from tfship.train.common import cli, interruption
from tfship.train.common.errors import TfshipError
from tfship.train.recipe import NETWORKS

_ROOT = Path(__file__).resolve().parent.parent


def main(argv: Sequence[str] | None = None) -> int:
    """Train, export, serve, predict over REST and gRPC, benchmark; return the exit code."""
    parser = cli.parser(
        "python -m tfship.benchmarks.demo", "Train, export, serve, predict and benchmark the digit networks."
    )
    parser.add_argument("--data", metavar="PATH", help="MNIST: a Keras .npz or a folder of IDX files")
    parser.add_argument("--model", choices=NETWORKS, help="only this model (default: both)")
    arguments = parser.parse_args(argv)
    data = ["--data", arguments.data] if arguments.data else []
    models = [arguments.model] if arguments.model else list(NETWORKS)
    image = "client/samples/seven.png"
    _step("train", "train", *models, *data)
    _step("export", "export", *models, *data)
    _say("serve: tfship serve, on free ports of this machine")
    with embedded(_ROOT / "models", models) as server:
        for model in models:
            predict = ("predict", image, "--model", model)
            _step("predict over REST", *predict, "--server", server.rest)
            _step("predict over gRPC", *predict, "--target", "grpc", "--server", server.grpc)
    _say("the server has stopped")
    _step("predict without a server", "predict", image, "--model", models[-1], "--target", "tflite:int8")
    _step("benchmark", "benchmark", "--quick", *(f"--model={model}" for model in models), *data)
    if web_build.find() is None:
        _say("draw digits in the browser: make web, then .venv/bin/tfship web")
    else:
        _say("draw digits in the browser: .venv/bin/tfship web")
    return 0


def _step(title: str, *command: str) -> None:
    _say(f"{title}: tfship {shlex.join(command)}")
    # In a new session, where a terminal's Ctrl-C doesn't reach it: it receives one signal, sent below.
    tfship = Path(sys.executable).with_name("tfship")
    with subprocess.Popen([tfship, *command], cwd=_ROOT, start_new_session=True) as process:
        try:
            with interruption.waiting():
                code = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
    if code:
        raise TfshipError(
            f"demo: `tfship {shlex.join(command)}` ended with exit code {code}; see its message above"
        )


def _say(text: str) -> None:
    print(f"\n== {text}", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(cli.run(main))
