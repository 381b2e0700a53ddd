"""Start the model server: `python -m serving --model_base_path=models/nn --rest_api_port=8501`."""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving import config, flags
from serving.ports import bracketed
from serving.server import ModelServer, Settings
from train import cli, files
from train.errors import UsageError


class _Stopped(BaseException):
    """SIGTERM or SIGINT came; no Exception, so that nothing on the way takes it for an error."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT, and return 0 when the requests in flight are answered."""
    options = flags.parse(argv)
    for line in flags.ignored(options):
        print(line)
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.WARNING)
    logging.getLogger("serving").setLevel(logging.INFO)
    models = _models(options)
    settings = flags.settings(options)
    server = ModelServer(models, settings)
    ready_file: Path | None = options.ready_file
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
    try:
        server.start()
        _announce(server, settings, models.model_config_list.config[0].name)
        if ready_file:
            ports = {"grpc_port": server.grpc_port, "rest_port": server.rest_port}
            files.write_json(ready_file, {"host": options.host, **ports, "pid": os.getpid()})
        print("ready", flush=True)
        threading.Event().wait()
    except _Stopped:
        print(f"stopping: requests in flight have {options.shutdown_grace_seconds:g} s", flush=True)
    finally:
        if ready_file:
            ready_file.unlink(missing_ok=True)
        server.stop(options.shutdown_grace_seconds)
    return 0


def _stop(*_: object) -> None:
    # A second signal ends the process at once, whatever the first is still waiting for.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise _Stopped


def _models(options: argparse.Namespace) -> Any:
    if options.model_config_file:
        if options.model_base_path:
            # As in TensorFlow Serving, whose container always passes both.
            print("--model_base_path and --model_name are ignored: --model_config_file is set")
        return config.read_config(options.model_config_file)
    if not options.model_base_path:
        raise UsageError(
            "no model: pass --model_base_path=DIR (such as models/nn) or --model_config_file=FILE"
        )
    return config.one_model(options.model_name, options.model_base_path)


def _announce(server: ModelServer, settings: Settings, model: str) -> None:
    host = bracketed(settings.host)
    tls = ", TLS" if settings.tls else ""
    if server.grpc_port:
        print(f"gRPC: {host}:{server.grpc_port}{tls}")
    if settings.grpc_socket:
        one = f", by one of {settings.workers} workers" if settings.workers > 1 else ""
        print(f"gRPC: unix:{settings.grpc_socket}{tls}{one}")
    if server.rest_port:
        url = f"{'https' if settings.tls else 'http'}://{host}:{server.rest_port}"
        print(f"REST: {url}")
        print(f"  try: curl {url}/v1/models/{model}")
    else:
        print("REST: off; --rest_api_port=8501 opens it")


if __name__ == "__main__":
    sys.exit(cli.run(main))
