"""Checks of a server's signatures against the requested one, and against contract and SavedModel on this disk."""

from collections.abc import Iterator, Mapping
from typing import Any

from tfship.client.doctor.findings import FAULT, Finding, fault, listed, ok, warning
from tfship.client.doctor.model_directory import LocalModel
from tfship.client.targets.connection import Servable
from tfship.client.targets.model_info import AVAILABLE, Served, dtype_number, signature_text, tensor_text
from tfship.export.preprocessing import input_contract
from tfship.export.preprocessing.input_contract import PROBABILITIES_OF_CLASSES, Contract
from tfship.export.runtimes.protocol import PREDICT, Signature, TensorSpec
from tfship.train.common.errors import ArtifactError

__all__ = ["check"]

# DataTypes of tensors: quantized TFLite files have uint8 or int8 where the model has float32.
_UINT8, _INT8, _FLOAT = map(dtype_number, ("uint8", "int8", "float32"))
_FLOATS = (
    "start the server without --prefer_tflite_model, or export the version with --serve float32; or use the file "
    "without a server, by --target tflite:PATH"
)


def check(about: str, served: Served, servable: Servable, local: LocalModel) -> Iterator[Finding]:
    """Yield the problems of the signatures served at `about`, or else what they are."""
    name = f"{servable.name} version {served.version}"
    found = served.signatures.get(servable.signature)
    if found is None:
        there = [f"{key}: {signature_text(each)}" for key, each in sorted(served.signatures.items())]
        yield fault(
            about,
            f"{name} has no signature {servable.signature!r}; there are {'; '.join(there) or 'none'}",
            "give one of these by --signature, or export the version again",
        )
        return
    agreed = _contract(local, served.version)
    if refusal := _unusable(found, agreed):
        yield fault(about, f"{name}, signature {servable.signature}: {refusal}", _FLOATS)
        return
    wrong: list[Finding] = []
    if agreed is not None:
        wrong = list(_against_contract(about, name, served, servable, agreed))
    if not wrong and served.version == local.number and local.signatures:
        wrong = list(_against_disk(about, name, served, local.signatures))
    yield from wrong
    if not any(each.level == FAULT for each in wrong):
        also = [key for key in sorted(served.signatures) if key != servable.signature]
        compared = ", as in the contract" if agreed is not None else ""
        if variations := _variations(servable.signature, found):
            # The contract describes the SavedModel.
            compared = f" ({variations})"
        yield ok(
            about,
            f"{name} is {AVAILABLE}; {servable.signature}: {signature_text(found)}{compared}; other "
            f"signatures: {listed(also)}",
        )


def _unusable(found: Signature, agreed: Contract | None) -> str:
    """Return why the client can't use a quantized signature, empty if it can."""
    if any(each.dtype == _INT8 for each in found.inputs.values()):
        return "takes int8, whose scale no server reports"
    if _integers(found) and agreed is not None and agreed.outputs != PROBABILITIES_OF_CLASSES:
        return "returns integers that aren't a softmax's, so their scale is unknown"
    return ""


def _variations(name: str, found: Signature) -> str:
    """Return in which ways a signature differs from the usual one. The client adapts to all of them."""
    variations = []
    if name != input_contract.SERVING_UINT8 and any(each.dtype == _UINT8 for each in found.inputs.values()):
        variations.append("it takes pixels")
    if _integers(found):
        variations.append("its scores are integers in steps of 1/256, as in a quantized TFLite file")
    batches = {each.shape[0] for each in found.inputs.values() if each.shape and each.shape[0] > 0}
    if batches:
        variations.append(
            f"it takes {listed(sorted(batches))} at a time, so the client sends as many per request"
        )
    if any(each.shape and each.shape[1:] == (1,) for each in found.outputs.values()):
        variations.append("it returns one number per image, which becomes two classes")
    return "; ".join(variations)


def _integers(found: Signature) -> bool:
    return any(each.dtype in (_UINT8, _INT8) for each in found.outputs.values())


def _contract(local: LocalModel, number: int) -> Contract | None:
    """Return the contract of the served version, or of the checked version if the served one isn't on this disk."""
    if number == local.number or number not in local.versions:
        return local.contract
    try:
        return input_contract.read(local.versions[number])
    except (ArtifactError, OSError):
        return None


def _against_contract(
    about: str, name: str, served: Served, servable: Servable, agreed: Contract
) -> Iterator[Finding]:
    missing = []
    for key, described in agreed.describe()["signatures"].items():
        expected = Signature(_side(described["inputs"]), _side(described["outputs"]), PREDICT)
        if key not in served.signatures:
            missing.append(key)
        elif wrong := _differences(expected, served.signatures[key]):
            labels = f"; the contract names {len(agreed.labels)} labels" if "probabilities" in wrong else ""
            kind = fault if key == servable.signature else warning
            yield kind(
                about,
                f"{name} differs from the contract on this disk, signature {key}: {wrong}{labels}",
                "serve the version that the contract belongs to, or copy the served version's contract.json here",
            )
    if missing:
        yield warning(
            about,
            f"{name} lacks signatures of the contract: {listed(missing)}",
            "with --prefer_tflite_model, a server has only serving_default; start it without that flag, or export the "
            "version again",
        )


def _against_disk(about: str, name: str, served: Served, here: Mapping[str, Signature]) -> Iterator[Finding]:
    for key in sorted(served.signatures.keys() & here.keys()):
        if wrong := _differences(here[key], served.signatures[key]):
            yield fault(
                about,
                f"{name} differs from version {served.version} on this disk, signature {key}: {wrong}",
                "check that the server's base path is this folder, and copy the version again",
            )


def _side(described: Mapping[str, Mapping[str, Any]]) -> dict[str, TensorSpec]:
    """Return tensors as `Contract.describe` describes them."""
    return {
        name: TensorSpec(
            name, dtype_number(each["dtype"]), tuple(-1 if size is None else size for size in each["shape"])
        )
        for name, each in described.items()
    }


def _differences(expected: Signature, found: Signature) -> str:
    """Return how a signature differs from the expected one, empty if they are compatible."""
    wrong = []
    for side, wanted, there in (
        ("input", expected.inputs, found.inputs),
        ("output", expected.outputs, found.outputs),
    ):
        if missing := wanted.keys() - there.keys():
            has = ", ".join(f"{name} {tensor_text(each)}" for name, each in there.items())
            wrong.append(f"no {side} {listed(sorted(missing))}, but {has}")
        if side == "input" and not missing and (more := there.keys() - wanted.keys()):
            wrong.append(f"an additional input {listed(sorted(more))}")
        wrong += [
            f"{side} {name} is {tensor_text(there[name])}, expected {tensor_text(each)}"
            for name, each in wanted.items()
            if name in there and not _fits(each, there[name])
        ]
    return "; ".join(wrong)


def _fits(expected: TensorSpec, found: TensorSpec) -> bool:
    # The server may serve a TFLite file of the version with integer inputs and outputs, or a model with one sigmoid.
    if expected.dtype != found.dtype and not (expected.dtype == _FLOAT and found.dtype in (_UINT8, _INT8)):
        return False
    if expected.shape is None or found.shape is None:
        return True
    one_sigmoid = expected.shape[1:] == (2,) and found.shape[1:] == (1,)
    return one_sigmoid or (
        len(expected.shape) == len(found.shape)
        and all(a == b or a < 0 or b < 0 for a, b in zip(expected.shape, found.shape, strict=True))
    )
