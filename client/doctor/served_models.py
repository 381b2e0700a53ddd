"""Whether a server serves what was asked for and what lies on this disk, as far as its answers tell."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tfship.client.doctor import load_errors, signature_checks
from tfship.client.doctor.findings import Finding, clean, fault, listed, warning
from tfship.client.doctor.model_directory import Local
from tfship.client.targets.connection import Servable
from tfship.client.targets.model_info import AVAILABLE, Served, Version

__all__ = ["Told", "judge"]

_NOT_READY = "wait and ask again; the server's log tells how far it is"


@dataclass
class Told:
    """What a server told at an address, `about`, which is also where findings about it are said to be.

    None is what it wasn't asked or didn't answer. `others` are the names that it knows when it doesn't know the
    model, `labels` those that it knows when it doesn't know the label; `refusal` is why it named no signatures.
    """

    about: str
    findings: list[Finding] = field(default_factory=list)
    healthy: bool | None = None
    versions: Sequence[Version] | None = None
    served: Served | None = None
    refusal: str = ""
    others: Sequence[str] = ()
    labels: Mapping[str, int] = field(default_factory=dict)


def judge(told: Told, servable: Servable, local: Local) -> Iterator[Finding]:
    """Yield what is wrong with the model as the server told of it, or else how it is served."""
    if told.healthy is False:
        yield fault(
            told.about,
            "says NOT_SERVING: it is shutting down, or not ready yet",
            "wait and ask again, or start it anew",
        )
    if told.versions is None:
        return
    if not told.versions:
        yield _unknown_model(told, servable, local)
        return
    yield from _failures(told, servable, local)
    available = [each for each in told.versions if each.state == AVAILABLE]
    if servable.version is not None and servable.version not in [each.number for each in available]:
        yield from _not_this_version(told, servable)
        return
    if not available:
        yield from _none_available(told, servable)
        return
    if told.served is None:
        if told.refusal:
            yield _refused(told, servable)
        return
    yield from _age(told, servable, local, max(each.number for each in available))
    yield from signature_checks.judge(told.about, told.served, servable, local)


def _unknown_model(told: Told, servable: Servable, local: Local) -> Finding:
    if told.others:
        return fault(
            told.about,
            f"doesn't know a model {servable.name}; of the names that were tried, it knows {listed(told.others)}",
            "name one of these by --model, or start the server with this one",
        )
    here = (
        "it is on this disk, so the server was started with another name or folder; "
        if local.versions
        else ""
    )
    return fault(
        told.about,
        f"doesn't know a model {servable.name}, nor any other name that was tried; servers don't list their models",
        f"{here}look at the server's --model_name or --model_config_file (give that file to the doctor, too)",
    )


def _failures(told: Told, servable: Servable, local: Local) -> Iterator[Finding]:
    versions = told.versions or ()
    newest = max([*local.versions, *(each.number for each in versions)])
    wanted = newest if servable.version is None else servable.version
    for each in versions:
        if each.code == "OK" and not each.message:
            continue
        reason = load_errors.explain(f"{each.code}: {each.message}")
        again = " and is tried again" if each.state == "LOADING" else ""
        meaning = f"{reason.meaning} — " if reason.meaning else ""
        kind = fault if each.number == wanted or not _serves(versions) else warning
        words = clean(f"{each.code}: {each.message}", 160)
        yield kind(
            told.about,
            f"{servable.name} version {each.number} couldn't be loaded{again}: {meaning}{words}",
            reason.remedy,
        )


def _serves(versions: Sequence[Version]) -> bool:
    return any(each.state == AVAILABLE for each in versions)


def _not_this_version(told: Told, servable: Servable) -> Iterator[Finding]:
    versions = told.versions or ()
    known = next((each for each in versions if each.number == servable.version), None)
    if known is None:
        yield fault(
            told.about,
            f"has no version {servable.version} of {servable.name}; there are {listed(versions)}",
            "ask for one of these, or none for the latest",
        )
    elif known.code == "OK":
        yield _waiting(told.about, servable, known)


def _none_available(told: Told, servable: Servable) -> Iterator[Finding]:
    versions = told.versions or ()
    coming = [each for each in versions if each.state in ("START", "LOADING") and each.code == "OK"]
    if coming:
        yield _waiting(told.about, servable, coming[0])
    elif all(each.code == "OK" for each in versions):
        yield fault(
            told.about,
            f"serves no version of {servable.name} any more: {listed(versions)}",
            "see whether the base path still holds a version, or whether the server shuts down",
        )


def _waiting(about: str, servable: Servable, version: Version) -> Finding:
    where = f"{servable.name} version {version.number} is {version.state}"
    if version.state in ("START", "LOADING"):
        return fault(about, f"isn't ready yet: {where}", _NOT_READY)
    return fault(
        about, f"{where}: it was taken out of service", "ask for another version, or restore this one"
    )


def _refused(told: Told, servable: Servable) -> Finding:
    if servable.label is not None and "label" in told.refusal:
        known = [f"{name} (version {number})" for name, number in told.labels.items()]
        return fault(
            told.about,
            f"has no label {servable.label!r} of {servable.name}; of the labels that were tried, it knows "
            f"{listed(known)}; its versions are {listed(told.versions or ())}",
            "ask for one of these, or set version_labels in the server's --model_config_file",
        )
    return fault(
        told.about,
        f"tells no signatures of {servable.name}: {clean(told.refusal, 160)}",
        "look at the server's log",
    )


def _age(told: Told, servable: Servable, local: Local, newest: int) -> Iterator[Finding]:
    """Compare the newest version that is served with the newest on disk."""
    if not local.versions or servable.version is not None or servable.label is not None:
        return
    here = max(local.versions)
    states = {each.number: each for each in told.versions or ()}
    serves = f"serves {servable.name} version {newest}, and the newest on disk is {here}"
    if newest > here:
        which = "retired here" if newest in local.retired else "not on this disk"
        yield warning(
            told.about,
            f"{serves}: {newest} is {which}",
            "the server hasn't looked again yet, or its base path is another folder",
        )
    elif newest < here and here not in states:
        yield fault(
            told.about,
            f"{serves}, which the server doesn't know",
            "wait for its next look (--file_system_poll_wait_seconds, never if 0), or see that its base path is this "
            "folder and its model_version_policy takes the newest",
        )
    elif newest < here and states[here].code == "OK":
        state = states[here].state
        if state in ("START", "LOADING"):
            yield warning(told.about, f"{serves}, which is {state}", _NOT_READY)
        else:
            yield fault(
                told.about,
                f"{serves}, which is {state}: it was served and taken out of service",
                "see which versions the server's model_version_policy asks for",
            )
