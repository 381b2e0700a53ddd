"""Checks of the --model_config_file that a server was started with."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tfship.client.doctor.findings import Finding, fault, listed, ok
from tfship.client.doctor.model_directory import LocalModel
from tfship.client.targets.connection import Servable
from tfship.train.common.errors import UsageError

__all__ = ["ServerConfig", "on_disk", "read"]


@dataclass(frozen=True)
class ServerConfig:
    """A --model_config_file: the names of all models, and labels and version policy of the checked one."""

    path: Path
    models: tuple[str, ...]
    labels: tuple[str, ...]
    policy: object


def read(path: Path | None, servable: Servable) -> tuple[ServerConfig | None, list[Finding]]:
    """Return the file's content, None if there is none or it is invalid, and its problems for a servable.

    Raises UsageError if the file doesn't exist.
    """
    if path is None:
        return None, []
    if not path.is_file():
        raise UsageError(f"--model_config_file: {path}: no such file")
    from tfship.serving.models.config import read_config

    about = str(path)
    try:
        models = {each.name: each for each in read_config(path).model_config_list.config}
    except UsageError as error:
        words = str(error).removeprefix("--model_config_file: ").removeprefix(f"{path}:").strip()
        return None, [fault(about, words, "correct the file: a server doesn't start with it")]
    chosen = models.get(servable.name)
    if chosen is None:
        finding = fault(
            about,
            f"lists no model {servable.name}, but {listed(list(models))}",
            "give one of these by --model, or add the model to the file",
        )
        return ServerConfig(path, tuple(models), (), None), [finding]
    config = ServerConfig(path, tuple(models), tuple(chosen.version_labels), chosen.model_version_policy)
    findings = []
    if servable.label is not None and servable.label not in chosen.version_labels:
        labels = [f"{label} (version {number})" for label, number in sorted(chosen.version_labels.items())]
        findings.append(
            fault(
                about,
                f"gives {servable.name} no label {servable.label!r}, but {listed(labels)}",
                "add it there",
            )
        )
    return config, findings or [ok(about, f"lists {listed(list(models))}")]


def on_disk(config: ServerConfig | None, servable: Servable, local: LocalModel) -> Iterator[Finding]:
    """Yield a fault if the config's version policy excludes the requested version, or the newest on disk."""
    if config is None or config.policy is None or not local.versions:
        return
    from tfship.serving.models.version_policy import choose

    chosen = choose(config.policy, local.versions)
    wanted = servable.version if servable.version is not None else max(local.versions)
    if wanted not in chosen:
        yield fault(
            str(config.path),
            f"its model_version_policy of {servable.name} selects {listed(list(chosen))} of the versions on disk, "
            f"not {wanted}",
            f"add {wanted} to model_version_policy, or set it to latest {{}} or all {{}}",
        )
