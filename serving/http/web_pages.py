"""The web page, and the files of available versions that it needs. Not in TensorFlow Serving.

GET /web/                                          the page; GET /web/NAME: its other files
GET /web/models/NAME/versions/N/contract.json      the input contract
GET /web/models/NAME/versions/N/export.json        the export card
GET /web/models/NAME/versions/N/web/FORMAT.tflite  a file for browsers
"""

import re
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote

from tfship.export.runtimes import web_build
from tfship.export.runtimes.web_build import ROOT
from tfship.serving.http.messages import HttpRequest, HttpResponse, page
from tfship.serving.models.registry import Servables
from tfship.serving.models.version_policy import parse_version
from tfship.serving.protos.messages import model_pb2
from tfship.serving.protos.status import StatusError

__all__ = ["WebPages"]

_INDEX = "index.html"
_VERSION_FILE = re.compile(
    r"models/(?P<name>[^/]+)/versions/(?P<version>[0-9]+)/"
    r"(?P<file>contract\.json|export\.json|web/[a-z0-9_]+\.tflite)"
)
# Browsers ask each time, and get the content only if it has changed.
_CACHING = "no-cache"


class WebPages:
    """Responses to requests below `web_build.ROOT`. `folder` contains the built files."""

    def __init__(self, folder: Path, servables: Servables) -> None:
        self._servables = servables
        self._files = web_build.files(folder)

    def respond(self, request: HttpRequest) -> HttpResponse:
        """Return the response to a request for `web_build.ROOT`, without its last slash too, or for a path below it."""
        if request.method not in ("GET", "HEAD"):
            return page(HTTPStatus.METHOD_NOT_ALLOWED)
        if request.path == ROOT.removesuffix("/"):
            query = request.target.removeprefix(request.path)
            return HttpResponse(HTTPStatus.PERMANENT_REDIRECT, headers={"location": ROOT + query})
        name = unquote(request.path.removeprefix(ROOT)) or _INDEX
        found = self._files.get(name)
        headers = {**web_build.HEADERS, "cache-control": _CACHING}
        if found is not None:
            headers["content-encoding"] = "gzip"
        else:
            found = self._version_file(name)
        try:
            if found is None:
                return page(HTTPStatus.NOT_FOUND)
            details = found.stat()
            headers["etag"] = tag = f'"{details.st_mtime_ns:x}-{details.st_size:x}"'
            if request.header("if-none-match") == tag:
                return HttpResponse(HTTPStatus.NOT_MODIFIED, headers=headers)
            return HttpResponse(HTTPStatus.OK, found.read_bytes(), web_build.media_type(name), headers)
        except FileNotFoundError:  # the version, or a file of it, has gone
            return page(HTTPStatus.NOT_FOUND)

    def _version_file(self, name: str) -> Path | None:
        match = _VERSION_FILE.fullmatch(name)
        number = None if match is None else parse_version(match["version"])
        if match is None or number is None:
            return None
        spec = model_pb2.ModelSpec(name=match["name"])
        spec.version.value = number
        try:
            return self._servables.directory(spec) / match["file"]
        except StatusError:
            return None
