"""`tfship score` in this process: its rows, columns and exit codes."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from client_fixtures import RELEASED_MODELS, SEVEN
from client_fixtures import run as predict
from tfship.client.score import command
from tfship.export.preprocessing import input_contract
from tfship.export.preprocessing.input_contract import Contract, Scaling
from tfship.train.common import cli, tensorflow_loader
from tfship.train.common.files import sha256, write_json

MODEL = RELEASED_MODELS / "cnn.int8.tflite"
TARGET = f"--target=tflite:{MODEL}"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with folders in it, valid images and invalid ones."""
    folder = tmp_path / "images"
    shutil.copytree(SEVEN.parent, folder / "b")
    shutil.copytree(SEVEN.parent, folder / "a" / "deep")
    (folder / "a" / "empty.png").touch()
    (folder / "a" / "text.jpg").write_text("no image")
    (folder / "a" / "half.png").write_bytes(SEVEN.read_bytes()[:200])
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "seven.png").write_bytes(SEVEN.read_bytes())
    (folder / "notes.txt").write_text("not taken from folders")
    return folder


def score(*arguments: object) -> int:
    return cli.run(command.main, [TARGET, *map(str, arguments)])


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return found


def test_rows_are_the_answers_of_predict(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.parquet"
    assert score(images, SEVEN, "--out", out, "--top=3", "--batch=4", "--part-rows=6", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    found = rows(out)
    names = sorted(str(path) for path in images.glob("[ab]/**/*") if path.suffix in (".png", ".jpg"))
    assert [each["path"] for each in found] == [*names, str(SEVEN)]
    assert (summary["images"], summary["errors"], summary["resumed"]) == (len(found), 3, 0)
    assert set(summary["seconds_by_phase"]) == {"read", "prepare", "infer", "table", "write"}

    assert predict(TARGET, "--json", "--top=3", *(each["path"] for each in found)) == 3
    expected = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for row, each in zip(found, expected, strict=True):
        if row["error"] is not None:
            assert each == {"image": row["path"], "error": f"{row['path']}: {row['error']}"}
            assert not any(row[name] for name in ("label", "probability", "score", "top"))
            continue
        assert (row["path"], row["label"]) == (each["image"], each["label"])
        # A batch's composition changes the last bit of some sums.
        assert row["probability"] == row["score"] == pytest.approx(each["probability"], abs=1e-6)
        assert [best["label"] for best in row["top"]] == [best["label"] for best in each["top"]]
        scores = [best["score"] for best in row["top"]]
        assert scores == pytest.approx([best["probability"] for best in each["top"]], abs=1e-6)


def test_the_file_names_its_model(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.parquet"
    assert score(images, "--out", out) == 0
    table = parquet.read_schema(out)
    about = json.loads(table.metadata[b"tfship"])
    assert about["model"] == "cnn"
    assert about["file"] == MODEL.name
    assert about["sha256"] == sha256(MODEL)
    assert about["scores"] == "probabilities"
    assert {"version", "target", "signature", "contract_sha256", "top", "tfship"} < set(about)
    assert table.names == ["path", "label", "probability", "score", "top", "error"]
    assert not out.with_name("scores.parquet.parts").exists()


def test_threads_and_parts_change_no_row(images: Path, tmp_path: Path) -> None:
    tables = []
    for number, how in enumerate((["--workers=1"], ["--workers=3", "--part-rows=2"])):
        out = tmp_path / f"{number}.parquet"
        assert score(images, "--batch=2", "--out", out, *how) == 0
        tables.append(parquet.read_table(out))
    assert tables[0].equals(tables[1])


def test_independent_labels(tmp_path: Path) -> None:
    contract = {**input_contract.digits("cnn").describe(), "outputs": "independent"}
    write_json(tmp_path / "contract.json", contract)
    out = tmp_path / "scores.parquet"
    assert score(SEVEN, "--contract", tmp_path / "contract.json", "--out", out) == 0
    (row,) = rows(out)
    assert (row["label"], row["labels"]) == ("7", ["7"])
    assert row["probability"] == row["score"]
    assert json.loads(parquet.read_schema(out).metadata[b"tfship"])["scores"] == "independent"


@pytest.fixture(scope="module")
def shaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A SavedModel whose outputs for bright images sum to 1, and for dark ones don't; an image and two dark ones."""
    tf: Any = tensorflow_loader.tensorflow()
    folder = tmp_path_factory.mktemp("shaded")

    def call(image: Any) -> dict[str, Any]:
        bright = tf.reduce_mean(image, [1, 2, 3])
        return {"scores": tf.stack([bright, tf.zeros_like(bright), tf.zeros_like(bright)], 1)}

    module = tf.Module()
    module.call = tf.function(call, input_signature=[tf.TensorSpec([None, 28, 28, 1], tf.float32, "image")])
    tf.saved_model.save(module, str(folder / "model"), signatures={"serving_default": module.call})
    contract = Contract("m", ("a", "b", "c"), 28, 28, 1, Scaling.of_range(0, 1, 1), "resize")
    write_json(folder / "contract.json", contract.describe())
    images = []
    for name, value in (("a", 255), ("b", 50), ("c", 100)):
        images.append(folder / f"{name}.png")
        Image.new("L", (28, 28), value).save(images[-1])
    return folder, images


def test_scores_that_are_no_probabilities(
    shaded: tuple[Path, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, images = shaded
    out = tmp_path / "scores.parquet"
    model = [f"--target=savedmodel:{folder / 'model'}", "--contract", folder / "contract.json"]
    assert score(*images, "--out", out, *model) == 0
    assert [(each["label"], each["probability"]) for each in rows(out)] == [("a", None)] * 3
    assert [each["score"] for each in rows(out)] == pytest.approx([1, 50 / 255, 100 / 255])
    assert "printing them as scores" in capsys.readouterr().err
    assert json.loads(parquet.read_schema(out).metadata[b"tfship"])["scores"] == "scores"


def test_numbers_that_change_their_meaning_end_the_job(
    shaded: tuple[Path, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, images = shaded
    model = [f"--target=savedmodel:{folder / 'model'}", "--contract", folder / "contract.json"]
    assert score(*images, "--out", tmp_path / "s.parquet", "--batch=1", *model) == 5
    assert "returned probabilities before and independent now" in capsys.readouterr().err
    assert not (tmp_path / "s.parquet").exists()


def test_parquet_is_joined_with_files_in_order(tmp_path: Path) -> None:
    data = SEVEN.read_bytes()
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "a.png").write_bytes(data)
    plain = pa.table({"image": [data, b"bad", None, data], "id": [7, 8, 9, 10]})
    parquet.write_table(plain, folder / "b.parquet", row_group_size=1)
    nested = pa.table({"image": [{"bytes": data, "path": "x.png"}, {"bytes": data, "path": None}]})
    parquet.write_table(nested, folder / "c.parquet")
    (folder / "d.png").write_bytes(data)
    out = tmp_path / "tables" / "scores.parquet"
    for batch in (1, 2, 256):
        assert score(folder, "--out", out, f"--batch={batch}", "--part-rows=3") == 0
        found = rows(out)
        tables = ["7", "8", "9", "10", "x.png", f"{folder / 'c.parquet'}#1"]
        names = [str(folder / "a.png"), *tables, str(folder / "d.png")]
        assert [each["path"] for each in found] == names
        assert [each["label"] for each in found] == ["7", "7", None, None, "7", "7", "7", "7"]
        assert [each["path"] for each in found if each["error"]] == ["8", "9"]


def test_damaged_parquet_has_a_row_per_image(tmp_path: Path) -> None:
    path, out = tmp_path / "images.parquet", tmp_path / "scores.parquet"
    images = pa.table({"image": [SEVEN.read_bytes() + bytes([each]) for each in range(9)]})
    parquet.write_table(images, path, row_group_size=3, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    place = parquet.read_metadata(path).row_group(1).column(0).data_page_offset
    data[place : place + 40] = bytes(40)
    path.write_bytes(data)
    assert score(path, SEVEN, "--out", out, "--batch=3") == 0
    found = rows(out)
    assert [each["path"] for each in found] == [*(f"{path}#{row}" for row in range(9)), str(SEVEN)]
    assert [each["label"] for each in found] == [*"777", None, None, None, *"777", "7"]
    assert all("not a Parquet file, or it can't be read" in each["error"] for each in found[3:6])


def test_urls(images: Path, tmp_path: Path) -> None:
    out, expected = tmp_path / "scores.parquet", tmp_path / "expected.parquet"
    assert score(images / "a", images / "b", "--out", expected) == 0
    assert score(images / "a" / "deep", f"file://{images}/a/*.*", f"file://{images}/b/*.*", "--out", out) == 0
    found = rows(out)
    for each in found:
        each["path"] = each["path"].removeprefix("file://")
        each["error"] = each["error"] and each["error"].replace("file://", "")
    assert found == rows(expected)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an S3 bucket on a server in this process."""
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    import_module("boto3").client("s3").create_bucket(Bucket="images")
    yield "s3://images"
    server.stop()


def test_object_storage(
    bucket: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = import_module("s3fs").S3FileSystem()
    for path in (each for each in images.rglob("*.*") if each.is_file()):
        storage.pipe_file(f"{bucket}/all/{path.relative_to(images)}", path.read_bytes())
    table = pa.table({"image": [SEVEN.read_bytes()] * 3})
    with storage.open(f"{bucket}/all/c.parquet", "wb") as file:
        parquet.write_table(table, file)
    out, expected = tmp_path / "scores.parquet", tmp_path / "expected.parquet"
    assert score(images, "--out", expected) == 0
    assert score(f"{bucket}/all", "--out", out, "--batch=4") == 0
    found, rows_expected = rows(out), rows(expected)
    assert [each["path"] for each in found[-3:]] == [f"{bucket}/all/c.parquet#{row}" for row in range(3)]
    assert [each["label"] for each in found[-3:]] == ["7"] * 3
    for each, wanted in zip(found[:-3], rows_expected, strict=True):
        assert each["path"] == f"{bucket}/all/{Path(wanted['path']).relative_to(images)}"
        assert (each["label"], each["error"]) == (wanted["label"], wanted["error"])
    capsys.readouterr()
    assert score(f"{bucket}/none", "--out", out) == 3
    assert score("s3://missing/all", "--out", out) == 4
    first, second = capsys.readouterr().err.splitlines()
    assert "no images found" in first
    assert "no such object, folder or bucket" in second


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing.png"], 3, "missing.png: no such file or folder"),
        (["*.nothing"], 3, "*.nothing: no images found"),
        (["-"], 2, "expected files, folders, patterns or object storage"),
        (["https://example.org/x.png"], 2, "use tfship predict"),
        ([str(SEVEN), "--ray-address=localhost:1"], 2, "--ray-address without --engine ray"),
        ([str(SEVEN), "--target=grpc"], 2, "--target grpc: expected tflite or savedmodel"),
        ([str(SEVEN), "--label=x"], 2, "--label with --target tflite"),
        ([str(SEVEN), "--target=tflite:missing"], 4, "missing"),
        (["ftp://host/x"], 2, "expected a URL that begins with"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score("--out", tmp_path / "out" / "scores.parquet", *arguments) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_no_usable_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad, out = tmp_path / "bad.png", tmp_path / "scores.parquet"
    bad.write_text("no image")
    assert score(bad, "--out", out) == 3
    assert "1 of 1 images have no prediction" in capsys.readouterr().err
    assert [each["error"] for each in rows(out)] == [
        "not an image; expected PNG, JPEG or another image format"
    ]


def test_tables_without_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"image": ["text"], "n": [1]}), path)
    assert score(path, "--out", tmp_path / "o.parquet") == 3
    error = capsys.readouterr().err
    assert "expected a column image with encoded images, or names; found image (string), n (int64)" in error
    path.write_bytes(b"PAR1 no table")
    assert score(path, "--out", tmp_path / "o.parquet") == 3
    assert "not a Parquet file" in capsys.readouterr().err


def test_packages_of_the_extras_are_imported_late() -> None:
    """The base install, and the start of every other command, are what they were."""
    script = (
        "import sys, tfship.client.predict, tfship.client.score.command, tfship.client.score.ray_engine\n"
        "print({'pyarrow', 'fsspec', 'ray', 'ai_edge_litert'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
