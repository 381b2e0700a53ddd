"""Configs that a server applies: version policies, labels, reloads, and what is refused at the start."""

from pathlib import Path
from typing import Any

import pytest

from serving_fixtures import TFLITE, Client, config_of, eventually, publish, serving, tflite_times
from serving_fixtures import asked as _asked
from serving_fixtures import factor as _factor
from tfship.serving.models.config import parse_config, read_config
from tfship.serving.models.config_watcher import ConfigFile
from tfship.serving.models.manager import LoadPolicy
from tfship.serving.protos.messages import model_management_pb2
from tfship.serving.server.model_server import Settings
from tfship.train.common.errors import ArtifactError

SETTINGS = Settings(loader=TFLITE)


def _config(folder: Path, policy: str) -> str:
    return (
        f'model_config_list {{ config {{ name: "m" base_path: "{folder}" model_platform: "tensorflow" '
        f"{policy} }} }}"
    )


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", {"3"}),
        ("model_version_policy { latest { num_versions: 2 } }", {"2", "3"}),
        ("model_version_policy { all {} }", {"1", "2", "3"}),
        ("model_version_policy { specific { versions: 1 versions: 3 } }", {"1", "3"}),
    ],
)
def test_policies(tmp_path: Path, policy: str, served: set[str]) -> None:
    for version in (1, 2, 3):
        publish(tmp_path, version)
    with serving(parse_config(_config(tmp_path, policy), "test"), SETTINGS) as client:
        assert client.states("m") == dict.fromkeys(served, "AVAILABLE")
        for number in served:
            assert _factor(client, f"m/versions/{number}") == float(number)


def test_labels(tmp_path: Path) -> None:
    for version in (1, 2):
        publish(tmp_path, version)
    policy = (
        'model_version_policy { all {} } version_labels { key: "stable" value: 1 } '
        'version_labels { key: "next" value: 3 }'
    )
    config = parse_config(_config(tmp_path, policy), "test")
    with pytest.raises(ArtifactError, match="label next names version 3"), serving(config, SETTINGS):
        pass
    with serving(config, SETTINGS, LoadPolicy(0.05, labels_for_unavailable=True)) as client:
        assert _factor(client, "m/labels/stable") == 1.0
        assert client.rest("/v1/models/m/labels/next:predict", {"instances": [[1, 0]]})[0] == 404
        publish(tmp_path, 3)
        eventually(lambda: client.states("m").get("3") == "AVAILABLE")
        assert _factor(client, "m/labels/next") == 3.0


def test_start_names_what_is_wrong(tmp_path: Path) -> None:
    def refusal(config: object) -> str:
        with pytest.raises(ArtifactError) as error, serving(config, SETTINGS):
            pass
        return str(error.value)

    assert f"{tmp_path}/none: no such directory; run `tfship export`" in refusal(
        config_of(m=tmp_path / "none")
    )
    assert f"{tmp_path}: holds no integer-named version directory; run `tfship export`" in refusal(
        config_of(m=tmp_path)
    )
    publish(tmp_path, 1, b"broken")
    assert "model m version 1 can't be loaded" in refusal(config_of(m=tmp_path))
    specific = _config(tmp_path, "model_version_policy { specific { versions: 9 } }")
    assert "none of the versions" in refusal(parse_config(specific, "test"))


def _reload(client: Client, text: str) -> None:
    request = model_management_pb2.ReloadConfigRequest(config=parse_config(text, "test"))
    assert client.call("HandleReloadConfigRequest", request).status.error_code == 0


def _file_of(folder: Path, name: str) -> Path:
    """Write the config file in `folder`: the model m, with the base path `name` there."""
    file = folder / "models.config"
    file.write_text(f"model_config_list {{ {_entry('m', folder / name)} }}")
    return file


def _entry(name: str, path: Path, more: str = "") -> str:
    return f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" {more} }}'


def test_a_reload_moves_a_model_without_a_failed_request(tmp_path: Path) -> None:
    """The same version number from another place, a model more, a model less; asked all the time."""
    old, new, other = (tmp_path / name for name in ("old", "new", "other"))
    publish(old, 1)
    publish(other, 3)
    publish(new, 1, tflite_times(5))
    with serving(config_of(m=old), SETTINGS) as client, _asked(client) as seen:
        _reload(client, f"model_config_list {{ {_entry('m', new)} {_entry('n', other)} }}")
        assert (_factor(client), _factor(client, "n")) == (5.0, 3.0)
        _reload(client, f"model_config_list {{ {_entry('m', new)} }}")
        assert client.states("n") == {"3": "END"}
        assert client.rest("/v1/models/n:predict", {"instances": [[1, 0]]})[0] == 404
        # What was taken out may come back, and versions are still looked for.
        _reload(client, f"model_config_list {{ {_entry('m', new)} {_entry('n', other)} }}")
        assert _factor(client, "n") == 3.0
        publish(other, 4)
        eventually(lambda: _factor(client, "n") == 4.0)
        after = len(seen)
        eventually(lambda: len(seen) > after + 5)
    assert seen == sorted(seen)
    assert set(seen) == {1.0, 5.0}


def test_a_reload_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    good, broken, empty = (tmp_path / name for name in ("good", "broken", "empty"))
    publish(good, 1)
    publish(broken, 1, b"no model")
    empty.mkdir()
    with serving(config_of(m=good), SETTINGS) as client:
        for path, reason in (
            (broken, "can't be loaded"),
            (empty, "holds no integer-named"),
            (tmp_path / "x", "no such"),
        ):
            request = model_management_pb2.ReloadConfigRequest(
                config=parse_config(
                    f"model_config_list {{ {_entry('n', good)} {_entry('o', path)} }}", "test"
                )
            )
            code, details = client.refusal("HandleReloadConfigRequest", request)
            assert code == "FAILED_PRECONDITION"
            assert reason in details
            assert _factor(client) == 1.0
            assert client.rest("/v1/models/n")[0] == 404


def test_labels_move_by_a_reload_to_what_is_available(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    publish(tmp_path, 2)
    policy = "model_version_policy { all {} }"
    with serving(config_of(m=tmp_path), SETTINGS) as client:
        _reload(client, f"model_config_list {{ {_entry('m', tmp_path, policy)} }}")
        assert client.states("m") == {"1": "AVAILABLE", "2": "AVAILABLE"}
        for number in (1, 2):
            label = f'version_labels {{ key: "stable" value: {number} }}'
            _reload(client, f"model_config_list {{ {_entry('m', tmp_path, policy + label)} }}")
            assert _factor(client, "m/labels/stable") == number


def test_a_config_file_is_looked_at_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    publish(tmp_path / "one", 1)
    publish(tmp_path / "two", 2)
    file = _file_of(tmp_path, "one")
    settings = Settings(loader=TFLITE, config_file=file, config_poll_seconds=0.05)
    with serving(read_config(file), settings) as client:
        assert _factor(client) == 1.0
        file.write_text("not a config")
        eventually(lambda: "but is ignored" in caplog.text)
        assert _factor(client) == 1.0
        _file_of(tmp_path, "two")
        eventually(lambda: _factor(client) == 2.0)


def test_a_config_file_that_is_refused_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path / "one", 1)
    file = _file_of(tmp_path, "one")
    settings = Settings(loader=TFLITE, config_file=file, config_poll_seconds=0.05)
    with serving(read_config(file), settings) as client:
        _file_of(tmp_path, "two")
        eventually(lambda: "two: no such directory" in caplog.text)
        publish(tmp_path / "two", 2)
        eventually(lambda: _factor(client) == 2.0)
    # One line for all tries with the same error.
    assert caplog.text.count("but is ignored") <= 2


def test_a_config_file_that_changes_during_the_start_is_applied(tmp_path: Path) -> None:
    publish(tmp_path / "one", 1)
    publish(tmp_path / "two", 2)
    file = _file_of(tmp_path, "one")
    config = read_config(file)
    _file_of(tmp_path, "two")
    settings = Settings(loader=TFLITE, config_file=file, config_poll_seconds=0.05)
    with serving(config, settings) as client:
        eventually(lambda: _factor(client) == 2.0)


def test_an_unexpected_error_does_not_end_the_watch_of_a_config_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path / "one", 1)
    file = _file_of(tmp_path, "one")
    seen: list[Any] = []

    def reload(config: Any) -> None:
        seen.append(config)
        if len(seen) == 1:
            raise MemoryError("no memory")

    watcher = ConfigFile(file, 0.01, reload, parse_config(_config(tmp_path, ""), "test"))
    watcher.start()
    eventually(lambda: len(seen) == 2)
    watcher.stop()
    assert seen == [read_config(file)] * 2
    assert "unexpected MemoryError: no memory" in caplog.text


def test_a_model_that_is_removed_before_it_is_loaded_ends(tmp_path: Path) -> None:
    publish(tmp_path / "m", 1)
    publish(tmp_path / "n", 1)
    loading = LoadPolicy(poll_seconds=0.05, retries=1000, retry_seconds=3600)
    with serving(config_of(m=tmp_path / "m", n=tmp_path / "n"), SETTINGS, loading) as client:
        publish(tmp_path / "n", 2, b"no model")
        eventually(lambda: client.states("n") == {"2": "LOADING", "1": "AVAILABLE"})
        _reload(client, f"model_config_list {{ {_entry('m', tmp_path / 'm')} }}")
        assert client.states("n") == {"2": "END", "1": "END"}
        status = client.rest("/v1/models/n/versions/2")[1]["model_version_status"][0]["status"]
        assert "LiteRT can't load it" in status["error_message"]
