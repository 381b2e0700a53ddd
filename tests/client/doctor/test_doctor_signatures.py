"""What the doctor says of signatures that aren't the contract's to the letter, and are served all the same."""

import pytest

from tfship.client.doctor import signature_checks
from tfship.client.doctor.findings import FAULT, OK, WARNING
from tfship.client.doctor.model_directory import LocalModel
from tfship.client.targets.connection import Servable
from tfship.client.targets.model_info import Served, dtype_number
from tfship.export.preprocessing.input_contract import Contract, Scaling
from tfship.export.runtimes.protocol import PREDICT, Signature, TensorSpec

RULES = Contract("m", ("a", "b"), 8, 8, 1, Scaling.of_range(0, 1, 1), "resize")
LABELS = Contract(**{**vars(RULES), "outputs": "independent"})


def signature_of(dtype: str, batch: int, scores_dtype: str, scores: int) -> Signature:
    return Signature(
        {"image": TensorSpec("image", dtype_number(dtype), (batch, 8, 8, 1))},
        {"probabilities": TensorSpec("probabilities", dtype_number(scores_dtype), (batch, scores))},
        PREDICT,
    )


@pytest.mark.parametrize(
    ("contract", "image", "scores", "level", "words"),
    [
        (RULES, ("float32", -1), ("float32", 2), OK, ", as in the contract; other"),
        (RULES, ("uint8", -1), ("uint8", 2), OK, "it takes pixels; its scores are integers in steps"),
        (RULES, ("uint8", -1), ("float32", 2), OK, "(it takes pixels)"),
        (RULES, ("float32", 1), ("float32", 2), OK, "it takes 1 at a time"),
        (RULES, ("float32", -1), ("float32", 1), OK, "one number per image, which becomes two classes"),
        (None, ("uint8", -1), ("uint8", 2), OK, "integers in steps of 1/256"),
        (LABELS, ("float32", -1), ("float32", 2), OK, ", as in the contract"),
        (LABELS, ("uint8", -1), ("uint8", 2), FAULT, "aren't a softmax's, so their scale is unknown"),
        (RULES, ("int8", -1), ("int8", 2), FAULT, "takes int8, whose scale no server reports"),
        (RULES, ("float32", -1), ("float32", 3), FAULT, "differs from the contract on this disk"),
        (RULES, ("float64", -1), ("float32", 2), FAULT, "differs from the contract on this disk"),
    ],
)  # fmt: skip
def test_signatures(
    contract: Contract | None, image: tuple[str, int], scores: tuple[str, int], level: str, words: str
) -> None:
    dtype, batch = image
    signature = signature_of(dtype, batch, *scores)
    float32 = signature_of("float32", -1, "float32", 2)
    local = LocalModel(
        number=1, contract=contract, signatures={"serving_default": float32} if contract else None
    )
    found = [
        each
        for each in signature_checks.check(
            "here", Served(1, {"serving_default": signature}), Servable("m"), local
        )
        if each.level != WARNING
    ]
    (one,) = found
    assert one.level == level
    assert words in one.found
    if "scale" in words:
        assert (
            "start the server without --prefer_tflite_model, or export the version with --serve" in one.remedy
        )
