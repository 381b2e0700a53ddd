from typing import Any

import numpy as np
import pytest

from tfship.export.publishing import gate
from tfship.export.publishing.gate import Gate
from tfship.train.common import statistics
from tfship.train.common.errors import UsageError


def figures(
    right: int, wins: int, losses: int, agreement: float = 1.0, images: int = 10_000, far: int = 0
) -> dict[str, Any]:
    return {
        "accuracy": {"value": right / images, "correct": right, "images": images},
        "wins": wins,
        "losses": losses,
        "agreement": agreement,
        "compared": images,
        "disagreements": round((1 - agreement) * images),
        "images": images,
        "far": far,
    }


def accuracy(right: int, images: int = 10_000) -> dict[str, Any]:
    return {"value": right / images, "correct": right, "images": images}


@pytest.mark.parametrize(
    ("right", "rules"),
    [
        (9900, []),
        (9850, []),  # a drop of exactly the limit is allowed, float arithmetic or not
        (9849, ["accuracy relative to the model"]),
        (9700, ["accuracy relative to the model", "accuracy relative to the last blessed version"]),
        (
            8900,
            ["accuracy", "accuracy relative to the model", "accuracy relative to the last blessed version"],
        ),
    ],
)
def test_floor_and_drops(right: int, rules: list[str]) -> None:
    checks = Gate(min_accuracy=0.9, max_drop=0.005).checks(
        "int8",
        exact=False,
        figures=figures(right, 0, 9900 - right),
        reference=accuracy(9900),
        blessed=accuracy(9800),
    )
    assert [check.rule for check in checks if not check.passed] == rules
    record = gate.record(Gate(), checks, forced=True)
    assert record["blessed"] == (not rules)
    assert record["forced"] == bool(rules)
    assert len(record["why_not"]) == len(rules)
    assert all("int8: accuracy" in each for each in record["why_not"])


def test_a_loss_counts_only_if_a_test_supports_it() -> None:
    for losses, passes in ((2, True), (4, True), (5, False)):
        checks = Gate().checks(
            "int8",
            exact=False,
            figures=figures(164 - losses, 0, losses, 1 - losses / 200, images=200),
            reference=accuracy(164, 200),
            blessed=accuracy(164, 200),
        )
        assert all(check.passed for check in checks) == passes


def test_what_computes_in_float32_must_agree() -> None:
    checks = Gate().checks(
        "float32", exact=True, figures=figures(9900, 0, 0, 0.998), reference=accuracy(9900), blessed=None
    )
    (failed,) = [check for check in checks if not check.passed]
    assert failed.text() == "float32: agreement with the model: 0.9980, expected at least 0.9990 (p 0.0034)"
    one = figures(160, 0, 0, 0.995, images=200, far=1)
    assert all(
        each.passed for each in Gate().checks("x", exact=True, figures=one, reference=None, blessed=None)
    )
    other_scores = figures(160, 0, 0, images=200, far=3)
    checks = Gate().checks("x", exact=True, figures=other_scores, reference=None, blessed=None)
    (failed,) = [each for each in checks if not each.passed]
    assert failed.text() == "x: images with the model's scores: 0.9850, expected at least 0.9990 (p 0.0011)"


def test_a_quantized_format_must_agree_even_where_its_accuracy_is_the_same() -> None:
    (check,) = Gate().checks(
        "int8", exact=False, figures=figures(9900, 0, 0, 0.94), reference=None, blessed=None
    )
    assert not check.passed
    assert all(
        each.passed
        for each in Gate(min_agreement=0.9).checks(
            "int8", exact=False, figures=figures(9900, 0, 0, 0.94), reference=None, blessed=None
        )
    )
    artefacts = [{"format": "int8", **figures(9900, 0, 0, agreement)} for agreement in (0.985, 0.995)]
    assert list(gate.warnings(artefacts)) == ["int8: differs from the model on 150 of 10,000 decisions"]


def test_a_model_that_guesses_isnt_blessed() -> None:
    truth = np.random.default_rng(0).integers(0, 10, 200)
    for predicted, passes in ((truth, True), (truth * 0 + 3, False), (np.roll(truth, 1), False)):
        found = Gate().model_checks(
            statistics.accuracy(predicted, truth), statistics.chance_p(predicted, truth)
        )
        assert all(each.passed for each in found) == passes


@pytest.mark.parametrize(
    "bounds", [{"min_accuracy": 1.5}, {"max_drop": -0.1}, {"max_drop": float("nan")}, {"min_agreement": 2.0}]
)
def test_impossible_bounds(bounds: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected a share from 0 to 1"):
        Gate(**bounds)
