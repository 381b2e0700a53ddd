"""The alert rules on series, by promtool, Prometheus' own checker."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT
from tfship.serving.kubernetes import manifests
from third_party_clients.environments import program

COUNT = ':tensorflow:serving:request_count{namespace="ml",job="cnn",pod="a",model_name="cnn",status="%s"}'
LATENCY = ':tensorflow:serving:request_latency_bucket{namespace="ml",job="cnn",pod="a",le="%s"}'
VERSIONS = ':tfship:model_versions{namespace="ml",job="cnn",pod="a",model_name="cnn",state="AVAILABLE"}'
WORKERS = ':tfship:workers{namespace="ml",job="cnn",pod="a"}'
IN_FLIGHT = ':tfship:requests_in_flight{namespace="ml",job="cnn",pod="a",entrypoint="GRPC"}'
# For each alert, series with a value a minute: one that fires it, and one that is near its limit.
CASES: dict[str, tuple[Mapping[str, str], Mapping[str, str]]] = {
    "ModelServerErrors": (
        {COUNT % "OK": "0+98x30", COUNT % "UNAVAILABLE": "0+2x30"},
        # Invalid requests are no errors of the server.
        {COUNT % "OK": "0+999x30", COUNT % "UNAVAILABLE": "0+1x30", COUNT % "INVALID_ARGUMENT": "0+500x30"},
    ),
    "ModelServerSlow": (
        {LATENCY % "100000": "0+98x30", LATENCY % "900000": "0+100x30", LATENCY % "+Inf": "0+100x30"},
        {LATENCY % "100000": "0+100x30", LATENCY % "900000": "0+100x30", LATENCY % "+Inf": "0+100x30"},
    ),
    "ModelServerDown": ({'up{job="cnn",pod="a"}': "0x30"}, {'up{job="cnn",pod="a"}': "1x30"}),
    "ModelWithoutVersion": ({VERSIONS: "0x30"}, {VERSIONS: "1x30"}),
    "ModelServerWorkersMissing": ({WORKERS: "2x9 1x20"}, {WORKERS: "2x30"}),
    "ModelServerNearLimit": (
        {WORKERS: "2x30", IN_FLIGHT: "1640x30"},
        {WORKERS: "2x30", IN_FLIGHT: "1600x30"},
    ),
}


def rules() -> dict[str, Any]:
    (found,) = (each for each in manifests.documents("volume") if each["kind"] == "PrometheusRule")
    spec: dict[str, Any] = found["spec"]
    return spec


def checked(folder: Path, tests: Sequence[Mapping[str, Any]]) -> subprocess.CompletedProcess[str]:
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules()))
    (folder / "tests.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": list(tests)}))
    command = [program("promtool"), "test", "rules", "tests.yaml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def firing(series: Mapping[str, str]) -> dict[str, Any]:
    """Return a test that evaluates the rules on `series` for half an hour."""
    listed = [{"series": name, "values": values} for name, values in series.items()]
    return {"interval": "1m", "input_series": listed, "alert_rule_test": []}


def test_every_alert_has_a_case() -> None:
    alerts = [rule["alert"] for group in rules()["groups"] for rule in group["rules"]]
    assert alerts == list(CASES)


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_in_time_and_not_before(alert: str, tmp_path: Path) -> None:
    fires, silent = CASES[alert]
    # promtool compares all labels and texts; whether there is any alert shows in the series ALERTS.
    query = {"expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})', "eval_time": "25m"}
    tests = [
        {**firing(fires), "promql_expr_test": [{**query, "exp_samples": [{"labels": "{}", "value": 1}]}]},
        {**firing(silent), "promql_expr_test": [{**query, "exp_samples": []}]},
    ]
    done = checked(tmp_path, tests)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(rules()))
    done = subprocess.run(
        [program("promtool"), "check", "rules", "--lint-fatal", file],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_limit_is_the_servers() -> None:
    from tfship.serving.server.settings import Limits

    assert (
        f"* {Limits.requests}\n"
        in (ROOT / "serving/kubernetes/components/monitoring/alerts.yaml").read_text()
    )
