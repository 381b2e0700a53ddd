from typing import Any

import pytest

from export import gate
from export.gate import Gate
from train.errors import UsageError


def figures(accuracy: float, agreement: float = 1.0) -> dict[str, Any]:
    return {"accuracy": {"value": accuracy}, "agreement": agreement}


@pytest.mark.parametrize(
    ("accuracy", "rules"),
    [
        (0.99, []),
        (0.985, []),  # a drop of just what is allowed is allowed, float arithmetic or not
        (0.9849, ["accuracy against Keras' float32"]),
        (0.97, ["accuracy against Keras' float32", "accuracy against the last blessed version"]),
        (0.89, ["accuracy", "accuracy against Keras' float32", "accuracy against the last blessed version"]),
    ],
)
def test_floor_and_drops(accuracy: float, rules: list[str]) -> None:
    checks = Gate(min_accuracy=0.9, max_drop=0.005).checks(
        "int8", exact=False, figures=figures(accuracy), reference=0.99, blessed=0.98
    )
    assert [check.rule for check in checks if not check.passed] == rules
    record = gate.record(Gate(), checks, forced=True)
    assert record["blessed"] == (not rules)
    assert record["forced"] == bool(rules)
    assert len(record["why_not"]) == len(rules)
    assert all("int8: accuracy" in each for each in record["why_not"])


def test_what_computes_in_float32_must_agree() -> None:
    checks = Gate().checks("float32", exact=True, figures=figures(0.99, 0.998), reference=0.99, blessed=None)
    (failed,) = [check for check in checks if not check.passed]
    assert failed.text() == "float32: agreement with Keras: 0.9980 found, 0.9990 wanted"


@pytest.mark.parametrize("bounds", [{"min_accuracy": 1.5}, {"max_drop": -0.1}, {"max_drop": float("nan")}])
def test_impossible_bounds(bounds: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected a share from 0 to 1"):
        Gate(**bounds)
