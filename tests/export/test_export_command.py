"""The command `tfship export`: version numbers, blessing, `tfship versions`, and exports that are killed."""

import json
import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from processes import Forked, command, forked
from tfship.export import versions_command
from tfship.export.command import main
from tfship.export.conversion import formats
from tfship.export.preprocessing import input_contract
from tfship.export.publishing import cards, store
from tfship.train.common import cli
from tfship.train.data.datasets import Digits


def export(folder: Path, *arguments: str) -> int:
    return cli.run(main, [*arguments, "--models", str(folder)])


def versions(folder: Path, *arguments: str) -> int:
    return cli.run(versions_command.main, [*arguments, "--models", str(folder)])


@pytest.fixture
def trained(tmp_path: Path, models: Path) -> Path:
    """A folder of its own with the trained nn, not yet exported."""
    for name in ("nn.keras", "nn.card.json"):
        (tmp_path / name).write_bytes((models / name).read_bytes())
    return tmp_path


def export_tiny(folder: Path, *arguments: str) -> int:
    own = [f"--{flag}={folder / 'eval.npz'}" for flag in ("eval", "calibration")]
    return export(folder, str(folder / "tiny.keras"), *own, *arguments)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network that is exported in a second, its images, and its first version in float32."""
    import keras

    folder = tmp_path_factory.mktemp("first")
    keras.utils.set_random_seed(1)
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential(layers)
    # Sure of itself, so that int8 decides as it does.
    model.layers[-1].kernel.assign(model.layers[-1].kernel * 8)
    model.save(folder / "tiny.keras")
    images = np.random.default_rng(0).integers(0, 256, (1000, 8, 8, 1), np.uint8)
    classes = model.predict(images.astype(np.float32) / 255, verbose=0).argmax(1)
    classes[::20] = (classes[::20] + 1) % 3  # so that 50 answers are wrong
    np.savez(folder / "eval.npz", x=images, y=classes)
    assert export_tiny(folder, "--formats", "float32") == 0
    return folder


@pytest.fixture
def exported(tmp_path: Path, first: Path) -> Path:
    """A copy of `first` of its own."""
    shutil.copytree(first, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_versions_count_up_and_up_to_date_is_left_alone(
    exported: Path, models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export(models, "nn") == 0
    assert "nn/1 is up to date" in capsys.readouterr().err
    assert export_tiny(exported, "--formats", "float32") == 0
    assert "tiny/1 is up to date" in capsys.readouterr().err
    # More formats than there are: a new version.
    assert export_tiny(exported, "--formats", "float32,int8", "--json") == 0
    (card,) = json.loads(capsys.readouterr().out)
    assert [each["format"] for each in card["artefacts"]] == ["savedmodel", "float32", "int8"]
    assert list(store.versions(exported / "tiny")) == [1, 2]
    # Damage is noticed by the hash.
    path = exported / "tiny" / "2" / "tflite" / "int8.tflite"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert export_tiny(exported, "--formats", "float32") == 0
    assert list(store.versions(exported / "tiny")) == [1, 2, 3]
    # So is a contract by which pictures were prepared otherwise.
    newest = store.latest(exported / "tiny")
    made = cards.read(newest)
    asked = (made.request, [formats.FORMATS["float32"]], None, made.blessing["gate"])
    assert cards.up_to_date(exported / "tiny", *asked, force=False) == newest
    monkeypatch.setattr(input_contract, "SCHEMA", input_contract.SCHEMA + 1)
    assert cards.up_to_date(exported / "tiny", *asked, force=False) is None


def test_other_data_than_the_training_data_is_refused(
    trained: Path, sample: Digits, capsys: pytest.CaptureFixture[str]
) -> None:
    other = trained / "other.npz"
    np.savez(
        other, x_train=sample.x_train, y_train=sample.y_train, x_test=sample.x_train, y_test=sample.y_train
    )
    assert export(trained, "nn", "--data", str(other)) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert "nn.keras was trained on sample: 5,000 digits" in error
    assert not (trained / "nn").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nm"], 2, "nm: no such network or file; expected nn, cnn, a Keras file"),
        (["nn", "--labels", "x"], 2, "--labels: only for your own model"),
        (["nn", "--serve", "int8", "--formats", "float32"], 2, "--serve int8: not among the formats"),
        (["nn", "--max-drop", "2"], 2, "--max-drop 2: expected a share"),
        (["--formats", "int4"], 2, "unknown format: int4; expected float32, dynamic"),
        (["cnn"], 4, "cnn.keras: no such file; run `tfship train` first"),
    ],
)
def test_wrong_arguments(
    trained: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert export(trained, *arguments) == code
    assert message in capsys.readouterr().err.splitlines()[-1]


def says(process: Forked, words: str) -> bool:
    return words in process.error


def test_killed_exports_leave_whole_versions_only(exported: Path) -> None:
    """Killed at a random moment while the SavedModel is written, while a format is, and just before publication."""
    base, generator = exported / "tiny", random.Random(0)
    source = (str(exported / "tiny.keras"), "--eval", str(exported / "eval.npz"))
    arguments = (*source, "--formats", "float32", "--new")
    killed = 0
    for done, seconds in (("original", 1.0), ("savedmodel", 1.0), ("float32", 0.0)):
        with forked(command, "export", *arguments, "--models", str(exported)) as process:
            process.reaches(partial(says, process, f"tiny {done}:"))
            time.sleep(seconds * generator.random())
            killed += process.kill() == -signal.SIGKILL
        for version in store.versions(base).values():
            assert cards.damage(version) == []
    assert killed, "every export had ended before it was killed"
    finished = len(store.versions(base))
    assert export(exported, *arguments) == 0
    # No number was lost to one that didn't finish, and no stage is left.
    names = list(range(1, finished + 2))
    assert list(store.versions(base)) == names
    assert sorted(path.name for path in base.iterdir()) == list(map(str, names))


def test_what_is_not_blessed_is_not_published(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(exported / "tiny")  # the first version, which is blessed
    strict = ["--formats", "float32", "--min-accuracy", "0.999"]
    assert export_tiny(exported, *strict) == 6
    error = capsys.readouterr().err.splitlines()[-1]
    assert (
        "tiny: not blessed, so nothing was published: the model itself fails: model: accuracy: 0.95" in error
    )
    assert "--force publishes it and records that" in error
    assert list((exported / "tiny").iterdir()) == []
    record = json.loads((exported / "tiny.not-blessed.json").read_text())
    assert (record["blessed"], record["gate"]["min_accuracy"]) == (False, 0.999)
    assert record["why_not"] == ["model: accuracy: 0.9500, expected at least 0.9990"]

    assert export_tiny(exported, *strict, "--force") == 0
    card = cards.read(store.latest(exported / "tiny"))
    assert (card.blessing["blessed"], card.blessing["forced"]) == (False, True)
    assert not (exported / "tiny.not-blessed.json").exists()
    # A forced version is no measure for the next one, and isn't taken for up to date.
    assert export_tiny(exported, "--formats", "float32") == 0
    assert cards.read(exported / "tiny" / "2").blessing["blessed"]


def test_a_worse_version_is_held_against_the_last_blessed_one(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = exported / "tiny" / "1" / cards.CARD
    card = cards.read(path.parent)
    for artefact in card.artefacts:
        artefact["accuracy"] |= {"value": 0.98, "correct": 980}  # as if the version before had been better
    card.write(path.parent)
    assert export_tiny(exported, "--formats", "float32", "--new") == 6
    assert "accuracy relative to the last blessed version" in capsys.readouterr().err
    assert export_tiny(exported, "--formats", "float32", "--new", "--max-drop", "0.04") == 0


def test_versions_are_listed_verified_rolled_back_and_restored(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def done(*arguments: str) -> str:
        assert versions(exported, *arguments) == 0
        return capsys.readouterr().out

    shutil.copytree(exported / "tiny" / "1", exported / "tiny" / "2")
    assert "tiny/1; `restore` brings back " in done("rollback", "tiny")
    listed = json.loads(done("list", "--json"))
    assert [(row["version"], row["state"]) for row in listed] == [(1, "in service"), (2, "retired")]
    assert "retired" in done("list")
    assert "tiny/2 is in service again" in done("restore", "tiny")
    # How a server is to batch requests is for its operator to add.
    (exported / "tiny" / "2" / input_contract.BATCHING).write_text("max_batch_size { value: 8 }")
    assert done("verify").count("unchanged since it was published") == 2
    assert "version 1 is out of service" in done("retire", "tiny", "1")
    # One flipped bit anywhere is found.
    path = exported / "tiny" / "2" / "variables" / "variables.data-00000-of-00001"
    damaged = bytearray(path.read_bytes())
    damaged[100] ^= 1
    path.write_bytes(damaged)
    assert versions(exported, "verify", "tiny", "2") == 6
    assert "variables/variables.data-00000-of-00001 was changed" in capsys.readouterr().out
    card = exported / "tiny" / "retired-1" / cards.CARD
    card.write_text(card.read_text().replace('"blessed": true', '"blessed": false'))
    assert versions(exported, "verify", "tiny") == 6
    assert "export.json: was changed since it was written" in capsys.readouterr().out
    assert versions(exported, "retire", "tiny", "7") == 4
    assert versions(exported, "list", "cnn") == 4


def test_model_tflite_is_written_for_tensorflow_serving_on_demand(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export_tiny(exported, "--formats", "int8", "--serve", "int8") == 0
    version = store.latest(exported / "tiny")
    assert (version / "model.tflite").read_bytes() == (version / "tflite" / "int8.tflite").read_bytes()
    card = cards.read(version)
    assert card.serves == "int8"
    # Its server fails on warm-up requests for signatures that the file lacks.
    assert card.warmup == ["serving_default"]
    assert export_tiny(exported, "--formats", "int8", "--serve", "int8") == 0
    assert "2 is up to date" in capsys.readouterr().err
    assert export_tiny(exported, "--formats", "int8") == 0
    assert list(store.versions(exported / "tiny")) == [1, 2, 3]


def test_publish_uploads_each_version_once(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A shared folder is a storage, too; tests/export/storage has an S3 server."""
    url = f"file://{exported}/shared"
    wanted = ("--formats", "float32", "--publish", url)
    assert export_tiny(exported, *wanted) == 0
    assert f"tiny: published {url}/tiny/1" in capsys.readouterr().err
    assert cards.damage(exported / "shared" / "tiny" / "1") == []
    assert export_tiny(exported, *wanted) == 0
    assert f"tiny: {url}/tiny/1 is up to date" in capsys.readouterr().err
    assert export_tiny(exported, *wanted, "--new") == 0
    assert f"tiny: published {url}/tiny/2" in capsys.readouterr().err
    shutil.rmtree(exported / "tiny")
    assert export_tiny(exported, *wanted) == 0
    assert f"tiny: published {url}/tiny/3" in capsys.readouterr().err
    assert sorted(path.name for path in (exported / "shared" / "tiny").iterdir()) == ["1", "2", "3"]


@pytest.mark.parametrize("url", ["models", "http://host/models", "s3://"])
def test_other_places_to_publish_to_are_refused_at_once(
    exported: Path, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    assert export_tiny(exported, "--new", "--publish", url) == 2
    assert "expected" in capsys.readouterr().err
    assert list(store.versions(exported / "tiny")) == [1]


def test_a_version_is_written_as_an_image(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(exported, "oci", "tiny", "--out", str(exported / "tiny.tar")) == 0
    assert "tiny version 1 in /models/1, sha256:" in capsys.readouterr().out
    assert (exported / "tiny.tar").is_file()
    assert export(exported, "oci", "other", "--out", str(exported / "other.tar")) == 2
    assert not (exported / "other.tar").exists()
