import json
from pathlib import Path

import pytest

from tfship.benchmarks import command
from tfship.benchmarks.studies import scoring, scoring_table
from tfship.train.common import cli


def row(images: str, engine: str, workers: int, rate: float) -> dict[str, object]:
    phases = {"read": 1e-4, "prepare": 3e-3, "infer": 2e-3, "table": 1e-5}
    return {
        "images": images, "engine": engine, "workers": workers, "rate": rate, "rates": [rate], "start": 10.0,
        "driver": 0.01, "phases": phases,
    }  # fmt: skip


def test_cost_on_paper() -> None:
    """A machine does 1,000 images/s; the driver handles 100 chunks of 256 images a second."""
    rows = [row("png", "local", 1, 5000.0), row("png", "ray", 1, 600.0), row("png", "ray", 2, 1000.0)]
    one, ten, hundred = scoring.costs(rows, price=3.6)
    assert (one["rate"], ten["rate"], hundred["rate"]) == (1000, 10_000, 25_600)
    assert [each["limited_by"] for each in (one, ten, hundred)] == ["workers", "workers", "driver"]
    # 1,010 s at 0.001 USD per second; 110 s on ten machines.
    assert one["usd"] == pytest.approx(1.01)
    assert ten["usd"] == pytest.approx(1.1)
    assert ten["efficiency"] == pytest.approx(1000 / 1100)
    assert hundred["minutes"] == pytest.approx((10 + 1e6 / 25_600) / 60)


def test_the_study(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both engines, with one worker."""
    file = tmp_path / "scoring.json"
    few = ("--repeats=1", "--pngs=300", "--jpegs=30", "--workers", "1")
    assert cli.run(command.main, ["scoring", f"--models={models}", *few, f"--json={file}"]) == 0
    results = json.loads(file.read_text())
    cases = [(each["images"], each["engine"], each["workers"]) for each in results["rows"]]
    assert cases == [("png", "local", 1), ("png", "ray", 1), ("jpeg", "local", 1), ("jpeg", "ray", 1)]
    for each in results["rows"]:
        assert each["rate"] > 0
        assert all(seconds > 0 for seconds in each["phases"].values())
    assert len(results["costs"]) == 2 * len(scoring.NODES)
    assert "A million images on machines like this one, at 0.0893 USD per hour" in capsys.readouterr().out
    assert scoring_table.failures(results) == []
