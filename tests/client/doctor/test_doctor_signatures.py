"""What the doctor says of signatures that aren't the contract's to the letter, and are served all the same."""

import pytest

from tfship.client.doctor import signature_checks
from tfship.client.doctor.findings import FAULT, OK, WARNING
from tfship.client.doctor.model_directory import Local
from tfship.client.targets.connection import Servable
from tfship.client.targets.model_info import Served, ServedSignature, Tensor
from tfship.export.preprocessing.input_contract import Contract, Scaling

RULES = Contract("m", ("a", "b"), 8, 8, 1, Scaling.of_range(0, 1, 1), "resize")
LABELS = Contract(**{**vars(RULES), "outputs": "independent"})


@pytest.mark.parametrize(
    ("contract", "image", "scores", "level", "words"),
    [
        (RULES, ("float32", -1), ("float32", 2), OK, ", as the contract says; other"),
        (RULES, ("uint8", -1), ("uint8", 2), OK, "takes pixels as they are; its scores are integers in steps"),
        (RULES, ("uint8", -1), ("float32", 2), OK, "(it takes pixels as they are)"),
        (RULES, ("float32", 1), ("float32", 2), OK, "it takes 1 at a time"),
        (RULES, ("float32", -1), ("float32", 1), OK, "one number for each image, which becomes two classes"),
        (None, ("uint8", -1), ("uint8", 2), OK, "integers in steps of 1/256"),
        (LABELS, ("float32", -1), ("float32", 2), OK, ", as the contract says"),
        (LABELS, ("uint8", -1), ("uint8", 2), FAULT, "aren't a softmax's, so their scale is unknown"),
        (RULES, ("int8", -1), ("int8", 2), FAULT, "takes int8, whose scale no server tells"),
        (RULES, ("float32", -1), ("float32", 3), FAULT, "isn't what the contract on this disk says"),
        (RULES, ("float64", -1), ("float32", 2), FAULT, "isn't what the contract on this disk says"),
    ],
)  # fmt: skip
def test_signatures(
    contract: Contract | None, image: tuple[str, int], scores: tuple[str, int], level: str, words: str
) -> None:
    dtype, batch = image
    signature = ServedSignature(
        {"image": Tensor(dtype, (batch, 8, 8, 1))}, {"probabilities": Tensor(scores[0], (batch, scores[1]))}
    )
    float32 = ServedSignature(
        {"image": Tensor("float32", (-1, 8, 8, 1))}, {"probabilities": Tensor("float32", (-1, 2))}
    )
    local = Local(number=1, contract=contract, signatures={"serving_default": float32} if contract else None)
    found = [
        each
        for each in signature_checks.judge(
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
