"""Checks of a server's reports: whether it serves the requested version, and the newest version on this disk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tfship.client.doctor import load_errors, signature_checks
from tfship.client.doctor.findings import Finding, clean, fault, listed, warning
from tfship.client.doctor.model_directory import LocalModel
from tfship.client.targets.connection import Servable
from tfship.client.targets.model_info import AVAILABLE, Served, Version

__all__ = ["ServerReport", "check"]

_NOT_READY = "run the doctor again later; the server's log shows the progress"


@dataclass
class ServerReport:
    """What a server at an address, `about`, reports about a model, and findings about the address.

    None: not requested, or no response. `others` are known names, if the server doesn't know the model, and `labels`
    known labels with their versions, if it doesn't know the label. `refusal` is why it reported no signatures.
    """

    about: str
    findings: list[Finding] = field(default_factory=list)
    healthy: bool | None = None
    versions: Sequence[Version] | None = None
    served: Served | None = None
    refusal: str = ""
    others: Sequence[str] = ()
    labels: Mapping[str, int] = field(default_factory=dict)


def check(report: ServerReport, servable: Servable, local: LocalModel) -> Iterator[Finding]:
    """Yield the problems of the model on the server, or else how it is served."""
    if report.healthy is False:
        yield fault(
            report.about,
            "reports NOT_SERVING: it is shutting down, or not ready yet",
            "run the doctor again later, or restart the server",
        )
    if report.versions is None:
        return
    if not report.versions:
        yield _unknown_model(report, servable, local)
        return
    yield from _failures(report, servable, local)
    available = [each for each in report.versions if each.state == AVAILABLE]
    if servable.version is not None and servable.version not in [each.number for each in available]:
        yield from _not_this_version(report, servable)
        return
    if not available:
        yield from _none_available(report, servable)
        return
    if report.served is None:
        if report.refusal:
            yield _refused(report, servable)
        return
    yield from _age(report, servable, local, max(each.number for each in available))
    yield from signature_checks.check(report.about, report.served, servable, local)


def _unknown_model(report: ServerReport, servable: Servable, local: LocalModel) -> Finding:
    if report.others:
        return fault(
            report.about,
            f"knows no model {servable.name}; of the names tried, it knows {listed(report.others)}",
            "give one of these by --model, or start the server with this model",
        )
    here = (
        "it is on this disk, so the server was started with another name or folder: "
        if local.versions
        else ""
    )
    return fault(
        report.about,
        f"knows no model {servable.name}, nor any other name tried; servers don't list their models",
        f"{here}check the server's --model_name or --model_config_file (give that file to the doctor, too)",
    )


def _failures(report: ServerReport, servable: Servable, local: LocalModel) -> Iterator[Finding]:
    versions = report.versions or ()
    newest = max([*local.versions, *(each.number for each in versions)])
    wanted = newest if servable.version is None else servable.version
    for each in versions:
        if each.code == "OK" and not each.message:
            continue
        reason = load_errors.explain(f"{each.code}: {each.message}")
        again = " (the server tries again)" if each.state == "LOADING" else ""
        meaning = f"{reason.meaning} — " if reason.meaning else ""
        kind = fault if each.number == wanted or not _serves(versions) else warning
        words = clean(f"{each.code}: {each.message}", 160)
        yield kind(
            report.about,
            f"{servable.name} version {each.number} couldn't be loaded{again}: {meaning}{words}",
            reason.remedy,
        )


def _serves(versions: Sequence[Version]) -> bool:
    return any(each.state == AVAILABLE for each in versions)


def _not_this_version(report: ServerReport, servable: Servable) -> Iterator[Finding]:
    versions = report.versions or ()
    known = next((each for each in versions if each.number == servable.version), None)
    if known is None:
        yield fault(
            report.about,
            f"has no version {servable.version} of {servable.name}; there are {listed(versions)}",
            "give one of these, or none for the latest",
        )
    elif known.code == "OK":
        yield _waiting(report.about, servable, known)


def _none_available(report: ServerReport, servable: Servable) -> Iterator[Finding]:
    versions = report.versions or ()
    coming = [each for each in versions if each.state in ("START", "LOADING") and each.code == "OK"]
    if coming:
        yield _waiting(report.about, servable, coming[0])
    elif all(each.code == "OK" for each in versions):
        yield fault(
            report.about,
            f"no longer serves a version of {servable.name}: {listed(versions)}",
            "check whether the base path still holds a version, and whether the server is shutting down",
        )


def _waiting(about: str, servable: Servable, version: Version) -> Finding:
    where = f"{servable.name} version {version.number} is {version.state}"
    if version.state in ("START", "LOADING"):
        return fault(about, f"isn't ready yet: {where}", _NOT_READY)
    return fault(about, f"{where}: it was unloaded", "give another version, or restore this one")


def _refused(report: ServerReport, servable: Servable) -> Finding:
    if servable.label is not None and "label" in report.refusal:
        known = [f"{name} (version {number})" for name, number in report.labels.items()]
        return fault(
            report.about,
            f"has no label {servable.label!r} of {servable.name}; of the labels tried, it knows "
            f"{listed(known)}; its versions are {listed(report.versions or ())}",
            "give one of these, or set version_labels in the server's --model_config_file",
        )
    return fault(
        report.about,
        f"reports no signatures of {servable.name}: {clean(report.refusal, 160)}",
        "read the server's log",
    )


def _age(report: ServerReport, servable: Servable, local: LocalModel, newest: int) -> Iterator[Finding]:
    """Compare the newest served version with the newest on disk."""
    if not local.versions or servable.version is not None or servable.label is not None:
        return
    here = max(local.versions)
    states = {each.number: each for each in report.versions or ()}
    serves = f"serves {servable.name} version {newest}, and the newest on disk is {here}"
    if newest > here:
        which = "retired here" if newest in local.retired else "not on this disk"
        yield warning(
            report.about,
            f"{serves}: {newest} is {which}",
            "wait for the server's next poll, or check that its base path is this folder",
        )
    elif newest < here and here not in states:
        yield fault(
            report.about,
            f"{serves}, which the server doesn't know",
            "wait for its next poll (--file_system_poll_wait_seconds; 0: none), or check that its base path is this "
            "folder and that its model_version_policy includes the newest",
        )
    elif newest < here and states[here].code == "OK":
        state = states[here].state
        if state in ("START", "LOADING"):
            yield warning(report.about, f"{serves}, which is {state}", _NOT_READY)
        else:
            yield fault(
                report.about,
                f"{serves}, which is {state}: it was served and then unloaded",
                "check which versions the server's model_version_policy includes",
            )
