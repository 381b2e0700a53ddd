"""The web page of the REST port: its files, those of versions, and nothing else."""

import gzip
import http.client
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from serving_fixtures import TFLITE, Client, config_of, eventually, publish, serving, withdraw
from tfship.export.runtimes import web_build
from tfship.serving.server.model_server import Settings

INDEX, SCRIPT = b"<!doctype html><title>page</title>", b"export {};" * 1000


@dataclass(frozen=True)
class Served:
    client: Client
    base: Path

    def get(self, target: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.client.rest_port, timeout=100)
        connection.request(
            method, target, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        content = response.read()
        connection.close()
        return response.status, found, content


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("web_pages")
    page, base = folder / "page", folder / "models" / "m"
    (page / "wasm").mkdir(parents=True)
    (page / "index.html.gz").write_bytes(gzip.compress(INDEX))
    (page / "wasm" / "a.js.gz").write_bytes(gzip.compress(SCRIPT))
    (folder / "secret.gz").write_bytes(b"")
    publish(base, 1)
    add_files(base / "1")
    with serving(config_of(m=base), Settings(loader=TFLITE, web_folder=page, tells_timing=True)) as client:
        yield Served(client, base)


def add_files(version: Path) -> None:
    (version / "web").mkdir()
    (version / "web" / "int8.tflite").write_bytes(b"model")
    (version / "contract.json").write_text("{}")
    (version / "export.json").write_text('{"web": []}')


def test_the_page_and_its_files(served: Served) -> None:
    status, headers, content = served.get("/web/?model=m")
    assert (status, gzip.decompress(content)) == (200, INDEX)
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["content-encoding"] == "gzip"
    # No script but the page's own, and threads: https://web.dev/articles/coop-coep
    assert headers.items() >= web_build.HEADERS.items()
    status, headers, content = served.get("/web/wasm/a.js")
    assert (status, gzip.decompress(content)) == (200, SCRIPT)
    assert headers["content-type"] == "text/javascript; charset=utf-8"


def test_the_files_of_a_version(served: Served) -> None:
    for name, content in (
        ("web/int8.tflite", b"model"),
        ("contract.json", b"{}"),
        ("export.json", b'{"web": []}'),
    ):
        status, headers, found = served.get(f"/web/models/m/versions/1/{name}")
        assert (status, found) == (200, content)
        assert "content-encoding" not in headers


def test_unchanged_files_are_not_sent_again(served: Served) -> None:
    for target in ("/web/", "/web/models/m/versions/1/web/int8.tflite"):
        _, headers, _ = served.get(target)
        assert headers["cache-control"] == "no-cache"
        status, again, content = served.get(target, If_None_Match=headers["etag"])
        assert (status, content, again["etag"]) == (304, b"", headers["etag"])
        assert served.get(target, If_None_Match='"other"')[0] == 200


def test_without_the_last_slash(served: Served) -> None:
    status, headers, _ = served.get("/web?model=m")
    assert (status, headers["location"]) == (308, "/web/?model=m")


def test_head(served: Served) -> None:
    status, headers, content = served.get("/web/", "HEAD")
    assert (status, content) == (200, b"")
    assert int(headers["content-length"]) == len(gzip.compress(INDEX))


@pytest.mark.parametrize(
    "path",
    [
        "x",
        "index.html.gz",
        "../secret",
        "%2e%2e/secret",
        "wasm/",
        "models/",
        "models/m/versions/1/",
        "models/m/versions/1/model.tflite",
        "models/m/versions/1/web/../model.tflite",
        "models/m/versions/1/web/%2e%2e/model.tflite",
        "models/m/versions/1/web/none.tflite",
        "models/m/versions/2/contract.json",
        "models/m/versions/99999999999999999999/contract.json",
        "models/m/versions/9999999999999999999/contract.json",
        "models/other/versions/1/contract.json",
        "models/..%2fm/versions/1/contract.json",
        "models/%ff/versions/1/contract.json",
    ],
)
def test_nothing_else_is_served(served: Served, path: str) -> None:
    status, _, content = served.get(f"/web/{path}")
    assert (status, content) == (404, served.get("/none")[2])


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods(served: Served, method: str) -> None:
    assert served.get("/web/", method)[0] == 405


def test_the_page_learns_how_long_the_server_took(served: Served) -> None:
    headers = served.client.headers("/v1/models/m:predict", {"instances": [[1, 2]]})
    assert ";dur=" in headers["server-timing"]


def test_files_of_versions_that_come_and_go(served: Served) -> None:
    def status() -> int:
        return served.get("/web/models/m/versions/2/contract.json")[0]

    publish(served.base, 2)
    add_files(served.base / "2")
    eventually(lambda: status() == 200)
    withdraw(served.base, 2)
    eventually(lambda: status() == 404)


def test_no_page_unless_it_is_asked_for(served: Served) -> None:
    with serving(config_of(m=served.base), Settings(loader=TFLITE)) as client:
        plain: Any = Served(client, served.base).get
        assert plain("/web/")[0] == 404
        assert plain("/web")[0] == 404
