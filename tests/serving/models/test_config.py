"""Config files and flags."""

from pathlib import Path

import pytest

from conftest import ROOT
from tfship.serving.command import model_server as main
from tfship.serving.models import config
from tfship.serving.protos.status import Code, StatusError
from tfship.serving.server import flag_settings, flags
from tfship.train.common import cli
from tfship.train.common.errors import UsageError

SERVING = ROOT / "serving"

MODEL = 'config { name: "a" base_path: "/x" model_platform: "tensorflow" }'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("model_config_list { }", "lists no model"),
        (
            "model_config_list { nonsense: 1 }",
            r'^test:1:21: not a ModelServerConfig .*"tensorflow.serving.ModelConfigList" has no field named "nonsense"',
        ),
        (
            'model_config_list {\n  config { nme: "a" }\n}',
            r'^test:2:12: .*ModelConfig" has no field named "nme"',
        ),
        ("model_config_list {", 'Expected "}"'),
        ("\0", "not a ModelServerConfig"),
        ("model_config_list { config { name: 5 } }", "Expected string"),
        (f"model_config_list {{ {MODEL} }} custom_model_config {{ }}", "another member of oneof"),
        (f"model_config_list {{ {MODEL} {MODEL} }}", "multiple times"),
        ('model_config_list { config { base_path: "/x" model_platform: "tensorflow" } }', "no name"),
        ('model_config_list { config { name: "a" model_platform: "tensorflow" } }', "no base_path"),
        (
            r'model_config_list { config { name: "a" base_path: "/a\000b" model_platform: "tensorflow" } }',
            "contains a NUL",
        ),
        (
            'model_config_list { config { name: "a" base_path: "/x" } }',
            "neither ModelServerConfig::model_type",
        ),
        (
            'model_config_list { config { name: "a" base_path: "/x" model_platform: "foo" } }',
            "unsupported platform foo",
        ),
        (
            'model_config_list { config { name: "a" base_path: "ftp://x" model_platform: "tensorflow" } }',
            "expected a URL that begins with s3://",
        ),
        (
            'model_config_list { config { name: "a" base_path: "file://host/x" model_platform: "tensorflow" } }',
            "expected an absolute path after ://",
        ),
        (
            f"model_config_list {{ {MODEL[:-1]} model_version_policy {{ specific {{ }} }} }} }}",
            "lists no versions",
        ),
        (f"model_config_list {{ {MODEL[:-1]} logging_config {{ }} }} }}", "logging_config"),
        ("custom_model_config { }", "custom_model_config"),
    ],
)
def test_bad_configs(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config.parse_config(text, "test")


@pytest.mark.parametrize(
    ("base_path", "expected"),
    [
        ("file:///models/a", "/models/a"),
        ("file://localhost/models/a", "/models/a"),
        ("file:///models/a%20b", "/models/a%20b"),
        ("/models/file:///a", "/models/file:/a"),
    ],
)
def test_file_uris(base_path: str, expected: str) -> None:
    assert config.one_model("a", base_path).model_config_list.config[0].base_path == expected
    text = f'model_config_list {{ config {{ name: "a" base_path: "{base_path}" model_platform: "tensorflow" }} }}'
    parsed = config.parse_config(text, "test")
    assert parsed.model_config_list.config[0].base_path == expected
    request = config.parse_config(text, "test")
    request.model_config_list.config[0].base_path = base_path
    config.check_request(request)
    assert Path(request.model_config_list.config[0].base_path) == Path(expected)


@pytest.mark.parametrize("base_path", ["file://host/x", "file://", "FILE:///x", "gs:///x", "hdfs://x/y"])
def test_other_urls_of_a_reload(base_path: str) -> None:
    request = config.parse_config(f"model_config_list {{ {MODEL} }}", "test")
    request.model_config_list.config[0].base_path = base_path
    with pytest.raises(StatusError, match="expected") as refused:
        config.check_request(request)
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_config_files_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        config.read_config(tmp_path / "none.config")
    (tmp_path / "binary.config").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not a text file"):
        config.read_config(tmp_path / "binary.config")


def test_relative_paths_are_resolved_and_the_old_model_type_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert config.one_model("a", "models/nn").model_config_list.config[0].base_path == f"{tmp_path}/models/nn"
    text = 'model_config_list { config { name: "a" base_path: "/x" model_type: TENSORFLOW } }'
    assert config.parse_config(text, "test").model_config_list.config[0].base_path == "/x"


def test_both_config_files_serve_the_same_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    container = config.read_config(SERVING / "models.config").model_config_list.config
    local = config.read_config(SERVING / "models.local.config").model_config_list.config
    assert [(each.name, each.base_path) for each in container] == [
        ("nn", "/models/nn"),
        ("cnn", "/models/cnn"),
    ]
    assert [(each.name, each.base_path) for each in local] == [
        ("nn", f"{ROOT}/models/nn"),
        ("cnn", f"{ROOT}/models/cnn"),
    ]


@pytest.mark.parametrize("name", flags.IGNORED)
def test_flags_that_make_no_difference_are_accepted_and_named(name: str) -> None:
    neutral, reason = flags.IGNORED[name]
    assert flags.ignored(flags.parse([])) == flags.ignored(flags.parse([f"--{name}={neutral}"])) == []
    other = {False: "true", True: "false"}[neutral] if isinstance(neutral, bool) else "7"
    for argv in ([f"--{name}={other}"], [f"--{name}", other], [f"-{name}={other}"]):
        assert flags.ignored(flags.parse(argv)) == [f"--{name}: accepted and ignored: {reason}"]


def test_ignored_flags_are_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    argv = ["--enable_profiler", "--mixed_precision=bfloat16", "--model_base_path=/none", "--port=-1"]
    assert cli.run(main, argv) == 4
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "--enable_profiler: accepted and ignored: there is no profiler service"
    assert lines[1].startswith("--mixed_precision: accepted and ignored: ")


def test_flags_in_all_of_their_forms() -> None:
    parse = flags.parse
    assert parse(["--port=1", "--rest_api_port", "2"]).rest_api_port == 2
    assert parse(["-port=1", "-rest_api_port", "2"]).rest_api_port == 2
    assert parse(["--port", "-1", "--load_retry_interval_micros", "-12"]).load_retry_interval_micros == -12
    for argv in (
        ["--prefer_tflite_model"],
        ["--prefer_tflite_model=true"],
        ["--prefer_tflite_model", "--port=1"],
    ):
        assert parse(argv).prefer_tflite_model is True
    assert parse(["--prefer_tflite_model=false"]).prefer_tflite_model is False
    settings = flag_settings.settings(
        parse(
            [
                "--port=-1",
                "--load_retry_interval_micros=500000",
                "--file_system_poll_wait_seconds=0",
                "--tensorflow_session_parallelism=3",
                "--grpc_max_threads=5",
            ]
        )
    )
    assert (settings.grpc_port, settings.grpc_threads, settings.loader.threads) == (-1, 5, 3)
    assert (settings.loading.retry_seconds, settings.loading.poll_seconds) == (0.5, 0)


@pytest.mark.parametrize(
    "argv",
    [
        ["--foo=1"],
        ["stray"],
        ["-foo=1"],
        ["-p=1"],
        ["--port=x"],
        ["--enable_profiler=maybe"],
        ["--num_tflite_pools=many"],
        ["--port=70000"],
        ["--prefer_tflite_model=maybe"],
        ["--file_system_poll_wait_seconds=-1"],
    ],
)
def test_unknown_flags_and_values_are_wrong_usage(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([*argv, "--model_base_path=x"])
    assert end.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 2  # a short usage and the error


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        ([], 2, "no model: pass --model_base_path"),
        (["--model_base_path=/none", "--port=0"], 2, "--port=0"),
        (["--model_base_path=/none", "--use_alts_credentials"], 2, "--use_alts_credentials: not supported"),
        (["--model_base_path=/none", "--batching_parameters_file=/x"], 2, "is set without --enable_batching"),
        (
            ["--model_base_path=/none", "--enable_batching", "--batching_parameters_file=/x"],
            2,
            "/x: No such file",
        ),
        (["--model_base_path=/none", "--port=-1"], 4, "/none: no such directory"),
        (["--model_base_path=/none", "--port=7", "--rest_api_port=7"], 2, "both 7"),
        (["--model_config_file=/none.config"], 2, "/none.config"),
        (["--model_base_path=/none", "--port=-1", "--host=no host"], 2, "--host no host"),
    ],
)
def test_errors_are_one_line(
    argv: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(main, argv) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for name in (
        *flags.IGNORED,
        "enable_batching",
        "port",
        "rest_api_port",
        "model_base_path",
        "ready_file",
        "version",
    ):
        assert f"--{name}" in shown
