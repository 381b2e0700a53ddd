"""Whether a server's signatures are the one that is asked for, and those of the contract and the model on this disk."""

from collections.abc import Iterator, Mapping

from tfship.client.doctor.findings import FAULT, Finding, fault, listed, ok, warning
from tfship.client.doctor.model_directory import Local
from tfship.client.targets.connection import Servable
from tfship.client.targets.model_info import AVAILABLE, Served, ServedSignature, Tensor
from tfship.export.preprocessing import input_contract
from tfship.export.preprocessing.input_contract import PROBABILITIES_OF_CLASSES, Contract
from tfship.train.common.errors import ArtifactError

__all__ = ["judge"]

# What tensors of quantized TFLite files can be where the model's own are float32.
_INTEGERS = {"uint8", "int8"}
_FLOATS = (
    "start the server without --prefer_tflite_model, or export the version with --serve float32; in this process the "
    "file answers by --target tflite:PATH"
)


def judge(about: str, served: Served, servable: Servable, local: Local) -> Iterator[Finding]:
    """Yield what is wrong with the signatures that are served, at `about`, or else what they are."""
    name = f"{servable.name} version {served.version}"
    found = served.signatures.get(servable.signature)
    if found is None:
        there = [f"{key}: {each}" for key, each in sorted(served.signatures.items())]
        yield fault(
            about,
            f"{name} has no signature {servable.signature!r}; there are {'; '.join(there) or 'none'}",
            "name one of these by --signature, or export the version again",
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
        compared = ", as the contract says" if agreed is not None else ""
        if told := _told(servable.signature, found):
            # The contract describes the SavedModel.
            compared = f" ({told})"
        yield ok(
            about,
            f"{name} is {AVAILABLE}; {servable.signature}: {found}{compared}; other signatures: {listed(also)}",
        )


def _unusable(found: ServedSignature, agreed: Contract | None) -> str:
    """Return why the client can't use a quantized signature, empty if it can."""
    if any(each.dtype == "int8" for each in found.inputs.values()):
        return "takes int8, whose scale no server tells"
    if _integers(found) and agreed is not None and agreed.outputs != PROBABILITIES_OF_CLASSES:
        return "answers integers that aren't a softmax's, so their scale is unknown"
    return ""


def _told(name: str, found: ServedSignature) -> str:
    """Return in which ways a signature isn't the usual one, which the client takes into account by itself."""
    told = []
    if name != input_contract.SERVING_UINT8 and any(each.dtype == "uint8" for each in found.inputs.values()):
        told.append("it takes pixels as they are")
    if _integers(found):
        told.append("its scores are integers in steps of 1/256, as a quantized TFLite file's")
    batches = {each.shape[0] for each in found.inputs.values() if each.shape and each.shape[0] > 0}
    if batches:
        told.append(
            f"it takes {listed(sorted(batches))} at a time, so the client asks for so many in each request"
        )
    if any(each.shape and each.shape[1:] == (1,) for each in found.outputs.values()):
        told.append("it answers one number for each image, which becomes two classes")
    return "; ".join(told)


def _integers(found: ServedSignature) -> bool:
    return any(each.dtype in _INTEGERS for each in found.outputs.values())


def _contract(local: Local, number: int) -> Contract | None:
    """Return the contract of the version that is served, or of the one in question where that isn't here."""
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
        expected = ServedSignature(_side(described["inputs"]), _side(described["outputs"]))
        if key not in served.signatures:
            missing.append(key)
        elif wrong := _differences(expected, served.signatures[key]):
            labels = f"; the contract names {len(agreed.labels)} labels" if "probabilities" in wrong else ""
            kind = fault if key == servable.signature else warning
            yield kind(
                about,
                f"{name} isn't what the contract on this disk says, signature {key}: {wrong}{labels}",
                "serve the version that the contract belongs to, or copy its contract.json here",
            )
    if missing:
        yield warning(
            about,
            f"{name} lacks signatures of the contract: {listed(missing)}",
            "a server with --prefer_tflite_model has only serving_default, and without it all; otherwise export the "
            "version again",
        )


def _against_disk(
    about: str, name: str, served: Served, here: Mapping[str, ServedSignature]
) -> Iterator[Finding]:
    for key in sorted(served.signatures.keys() & here.keys()):
        if wrong := _differences(here[key], served.signatures[key]):
            yield fault(
                about,
                f"{name} isn't the version {served.version} on this disk, signature {key}: {wrong}",
                "see that the server's base path is this folder, and copy the version again",
            )


def _side(described: Mapping[str, Mapping[str, object]]) -> dict[str, Tensor]:
    return {
        name: Tensor(
            str(each["dtype"]), tuple(-1 if size is None else size for size in _sizes(each["shape"]))
        )
        for name, each in described.items()
    }


def _sizes(shape: object) -> list[int | None]:
    assert isinstance(shape, list)  # noqa: S101 - of Contract.describe
    return shape


def _differences(expected: ServedSignature, found: ServedSignature) -> str:
    """Return how a signature differs from what is expected, empty if one can stand for the other."""
    wrong = []
    for side, wanted, there in (
        ("input", expected.inputs, found.inputs),
        ("output", expected.outputs, found.outputs),
    ):
        if missing := wanted.keys() - there.keys():
            has = ", ".join(f"{name} {each}" for name, each in there.items())
            wrong.append(f"no {side} {listed(sorted(missing))}, but {has}")
        if side == "input" and not missing and (more := there.keys() - wanted.keys()):
            wrong.append(f"another input {listed(sorted(more))}")
        wrong += [
            f"{side} {name} is {there[name]}, expected {each}"
            for name, each in wanted.items()
            if name in there and not _fits(each, there[name])
        ]
    return "; ".join(wrong)


def _fits(expected: Tensor, found: Tensor) -> bool:
    # A TFLite file of the version may be served, quantized from edge to edge, or a model of one sigmoid.
    if expected.dtype != found.dtype and not (expected.dtype == "float32" and found.dtype in _INTEGERS):
        return False
    if expected.shape is None or found.shape is None:
        return True
    one_sigmoid = expected.shape[1:] == (2,) and found.shape[1:] == (1,)
    return one_sigmoid or (
        len(expected.shape) == len(found.shape)
        and all(a == b or a < 0 or b < 0 for a, b in zip(expected.shape, found.shape, strict=True))
    )
