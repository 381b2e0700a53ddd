"""Pictures that are made to do harm: one clear line, within 500 MB and 5 seconds, and never a traceback.

Each is asked about in a process of its own, which tells what it took: the processor's time, as others may use it, too.
"""

import functools
import io
import json
import os
import random
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from client_fixtures import RELEASED_MODELS, SEVEN
from conftest import ROOT
from tfship.client.images import draw_samples

# Five seconds are of a processor that has two for itself; without AVX-512, and beside another test, it takes up to six.
MOST_MIB, MOST_SECONDS = 500, 8
KINDS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000")
FUZZED = 3_000
# Threads that wait for others on a busy machine count as the processor's time.
ALONE = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
MEASURED = """
import json, os, resource, sys
def took():
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"MiB": int(peak.split()[1]) / 1024, "seconds": used.ru_utime + used.ru_stime}
"""
ASKED = """
from tfship.client.predict import main
from tfship.train.common import cli
code = cli.run(main)
json.dump(took(), open(os.environ["TOOK"], "w"))
sys.exit(code)
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")


def asked(took: Path, *arguments: object) -> tuple[int, str, list[str]]:
    """Ask about pictures; return exit code, stdout and the lines of stderr."""
    target = f"tflite:{RELEASED_MODELS / 'cnn.int8.tflite'}"
    done = subprocess.run(
        [sys.executable, "-c", MEASURED + ASKED, *map(str, arguments), "--target", target],
        cwd=ROOT, env={**ALONE, "TOOK": str(took)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    found = json.loads(took.read_text())
    assert found["MiB"] < MOST_MIB
    assert found["seconds"] < MOST_SECONDS
    return done.returncode, done.stdout, done.stderr.splitlines()


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def claiming(width: int, height: int, pixels: bytes = zlib.compress(b"\0")) -> bytes:
    """Return a PNG's header that claims a size, and pixels, compressed: hardly any."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def in_many_scans() -> bytes:
    data = encoded(Image.effect_noise((500, 500), 90), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * 300 + b"\xff\xd9"


@functools.cache
def zeros() -> bytes:
    return zlib.compress(bytes(1 << 28), 1)


def with_a_chunk(name: bytes) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add(name, b"x\0\0" + zeros())
    return encoded(Image.new("L", (40, 40), 9), "PNG", pnginfo=info)


def cut(kind: str) -> bytes:
    """Return the beginning of a picture."""
    return encoded(drawn(), kind)[:-200][:1500]


@functools.cache
def drawn() -> Image.Image:
    return draw_samples.draw(draw_samples.SAMPLES[1])


# What they are, and what is said of them.
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "bomb.png": (lambda: claiming(30_000, 30_000, zeros()), "more than 50,000,000 pixels"),
    "claim.png": (lambda: claiming(30_000, 30_000), "more than 50,000,000 pixels"),
    "short.png": (lambda: claiming(7_000, 7_000), "a damaged image"),
    "negative.png": (lambda: claiming(0xFFFFFFFF, 1), "expected"),
    "empty.png": (lambda: b"", "an empty file"),
    "dot.png": (lambda: encoded(Image.new("L", (1, 1)), "PNG"), "nothing to see on the image"),
    "scans.jpg": (in_many_scans, "with more than 100 scans"),
    "text.png": (lambda: with_a_chunk(b"zTXt"), "a damaged image"),
    "profile.png": (lambda: with_a_chunk(b"iCCP"), "nothing to see on the image"),
    "wide.png": (lambda: encoded(Image.new("L", (50_000_000, 1)), "PNG"), "expected 32,767 per side at most"),
    "high.bmp": (lambda: encoded(Image.new("1", (1, 70_000)), "BMP"), "expected 32,767 per side at most"),
    "words.png": (lambda: b"no picture at all" * 1000, "not an image"),
    "script.eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    **{f"cut.{kind.lower()}": (functools.partial(cut, kind), "a damaged image") for kind in KINDS},
}  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str]:
    """What is said of each path: that of a folder, of a pipe and of `HOSTILE`."""
    parent = tmp_path_factory.mktemp("hostile")
    expected = {parent / "folder.png": "no images in this folder", parent / "pipe.png": "a pipe"}
    folder, pipe = expected
    folder.mkdir()
    os.mkfifo(pipe)
    for name, (make, reason) in HOSTILE.items():
        (parent / name).write_bytes(make())
        expected[parent / name] = reason
    return expected


@pytest.mark.parametrize("extra", [[], ["--all-digits"]], ids=["one", "all"])
def test_each_is_a_line_and_the_good_one_is_answered(
    hostile: dict[Path, str], tmp_path: Path, extra: list[str]
) -> None:
    code, out, err = asked(tmp_path / "took", *hostile, SEVEN, *extra)
    assert code == 3
    assert out.startswith(f"{SEVEN}: 7")
    assert len(err) == len(hostile)
    for line, (path, reason) in zip(err, hostile.items(), strict=True):
        assert line.startswith(f"error: {path}: "), line
        assert reason in line


# As large as is taken, in the forms that cost most.
LARGEST: dict[str, Callable[[], bytes]] = {
    "opacity.png": lambda: encoded(Image.new("RGBA", (7_071, 7_071)), "PNG", compress_level=1),
    "floats.tif": lambda: encoded(Image.new("F", (7_071, 7_071)), "TIFF", compression="tiff_lzw"),
    "lossless.webp": lambda: encoded(
        Image.frombytes("L", (4_080, 4_080), random.Random(1).randbytes(4_080**2)).convert("RGBA"),
        "WEBP",
        lossless=True,
        quality=0,
        method=0,
    ),
    "photo.avif": lambda: encoded(Image.new("RGBA", (4_080, 4_080)), "AVIF", speed=10),
    "photo.jp2": lambda: encoded(Image.new("RGBA", (3_530, 3_530)), "JPEG2000"),
    "progressive.jpg": lambda: encoded(Image.new("CMYK", (5_500, 5_500)), "JPEG", progressive=True),
}


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_are_within_bounds(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(LARGEST[name]())
    # The search for all digits begins when an image is decoded, so one of the largest size is enough;
    # floats.tif, of that size, too, is searched for one.
    extra = ["--all-digits"] if name == "opacity.png" else []
    _, _, err = asked(tmp_path / "took", tmp_path / name, *extra)
    assert [line for line in err if "more than" in line] == []
    assert len(err) <= 1


RESIZED = """
from pathlib import Path
from tfship.client.images import preprocessing as image
from tfship.export.preprocessing.input_contract import Contract, Scaling
rules = Contract("photos", ("a", "b"), 224, 224, 3, Scaling.of_range(0, 1, 3), "resize")
before = took()["seconds"]
assert image.pixels(Path(sys.argv[1]).read_bytes(), rules).shape == (224, 224, 3)
after = took()
json.dump({**after, "seconds": after["seconds"] - before}, open(os.environ["TOOK"], "w"))
"""


@pytest.mark.parametrize("size", [(32_767, 1_525), (1_525, 32_767)])
def test_the_largest_are_resized_within_bounds(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "photo.png").write_bytes(
        encoded(Image.new("RGBA", size, (9, 99, 199, 128)), "PNG", compress_level=1)
    )
    took = tmp_path / "took"
    subprocess.run(
        [sys.executable, "-c", MEASURED + RESIZED, tmp_path / "photo.png"],
        cwd=ROOT, env={**ALONE, "TOOK": str(took)}, timeout=120, check=True,
    )  # fmt: skip
    found = json.loads(took.read_text())
    assert found["MiB"] < MOST_MIB
    assert found["seconds"] < MOST_SECONDS


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    """Whatever is read of it: an answer or a line."""
    picture, good = tmp_path / "seven.png", SEVEN.read_bytes()
    picture.write_bytes(good)
    over = threading.Event()

    def write() -> None:
        size = 0
        while not over.is_set():
            size = (size + 997) % len(good)
            picture.write_bytes(good[:size])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        code, out, err = asked(tmp_path / "took", *[picture] * 200)
    finally:
        over.set()
        writer.join()
    assert code in (0, 3)
    assert len(out.splitlines()) + len(err) == 200
    assert all(line.startswith(f"error: {picture}: ") for line in err)


FUZZ = """
import io, time
import numpy as np
from PIL import Image
from tfship.client.images import multi_digit as digits
from tfship.client.images import draw_samples
from tfship.client.images import preprocessing as image
from tfship.export.preprocessing import input_contract as contract
from tfship.train.common.errors import DataError
PHOTOS = contract.Contract("photos", ("a", "b"), 32, 48, 3, contract.Scaling.of_range(-1, 1, 3), "resize")
CONTRACTS = [contract.digits("cnn"), PHOTOS]
seed, count, kinds = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
dice = np.random.default_rng(seed)
drawn, seeds = draw_samples.draw(draw_samples.SAMPLES[1]), []
for kind in kinds:
    for mode in ("L", "RGB", "P", "RGBA", "CMYK", "I;16", "1"):
        for size in ((40, 30), (90, 70)):
            picture = drawn.resize(size)
            if mode == "I;16":
                picture = Image.fromarray(np.asarray(picture.convert("L"), np.uint16) * 250)
            elif mode != "RGB":
                picture = picture.convert(mode)
            buffer = io.BytesIO()
            try:
                picture.save(buffer, kind, **({"progressive": True} if kind == "JPEG" else {}))
            except (OSError, ValueError, KeyError):
                continue  # not every format has every mode
            seeds.append(buffer.getvalue())
slowest, read, refused = 0.0, 0, 0
for number in range(count):
    data = bytearray(seeds[dice.integers(len(seeds))])
    if number % 10 == 0:
        data = bytearray(dice.bytes(int(dice.integers(1, 400))))
        if number % 20 == 0:
            data[:0] = seeds[dice.integers(len(seeds))][:8]  # what a decoder takes for its own
    else:
        head = dice.random() < 0.5
        for _ in range(int(dice.integers(1, 8))):
            at = int(dice.integers(min(len(data), 64) if head else len(data)))
            data[at] = int(dice.choice([0, 1, 0x7F, 0x80, 0xFF, int(dice.integers(256))]))
        if dice.random() < 0.3:
            data = data[: int(dice.integers(1, len(data) + 1))]
        if dice.random() < 0.1:
            at = int(dice.integers(len(data)))
            data[at:at] = data[at : at + int(dice.integers(1, 500))]
    begin = time.process_time()
    try:
        if number % 4:
            pixels = image.pixels(bytes(data), CONTRACTS[number % 2])
            assert pixels.dtype == np.uint8 and pixels.shape == CONTRACTS[number % 2].shape
        else:
            digits.drawn(bytes(data), [(d.box, "1") for line in digits.find(bytes(data), CONTRACTS[0]) for d in line])
        read += 1
    except DataError as error:
        refused += 1
        assert str(error).startswith("image: ") and "expected" in str(error) , error
    except BaseException:
        print(number, bytes(data)[:200].hex(), file=sys.stderr)
        raise
    slowest = max(slowest, time.process_time() - begin)
print(json.dumps({**took(), "slowest": slowest, "read": read, "refused": refused}))
"""


def test_any_bytes_are_read_or_refused() -> None:
    """Mutated files of every format and mode, and bytes by chance."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED + FUZZ, "7", str(FUZZED), *KINDS],
        cwd=ROOT, env=ALONE, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["MiB"] < MOST_MIB
    assert found["slowest"] < MOST_SECONDS
    # Both happen, or the mutations are too many or too few.
    assert min(found["read"], found["refused"]) > FUZZED / 20
