"""The report: read only if valid, complete in text, and as a page looked at in a browser."""

import copy
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page, sync_playwright

from results_fixtures import results as made_up
from tfship.benchmarks import command, readme_command, report
from tfship.benchmarks.analysis import recommendation
from tfship.benchmarks.report import colours, figures, labels, tables
from tfship.benchmarks.report.drawing import Canvas
from tfship.benchmarks.report.labels import Box, Label
from tfship.benchmarks.report.models import Model, models
from tfship.train.common import cli
from tfship.train.common.errors import ArtifactError

PLOTS = 5
HOSTILE = """</title><script>alert('x')</script>"' & $x^2$ {{ 7 * 7 }}"""


@pytest.fixture
def results() -> dict[str, Any]:
    return made_up()


def row(results: dict[str, Any], name: str, model: str = "nn") -> dict[str, Any]:
    (found,) = [each for each in results["models"][model]["rows"] if each["name"] == name]
    assert isinstance(found, dict)
    return found


def poorer(results: dict[str, Any]) -> dict[str, Any]:
    """What a quick run leaves out."""
    results["mode"] = "quick"
    for model in results["models"].values():
        model.update(operators={}, layers={})
        for each in model["rows"]:
            each.update(sweep=None, parts_us=None, loadgen=None, cpu_seconds_per_1000=None, peak_bytes=None)
            each["scenarios"] = dict.fromkeys(each["scenarios"])
            each["empty"] = {
                "sweep": "a quick run sweeps nothing",
                "server": "a quick run puts nothing under load",
            }
    return results


def bare(results: dict[str, Any]) -> dict[str, Any]:
    """As little as the schema allows."""
    for model in poorer(results)["models"].values():
        model["changed"] = {}
        model["rows"] = [each for each in model["rows"] if each["kind"] == "tflite"]
        for each in model["rows"]:
            each.update(
                query=None, end_to_end=None, batches={}, load_ms=None, first_ms=None, arena_bytes=None
            )
            each["empty"] = {"query": "nobody had the time"}
    return results


def fuller(results: dict[str, Any]) -> dict[str, Any]:
    """With a third server, and layers' names as long as some converters make them."""
    for model in results["models"].values():
        official = [copy.deepcopy(each) for each in model["rows"] if each["server"] == "embedded SavedModel"]
        for each in official:
            each.update(server="tensorflow/serving", name=f"tensorflow/serving, {each['protocol']}")
        model["rows"] += official
        for layers in model["layers"].values():
            for each in layers:
                each["name"] = f"sequential/{each['name']}/Relu;sequential/{each['name']}/BiasAdd"
    return results


# Reading.


def written(folder: Path, results: Mapping[str, Any]) -> Path:
    file = folder / "results.json"
    file.write_text(json.dumps(results))
    return file


def test_a_valid_file_is_read_as_it_is(results: dict[str, Any], tmp_path: Path) -> None:
    assert report.read(written(tmp_path, results)) == results
    assert report.read(written(tmp_path, bare(results))) == results


def test_what_is_no_result_file_is_refused(results: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        report.read(tmp_path / "none.json")
    (tmp_path / "results.json").write_text('{"schema": 2,')
    with pytest.raises(ArtifactError, match="not JSON"):
        report.read(tmp_path / "results.json")
    with pytest.raises(ArtifactError, match="not a result file of schema 3; run `tfship benchmark`"):
        report.read(written(tmp_path, results | {"schema": 1}))


def test_what_the_schema_forbids_is_refused_and_the_place_is_named(
    results: dict[str, Any], tmp_path: Path
) -> None:
    results["models"]["cnn"]["rows"][3]["bytes"] = "many"
    with pytest.raises(
        ArtifactError, match=r"\$\.models\.cnn\.rows\[3\]\.bytes: 'many' is not of type 'integer'"
    ):
        report.read(written(tmp_path, results))
    del results["models"]["cnn"]["rows"][3]["bytes"]
    with pytest.raises(ArtifactError, match=r"\$\.models\.cnn\.rows\[3\]: 'bytes' is a required property"):
        report.read(written(tmp_path, results))


def test_a_reference_that_is_no_row_is_refused(results: dict[str, Any], tmp_path: Path) -> None:
    results["models"]["nn"]["reference"] = "float64"
    with pytest.raises(ArtifactError, match="nn: no row is called 'float64'"):
        report.read(written(tmp_path, results))


# Figures and tables.


def test_figures_have_the_digits_that_they_deserve() -> None:
    assert [figures.number(value) for value in (0.009, 0.0112, 0.5, 5.2, 11.13, 99.94, 99.96, 2024.4)] == [
        "0.009", "0.0112", "0.500", "5.20", "11.1", "99.9", "100", "2,024",
    ]  # fmt: skip
    assert [figures.duration(value) for value in (4.55, 826, 999.6, 1160, 2.4e6)] == [
        "4.55 µs", "826 µs", "1.00 ms", "1.16 ms", "2.40 s",
    ]  # fmt: skip
    assert [figures.probability(value) for value in (1.0, 0.377, 1e-9)] == ["1", "0.38", "< 0.0001"]


def model_of(results: dict[str, Any], name: str = "nn") -> Model:
    (found,) = [model for model in models(results) if model.name == name]
    return found


def cells(model: Model, columns: Any, name: str) -> dict[str, str]:
    table = tables.table(columns, [model.row(name)], model)
    return {
        f"{column.group} {column.head}".strip(): cell.text
        for column, (cell, _) in zip(table.columns, table.lines[0].cells, strict=True)
    }


def test_cells_say_what_was_measured(results: dict[str, Any]) -> None:
    int8 = row(results, "int8")
    int8["query"].update({"p50_us": 5.25, "p90_us": 5.37, "p99_us": 12.0, "p99.9_us": 123.4})
    # Twice as fast in each round, whatever the medians of all are.
    row(results, "float32")["query"]["windows_p50_us"] = [
        2 * each for each in int8["query"]["windows_p50_us"]
    ]
    int8["cpu_seconds_per_1000"] = {"here": 0.0051, "server": None}
    int8["batches"]["64"]["rate"] = 650_473.4
    model = model_of(results)
    assert cells(model, tables.ANSWERS, "int8") == {
        "accuracy": "0.9801", "95 % interval": "0.9772–0.9827", "against float32 changed": "7",
        "against float32 won": "3", "against float32 lost": "4", "against float32 p": "1",
        "calibration error": "0.0054", "size, KiB": "99.9", "arena, KiB": "6.27",
    }  # fmt: skip
    assert cells(model, tables.ANSWERS, "float32")["against float32 changed"] == ""
    time = cells(model, tables.TIME, "int8")
    assert [time[f"model only {which}"] for which in ("p50, µs", "p90, µs", "p99, µs", "p99.9, µs", "× float32")] == [
        "5.25", "5.37", "12.0", "123", "0.50",
    ]  # fmt: skip
    cost = cells(model, tables.COST, "int8")
    assert (cost["images/s in batches of 64"], cost["CPU s per 1,000 here"]) == ("650,473", "0.0051")


def test_rows_are_grouped_by_what_can_be_compared(results: dict[str, Any]) -> None:
    model = model_of(results)
    assert [each["name"] for each in model.plain] == [
        "float32", "dynamic", "float16", "int8", "int8_uint8", "int16x8", "selective", "savedmodel", "keras",
    ]  # fmt: skip
    assert all("threads" in each["name"] or "no XNNPACK" in each["name"] for each in model.variants)
    assert all(each["server"] for each in model.served)
    assert len(model.plain) + len(model.variants) + len(model.served) == len(model.rows)


def test_offline_is_that_of_all_cores_and_loadgen_stands_beside_ours(results: dict[str, Any]) -> None:
    row(results, "int8, 2 threads")["scenarios"]["offline"]["rate"] = 777_777.0
    model = model_of(results)
    columns = tables.scenarios(model.rows)
    found = cells(model, columns, "int8")
    assert found["Offline images/s"] == "777,777"
    assert found["SingleStream LoadGen's"] == figures.number(
        row(results, "int8")["loadgen"]["single_stream"]["loadgen"]
    )
    assert [column.group for column in columns if column.head == "LoadGen's"] == ["SingleStream"]
    row(results, "int8")["loadgen"]["single_stream"]["valid"] = False
    assert cells(model, columns, "int8")["SingleStream LoadGen's"].startswith("! ")


def test_a_missing_figure_says_why_and_once(results: dict[str, Any]) -> None:
    why = "needs 662 samples for 99 % confidence"
    for name in ("int8", "dynamic"):
        query = row(results, name)["query"]
        query.update({"p99_us": None, "p99.9_us": None, "missing": {"p99": why, "p99.9": why}})
    row(results, "float16")["query"]["stable"] = False
    row(results, "float16")["load_ms"] = None
    row(results, "float16")["empty"]["load_ms"] = "the process died"
    model = model_of(results)
    table = tables.table(tables.TIME, model.plain, model)
    by_name = {line.row["name"]: line.cells for line in table.lines}
    (cell, note) = by_name["int8"][4]
    assert (cell.text, table.notes[note - 1]) == ("–", why)
    assert by_name["dynamic"][5][1] == note
    assert (by_name["float16"][0][0].text, by_name["float16"][0][0].why) == ("–", "the process died")
    assert by_name["float16"][2][0].text.startswith("~ ")
    assert len(table.notes) == 3
    assert by_name["float32"][4][1] == 0


# Text.


def test_a_terminal_gets_a_table_per_model_and_the_verdict(results: dict[str, Any]) -> None:
    said = report.text(results)
    judged = recommendation.judge(results)["models"]
    for name in ("nn", "cnn"):
        assert f"\n{name}\n" in said
        for each in (*judged[name]["recommendations"], *judged[name]["slower"]):
            assert f"- {each['sentence']}" in said
    for each in ("float32", "savedmodel", "embedded TFLite, gRPC"):
        assert sum(line.startswith(f"{each}  ") for line in said.splitlines()) == 2
    assert "no XNNPACK  " not in said
    row(results, "int8")["query"].update({"stable": False})
    (line,) = [
        line for line in report.text(results).splitlines() if line.startswith("int8  ") and "~" in line
    ]
    assert "[1]" in line
    assert "- [1] ~: never settled" in report.text(results)


def test_markdown_has_every_row_and_what_ran(results: dict[str, Any]) -> None:
    said = report.markdown(results)
    for name, model in results["models"].items():
        assert f"\n## {name}\n" in said
        assert model["keras_sha256"] in said
        for each in model["rows"]:
            assert f"| `{each['name']}` " in said
    assert results["data"]["sha256"] in said
    assert "tensorflow 2.21.0" in said


def test_the_readme_describes_the_formats_and_shows_what_they_are_worth(results: dict[str, Any]) -> None:
    said = report.readme_block(results)
    assert "| `int8_uint8` | `tflite/int8_uint8.tflite` " in said
    assert said.count("| `int8_uint8`") == 3
    assert "2 threads`" not in said
    for model in recommendation.judge(results)["models"].values():
        for each in model["recommendations"]:
            assert f"\n- {each['sentence']}\n" in said


def test_the_command_renders_a_file_again(
    results: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, bare(results))
    assert cli.run(command.main, ["report", str(file)]) == 0
    assert capsys.readouterr().out.strip() == report.text(results).strip()
    assert (tmp_path / "report.md").read_text() == report.markdown(results)
    assert (tmp_path / "report.html").read_text() == report.html(results)
    assert cli.run(command.main, ["report", str(file), "--objective", "size", "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)["verdict"]
    assert [each["use"] for each in judged["models"]["nn"]["recommendations"]] == ["size"]
    assert (tmp_path / "report.md").read_text() == report.markdown(results, judged)
    assert cli.run(command.main, ["report", str(file), "--max-accuracy-drop", "2"]) == 2
    file.write_text('{"schema": 0}')
    assert cli.run(command.main, ["report", str(file)]) == 4
    assert "not a result file of schema" in capsys.readouterr().err


def test_readme_check_finds_a_changed_figure(
    results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme, short = tmp_path / "README.md", tmp_path / "short.md"
    monkeypatch.setattr(readme_command, "_TABLES", readme)
    monkeypatch.setattr(readme_command, "_README", short)
    monkeypatch.setattr(readme_command, "_COMMITTED", written(tmp_path, results))
    markers = [
        f"<!-- {block}: written by `tfship benchmark readme`, not by hand -->\n<!-- end of {block} -->"
        for block in ("formats", "training", "results", "server", "soak", "pictures", "client", "zoo")
    ]
    short.write_text(markers.pop(0))
    readme.write_text("\n".join(["before", *markers, "after", ""]))
    assert cli.run(command.main, ["readme", "--check"]) == 6
    assert cli.run(command.main, ["readme"]) == 0
    assert cli.run(command.main, ["readme", "--check"]) == 0
    whole = readme.read_text()
    assert whole.startswith("before\n")
    assert whole.endswith("\nafter\n")
    figure = f"{row(results, 'float32')['accuracy']['value']:.4f} ("
    assert figure in whole
    readme.write_text(whole.replace(figure, "0.9999 (", 1))
    assert cli.run(command.main, ["readme", "--check"]) == 6
    readme.write_text(whole)
    headline = short.read_text()
    assert f"{row(results, 'float32')['accuracy']['value']:.4f} |" in headline
    short.write_text(headline.replace("| `int8` ", "| `int9` "))
    assert cli.run(command.main, ["readme", "--check"]) == 6
    readme.write_text(markers[0])
    assert cli.run(command.main, ["readme", "--check"]) == 4


# Plots.


@given(st.lists(st.floats(0, 300), min_size=1, max_size=15))
def test_labels_keep_their_order_and_distance(wanted: list[float]) -> None:
    placed = labels.spread(wanted, 17, 0, 300)
    assert min(placed) >= -1e-6
    assert max(placed) <= 300 + 1e-6
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    gaps = np.diff([placed[index] for index in order])
    assert np.all(gaps >= 17 - 1e-6)


def test_labels_with_room_stay_where_they_are() -> None:
    assert labels.spread([200.0, 10.0, 100.0], 17, 0, 300) == [200, 10, 100]
    assert labels.spread([100.0, 100.0], 20, 0, 300) == [90, 110]
    assert labels.spread([0.0, 0.0], 20, 0, 300) == [0, 20]


def test_labels_around_points_that_coincide_cover_nothing() -> None:
    from matplotlib.figure import Figure

    canvas = Canvas(Figure(figsize=(340 / 72, 400 / 72), dpi=72), narrow=True, text=13)
    axes = canvas.axes(left=46, right=12, top=30, bottom=46)
    axes.set(xlim=(0, 100), ylim=(0, 100))
    names = [f"format {number}" for number in range(9)]
    labels.around(
        canvas, axes, [Label(name, "int8", 3 + place % 4, 50, 8) for place, name in enumerate(names)]
    )
    texts = [text for text in canvas.figure.texts if text.get_text() in names]
    boxes = [Box(*text.get_window_extent().extents) for text in texts]
    assert len(boxes) == 9
    assert all(not one.overlap(other) for place, one in enumerate(boxes) for other in boxes[:place])
    x, y = axes.transData.transform((4.5, 50))
    assert not any(box.overlap(Box(x - 8, y - 6, x + 8, y + 6)) for box in boxes)


def test_boxes_overlap_by_what_both_cover() -> None:
    assert Box(0, 0, 10, 10).overlap(Box(5, 8, 20, 20)) == 10
    assert Box(0, 0, 10, 10).overlap(Box(10, 0, 20, 10)) == 0


# What is seen of light, sRGB's primaries, by Machado et al. (2009); OKLab is Ottosson's (2020).
SEEN = {
    "as it is": np.eye(3),
    "red-blind": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "green-blind": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_every_two_formats_are_told_apart_by_the_colour_blind(theme: int) -> None:
    for vision in SEEN.values():
        found = [
            TO_LAB @ np.cbrt(TO_CONES @ np.clip(vision @ linear(each[theme]), 0, 1))
            for each in colours.FORMATS.values()
        ]
        distances = [np.linalg.norm(a - b) for place, a in enumerate(found) for b in found[:place]]
        assert min(distances) > 0.09


def linear(colour: str) -> Any:
    """sRGB to light, a colour like #d0450b to float64 [3]."""
    coded = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)


# The page, as readers see it.


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium is installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        # What the browser would fetch for itself isn't the page's.
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        started = playwright.chromium.launch(executable_path=program, headless=True, args=arguments)
        yield started
        started.close()


class Visit:
    """A page that was opened, and what came to light on the way."""

    def __init__(self, browser: Browser, file: Path, width: int = 1280, scheme: str = "light") -> None:
        self.said: list[str] = []
        self.fetched: list[str] = []
        page: Page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.fetched.append(request.url))
        page.goto(file.as_uri())
        self.page = page
        self.fetched.remove(file.as_uri())

    def close(self) -> None:
        self.page.close()
        assert self.said == []
        assert [url for url in self.fetched if not url.startswith("data:image/png;base64,")] == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(report.html(fuller(made_up())), encoding="utf-8")
    return file


# In every plot that is shown: the drawing's class and box, and the box and size of each of its texts.
_LOOK = """() => {
  const box = element => {
    const {left, top, right, bottom} = element.getBoundingClientRect()
    return [left, top, right, bottom]
  }
  // A marker's shape is drawn where it is used; what is clipped may reach beyond.
  const drawn = each => !each.closest("defs") && !each.hasAttribute("clip-path")
  const look = svg => ({
    kind: svg.getAttribute("class"),
    role: svg.getAttribute("role"),
    label: svg.getAttribute("aria-label"),
    box: box(svg),
    shapes: [...svg.querySelectorAll("path, use")].filter(drawn).map(box),
    texts: [...svg.querySelectorAll("text")].map(text => ({
      said: text.textContent,
      box: box(text),
      upright: text.getAttribute("transform").startsWith("rotate(-0"),
      size: parseFloat(getComputedStyle(text).fontSize) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width,
    })),
  })
  return [...document.querySelectorAll("figure.plot")].map(
    figure => [...figure.querySelectorAll("svg")].filter(svg => svg.checkVisibility()).map(look)
  )
}"""


@pytest.mark.parametrize(
    ("width", "kind", "scheme"),
    [
        (1280, "wide", "light"),
        (1280, "wide", "dark"),
        (900, "wide", "light"),
        (375, "narrow", "light"),
        (375, "narrow", "dark"),
        (320, "narrow", "light"),
    ],
)
def test_the_page_fits_and_its_plots_can_be_read(
    browser: Browser, whole: Path, width: int, kind: str, scheme: str
) -> None:
    visit = Visit(browser, whole, width, scheme)
    visit.page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    plots = visit.page.evaluate(_LOOK)
    assert len(plots) == 2 * PLOTS
    for drawings in plots:
        (drawing,) = drawings  # of the two
        assert drawing["kind"] == kind
        assert drawing["role"] == "img"
        assert len(drawing["label"]) > 40
        outer = Box(*drawing["box"])
        assert outer.right - outer.left > 250
        assert outer.top - outer.bottom > 150
        for shape in drawing["shapes"]:
            assert within(Box(*shape), outer), drawing["label"]
        texts = drawing["texts"]
        for text in texts:
            assert text["size"] >= 11, text
            assert within(Box(*text["box"]), outer), text
        upright = [text for text in texts if text["upright"]]
        for place, one in enumerate(upright):
            for other in upright[:place]:
                overlap = Box(*one["box"]).overlap(Box(*other["box"]))
                # Boxes have a line's height, letters less.
                smaller = min(area(one["box"]), area(other["box"]))
                assert overlap < 0.15 * smaller, (one["said"], other["said"])
    visit.close()


def within(inner: Box, outer: Box) -> bool:
    return (
        inner.left >= outer.left - 1
        and inner.right <= outer.right + 1
        and inner.bottom >= outer.bottom - 1
        and inner.top <= outer.top + 1
    )


def area(box: list[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def test_the_page_follows_the_readers_theme(browser: Browser, whole: Path) -> None:
    found = {}
    for scheme in ("light", "dark"):
        visit = Visit(browser, whole, 1280, scheme)
        found[scheme] = visit.page.evaluate(
            "[document.body, document.querySelector('svg.wide text')].map(each => "
            "[getComputedStyle(each).backgroundColor, getComputedStyle(each).fill, getComputedStyle(each).color])"
        )
        visit.close()
    assert found["light"][0][0] == "rgb(255, 255, 255)"
    assert found["dark"][0][0] == "rgb(20, 23, 28)"
    assert found["light"][1][1] != found["dark"][1][1]


def test_the_page_fits_on_paper(browser: Browser, whole: Path) -> None:
    visit = Visit(browser, whole, 718, "dark")  # A4, with margins of a centimetre
    visit.page.emulate_media(media="print")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 718
    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    visit.close()


def test_ids_are_unique_and_every_reference_is_met(browser: Browser, whole: Path) -> None:
    visit = Visit(browser, whole)
    ids = visit.page.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(ids) == len(set(ids)) > 0
    used = visit.page.evaluate(
        "[...document.querySelectorAll('use')].map(each => each.getAttribute('href').slice(1))"
    )
    assert used
    assert set(used) <= set(ids)
    visit.close()


def test_the_page_shows_the_tables(browser: Browser, whole: Path) -> None:
    visit = Visit(browser, whole)
    tables_shown = visit.page.locator("section.model").first.locator("table")
    answers = tables_shown.first
    heads = [
        " ".join(text.split()) for text in answers.locator("thead tr").last.locator("th").all_inner_texts()
    ]
    assert heads == [
        "format", "accuracy", "95 % interval", "changed", "won", "lost", "p", "calibration error", "size, KiB",
        "arena, KiB",
    ]  # fmt: skip
    int8 = answers.locator("tbody tr").nth(3)
    assert int8.locator("th").inner_text().strip() == "int8"
    assert int8.locator("td").all_inner_texts() == [
        "0.9801", "0.9772–0.9827", "7", "3", "4", "1", "0.0054", "99.9", "6.27",
    ]  # fmt: skip
    empty = answers.locator("tbody tr").first.locator("td").last
    why = "TensorFlow Lite Micro runs integer formats only"
    assert (empty.inner_text(), empty.get_attribute("title")) == ("–1", why)
    notes = visit.page.locator("section.model").first.locator("ol.notes").first
    assert notes.inner_text().strip() == why
    right = answers.evaluate(
        "each => [...each.querySelectorAll('tbody td')].every(td => getComputedStyle(td).textAlign == 'right')"
    )
    assert right
    visit.close()


def test_images_that_changed_are_shown(browser: Browser, whole: Path, results: dict[str, Any]) -> None:
    visit = Visit(browser, whole)
    changed = visit.page.locator("section.model").first.locator(
        "details", has=visit.page.locator("ul.images")
    )
    int8 = changed.nth(1)
    assert int8.locator("summary").inner_text().strip() == "int8: 7 images changed"
    int8.locator("summary").click()
    images = int8.locator("li")
    assert images.count() == results["models"]["nn"]["changed"]["int8"]["count"]
    first = results["models"]["nn"]["changed"]["int8"]["shown"][0]
    said = " ".join(images.first.inner_text().split())
    assert f"image {first['image']}" in said
    assert f"{first['reference']['class']} (0.52) → {first['here']['class']}" in said
    assert f"margin {first['margin']:.3f}" in said
    assert images.first.locator("img").evaluate("each => [each.naturalWidth, each.naturalHeight]") == [28, 28]
    visit.close()


def test_what_the_results_say_is_text_and_never_markup(
    browser: Browser, results: dict[str, Any], tmp_path: Path
) -> None:
    results["data"]["label"] = HOSTILE
    results["environment"]["cpu"] = HOSTILE
    model = results["models"].pop("nn")
    model["labels"] = [HOSTILE] * 10
    row({"models": {"nn": model}}, "int8, 2 threads")["name"] = f"int8 {HOSTILE}"
    renamed = row({"models": {"nn": model}}, "dynamic")
    renamed.update(name=HOSTILE, empty={"load_ms": HOSTILE}, load_ms=None)
    row({"models": {"nn": model}}, "int8")["loadgen"]["single_stream"]["summary"] = HOSTILE
    for each in model["rows"]:
        if each["server"] == "embedded TFLite":
            each["server"] = HOSTILE
    model["layers"][HOSTILE] = model["layers"].pop("dynamic")
    model["layers"]["int8"][0]["name"] = HOSTILE[:24]
    model["operators"][HOSTILE] = model["operators"].pop("dynamic")
    model["changed"][HOSTILE] = model["changed"].pop("int8")
    model["changed"][HOSTILE]["shown"][0]["png"] = '" onerror="alert(1)'
    results["models"] = {HOSTILE: model}
    file = tmp_path / "report.html"
    file.write_text(report.html(results), encoding="utf-8")
    visit = Visit(browser, file)
    assert visit.page.evaluate("document.scripts.length") == 0
    assert visit.page.evaluate("document.querySelectorAll('[onerror]').length") == 0
    assert HOSTILE in visit.page.locator("h2").first.inner_text()
    assert HOSTILE in visit.page.title()
    assert HOSTILE in visit.page.locator("svg.wide text", has_text="script").first.text_content()  # type: ignore[operator]
    visit.page.close()
    # Of the picture that is none.
    assert visit.said == ["Failed to load resource: net::ERR_INVALID_URL"]
    assert visit.fetched == []


@pytest.mark.parametrize("less", [poorer, bare])
def test_where_figures_are_missing_a_sentence_says_so(
    browser: Browser, results: dict[str, Any], tmp_path: Path, less: Any
) -> None:
    file = tmp_path / "report.html"
    file.write_text(report.html(less(results)), encoding="utf-8")
    visit = Visit(browser, file, 375)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 375
    assert "A quick run" in visit.page.locator("header").inner_text()
    shown = visit.page.locator("figure.plot")
    said = visit.page.locator("p.missing").all_inner_texts()
    if less is poorer:
        assert shown.count() == 2 * 2
        assert "Not measured: a quick run sweeps nothing." in said
    else:
        assert shown.count() == 0
        assert "Not measured: nobody had the time." in said
    for drawings in visit.page.evaluate(_LOOK):
        assert all(drawing["texts"] for drawing in drawings)
    assert report.text(results)
    assert report.markdown(results)
    visit.close()


def test_a_tail_is_shown_as_far_as_there_are_samples(results: dict[str, Any]) -> None:
    from tfship.benchmarks.report import plots

    query = row(results, "int8")["query"]
    query.update({"p99_us": None, "p99.9_us": None, "missing": {"p99": "few", "p99.9": "few"}})
    known = plots.distribution(query, results["quantiles"])
    assert max(share for share, _ in known) == 0.9
    full = plots.distribution(row(results, "dynamic")["query"], results["quantiles"])
    assert max(share for share, _ in full) == 0.999
