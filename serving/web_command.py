"""`tfship web`: try models in the browser.

tfship web                       all models in the folder models, at http://127.0.0.1:8601/web/
tfship web --models DIR --open   another folder; also open the page in the default browser
"""

import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from tfship.serving import command
from tfship.serving.server.settings import ANY_PORT
from tfship.train.common import cli

__all__ = ["main"]

_PORT = 8601


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the web page and the models until SIGTERM or SIGINT, and return the exit code."""
    parser = cli.parser(
        "tfship web",
        "Serve all models of a folder together with a page that draws digits, takes images, and shows the answers of "
        "every format in the browser and of the server. The same page: tfship serve --web.",
    )
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of exported models")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all")
    parser.add_argument("--port", type=int, default=_PORT, help=f"port; {ANY_PORT}: any free one")
    parser.add_argument("--open", action="store_true", help="open the page in the default browser")
    own, flags = cli.split(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(own)
    served = [f"--host={arguments.host}", f"--rest_api_port={arguments.port}", f"--port={ANY_PORT}", "--web"]
    show = webbrowser.open if arguments.open else None
    return command.serve_folder(arguments.models, [*served, *flags], show)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
