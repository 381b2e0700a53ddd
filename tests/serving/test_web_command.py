"""`tfship web`: the page and the models from one server."""

import gzip
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from serving_fixtures import ROOT, eventually, publish
from tfship.export.runtimes import web_build
from tfship.serving import web_command
from tfship.train.common import cli

COMMAND = [sys.executable, "-m", "tfship.train.common.entry_point", "web"]


def test_it_serves_the_page_and_all_models_of_a_folder(tmp_path: Path) -> None:
    if web_build.find() is None:
        pytest.skip("the page's files aren't built; run `make web`")
    publish(tmp_path / "models" / "double", 1)
    ready = tmp_path / "ready.json"
    flags = [
        "--models",
        str(tmp_path / "models"),
        "--port",
        "-1",
        "--",
        "--runtime=tflite",
        f"--ready_file={ready}",
    ]
    with subprocess.Popen([*COMMAND, *flags], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            eventually(ready.exists)
            base = f"http://127.0.0.1:{json.loads(ready.read_text())['rest_port']}"
            with urllib.request.urlopen(f"{base}/web/") as response:
                assert b"<title>" in gzip.decompress(response.read())
            with urllib.request.urlopen(f"{base}/v1/models") as response:
                assert [each["name"] for each in json.load(response)["models"]] == ["double"]
        finally:
            process.terminate()
            log, _ = process.communicate()
    assert f"web page: {base}/web/\n" in log
    assert process.returncode == 0


def test_what_is_missing_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(web_build, "find", lambda: None)
    publish(tmp_path / "double", 1)
    assert cli.run(web_command.main, ["--models", str(tmp_path)]) == 2
    assert "--web needs the page's files, which aren't built; run `make web`" in capsys.readouterr().err
    assert cli.run(web_command.main, ["--models", str(tmp_path / "none")]) == 2
    assert "holds no exported version; run `tfship export`" in capsys.readouterr().err
