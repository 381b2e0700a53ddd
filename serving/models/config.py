"""Configuration of the served models: a checked ModelServerConfig from flags, a file or a reload request."""

import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from tfship.export.publishing import store
from tfship.export.storage import filesystems
from tfship.serving.protos import config_messages
from tfship.serving.protos.messages import model_server_config_pb2
from tfship.serving.protos.status import invalid
from tfship.train.common.errors import UsageError

__all__ = ["check_request", "models_in", "one_model", "parse_config", "read_config"]

PLATFORM = "tensorflow"
_FILE = re.compile(r"file://(?:localhost)?(?=/)")
_EXPECTED = 'model_config_list { config { name: "…" base_path: "…" model_platform: "tensorflow" } … }'


def one_model(name: str, base_path: str) -> Any:
    """Return the ModelServerConfig of `--model_name` and `--model_base_path`. Raises UsageError."""
    return _config({name: base_path}, "--model_base_path")


def models_in(folder: Path, otherwise: str = "--model_base_path=DIR or --model_config_file=FILE") -> Any:
    """Return the ModelServerConfig of all servables in `folder`.

    Raises UsageError, which says to pass the flags `otherwise`, if there are none.
    """
    names = store.servables(folder)
    if not names:
        raise UsageError(
            f"no model: {folder} holds no exported version; run `tfship export` first, or pass {otherwise}"
        )
    return _config({name: str(folder / name) for name in names}, str(folder))


def _config(base_paths: Mapping[str, str], source: str) -> Any:
    config = model_server_config_pb2.ModelServerConfig()
    for name, base_path in base_paths.items():
        config.model_config_list.config.add(name=name, base_path=base_path, model_platform=PLATFORM)
    _check(config, source)
    return config


def read_config(path: Path) -> Any:
    """Return the ModelServerConfig in the text file `path`, with absolute base paths or URLs. Raises UsageError."""
    flag = "--model_config_file"
    return parse_config(config_messages.read_text(path, flag), f"{flag}: {path}")


def parse_config(text: str, source: str) -> Any:
    """Return the ModelServerConfig in `text`, a text protobuf from `source`. Raises UsageError."""
    if not text.strip():
        raise UsageError(f"{source}: is empty; expected {_EXPECTED}")
    config = config_messages.parse(text, model_server_config_pb2.ModelServerConfig, source, _EXPECTED)
    _check(config, source)
    return config


def check_request(config: Any, known: Container[str] = ()) -> None:
    """Check the ModelServerConfig of a HandleReloadConfigRequest; `known` are the names of the served models.

    Base paths must be absolute, because clients don't know the server's working directory. Those that begin with
    `file://` are replaced by the path. Raises StatusError.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise invalid(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
            "supported"
        )
    names = set()
    for model in config.model_config_list.config:
        if model.name in names:
            raise invalid(_twice(model))
        names.add(model.name)
        if not model.model_platform and not model.model_type:
            raise invalid(_no_platform(model))
        model.base_path = _local(model.base_path)
        if not filesystems.is_url(model.base_path) and not Path(model.base_path).is_absolute():
            raise invalid(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )
        if model.model_platform not in ("", PLATFORM):
            if model.name not in known:
                raise invalid(_unsupported(model))
            raise invalid(
                f"Illegal to change a model's platform. For model {model.name} platform was {PLATFORM} and new "
                f"platform requested is {model.model_platform}"
            )
        try:
            _check_model(model, "reload")
        except UsageError as error:
            raise invalid(str(error)) from None


def _check(config: Any, source: str) -> None:
    if config.WhichOneof("config") == "custom_model_config":
        raise UsageError(f"{source}: custom_model_config is not supported; expected {_EXPECTED}")
    names = set()
    for model in config.model_config_list.config:
        model.base_path = _local(model.base_path)
        _check_model(model, source)
        if model.name in names:
            raise UsageError(f"{source}: {_twice(model)}")
        names.add(model.name)
        # TensorFlow Serving refuses relative paths. Here they are resolved, so that a config file can be moved together
        # with its models.
        if not filesystems.is_url(model.base_path):
            model.base_path = str(Path(model.base_path).absolute())
    if not names:
        raise UsageError(f"{source}: lists no model; expected {_EXPECTED}")


def _local(base_path: str) -> str:
    """Return the path in a `file://` URI, whose %-escapes TensorFlow doesn't decode, and other base paths unchanged."""
    return _FILE.sub("", base_path, count=1) if _FILE.match(base_path) else base_path


def _check_model(model: Any, source: str) -> None:
    if not model.name:
        raise UsageError(f"{source}: a model has no name; expected config {{ name: … }}")
    where = f"{source}: model {model.name}"
    if not model.base_path:
        raise UsageError(f"{where}: has no base_path; expected the directory that holds its versions")
    if "\0" in model.base_path:
        raise UsageError(f"{where}: base_path {model.base_path!r} contains a NUL character; expected a path")
    if filesystems.is_url(model.base_path):
        try:
            filesystems.check(model.base_path)
        except UsageError as error:
            raise UsageError(f"{where}: base_path {error}") from None
    tensorflow_type = model_server_config_pb2.ModelType.Value("TENSORFLOW")
    if not model.model_platform and not model.model_type:
        raise UsageError(f'{source}: {_no_platform(model)}; expected model_platform: "{PLATFORM}"')
    if model.model_platform and model.model_type:
        raise UsageError(
            f"{where}: sets both model_platform and the deprecated model_type; keep model_platform"
        )
    if model.model_platform != PLATFORM and model.model_type != tensorflow_type:
        raise UsageError(f'{source}: {_unsupported(model)}; expected "{PLATFORM}"')
    if model.HasField("logging_config"):
        raise UsageError(f"{where}: logging_config is not supported; remove it")
    policy = model.model_version_policy
    if policy.WhichOneof("policy_choice") == "specific" and not policy.specific.versions:
        raise UsageError(f"{where}: model_version_policy.specific lists no versions; expected at least one")


# TensorFlow Serving's messages, for the start and for reloads.


def _twice(model: Any) -> str:
    return f"Illegal to list model {model.name} multiple times in config list"


def _no_platform(model: Any) -> str:
    return (
        "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform, "
        f"model name is {model.name}"
    )


def _unsupported(model: Any) -> str:
    return f"Model {model.name} requests unsupported platform {model.model_platform}"
