"""The kinds of raw outputs: told by their values, and turned into scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tfship.export.preprocessing import outputs

_NUMBERS = st.floats(-1e3, 1e3, width=32)


@pytest.mark.parametrize(
    ("scores", "several", "kind"),
    [
        ([[0.9, 0.1], [0.3, 0.7]], False, "probabilities"),
        ([[0.9004, 0.0991]], False, "probabilities"),
        ([[0.9, 0.8], [0.3, 0.7]], False, "independent"),
        ([[0.0, 0.0]], False, "independent"),
        ([[1.0, 0.0, 1.0] + [0.0] * 997], False, "independent"),
        ([[0.5, 0.25, 0.2265625] + [0.0] * 7], False, "probabilities"),
        ([[0.5, 0.25, 0.21] + [0.0] * 7], False, "independent"),
        ([[0.9, 0.1], [0.3, 0.7]], True, "independent"),
        ([[-3.0, 4.0]], False, "logits"),
        ([[2.0, 11.0]], False, "logits"),
        ([[-1.0, 2.0]], False, "logits"),  # sums to 1, and yet no probabilities
        ([[-3.0, 4.0]], True, "independent-logits"),
        ([[0.2], [0.9]], False, "sigmoid"),
        ([[0.2], [-0.9]], False, "logit"),
        ([[1.5]], False, "logit"),
        ([[0.2]], True, "independent"),
    ],
)
def test_values_tell_the_kind(scores: list[list[float]], several: bool, kind: str) -> None:
    assert outputs.kind_of(np.array(scores, np.float32), several) == kind


@given(arrays.arrays(np.float32, (3, 40), elements=st.floats(0, 5, width=32)))
def test_the_rounding_of_quantized_probabilities_is_no_other_kind(logits: np.ndarray) -> None:
    probabilities = outputs.interpret(logits, "logits")
    rounded = np.round(probabilities * 256) / 256
    assert outputs.kind_of(rounded) == outputs.kind_of(rounded, step=1 / 256) == "probabilities"


@given(arrays.arrays(np.float32, (3, 4), elements=_NUMBERS))
def test_interpreted_scores_mean_what_the_contract_says(raw: np.ndarray) -> None:
    for kind in outputs.KINDS:
        if kind in ("probabilities", "independent"):
            assert np.array_equal(outputs.interpret(raw, kind), raw)
            continue
        scores = outputs.interpret(raw[:, :1] if kind == "logit" else raw, kind)
        if kind == "sigmoid":
            continue
        assert scores.dtype == np.float32
        assert ((scores >= 0) & (scores <= 1)).all()
        if outputs.meaning(kind) == "probabilities":
            assert np.allclose(scores.sum(1), 1, atol=1e-5)


def test_formulas() -> None:
    logits = np.array([[1.0, 2.0, 4.0], [-900.0, 0.0, 900.0]], np.float32)
    powers = np.exp(np.array([1.0, 2.0, 4.0]))
    expected = np.stack([powers / powers.sum(), np.eye(3)[2]])
    assert np.allclose(outputs.interpret(logits, "logits"), expected)
    one = np.array([[0.0], [np.log(3)], [-900.0]], np.float32)
    assert np.allclose(outputs.interpret(one, "logit"), np.array([[0.5, 0.5], [0.25, 0.75], [1, 0]]))
    assert np.allclose(outputs.interpret(one[:1] + 0.2, "sigmoid"), np.array([[0.8, 0.2]]))
    assert np.allclose(outputs.interpret(logits[:1], "independent-logits")[0], 1 / (1 + 1 / powers))
