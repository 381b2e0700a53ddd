"""The report's page, looked at in a browser."""

import copy
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from report_fixtures import bare, poorer, row
from results_fixtures import results as made_up
from tfship.benchmarks import report
from tfship.benchmarks.report.labels import Box

PLOTS = 5
HOSTILE = """</title><script>alert('x')</script>"' & $x^2$ {{ 7 * 7 }}"""


@pytest.fixture
def results() -> dict[str, Any]:
    return made_up()


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


class Visit:
    """A page that was opened, and what came to light on the way."""

    def __init__(self, chrome: Browser, file: Path, width: int = 1280, scheme: str = "light") -> None:
        self.said: list[str] = []
        self.fetched: list[str] = []
        page: Page = chrome.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
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
    chrome: Browser, whole: Path, width: int, kind: str, scheme: str
) -> None:
    visit = Visit(chrome, whole, width, scheme)
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


def test_the_page_follows_the_readers_theme(chrome: Browser, whole: Path) -> None:
    found = {}
    for scheme in ("light", "dark"):
        visit = Visit(chrome, whole, 1280, scheme)
        found[scheme] = visit.page.evaluate(
            "[document.body, document.querySelector('svg.wide text')].map(each => "
            "[getComputedStyle(each).backgroundColor, getComputedStyle(each).fill, getComputedStyle(each).color])"
        )
        visit.close()
    assert found["light"][0][0] == "rgb(255, 255, 255)"
    assert found["dark"][0][0] == "rgb(20, 23, 28)"
    assert found["light"][1][1] != found["dark"][1][1]


def test_the_page_fits_on_paper(chrome: Browser, whole: Path) -> None:
    visit = Visit(chrome, whole, 718, "dark")  # A4, with margins of a centimetre
    visit.page.emulate_media(media="print")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 718
    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    visit.close()


def test_ids_are_unique_and_every_reference_is_met(chrome: Browser, whole: Path) -> None:
    visit = Visit(chrome, whole)
    ids = visit.page.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(ids) == len(set(ids)) > 0
    used = visit.page.evaluate(
        "[...document.querySelectorAll('use')].map(each => each.getAttribute('href').slice(1))"
    )
    assert used
    assert set(used) <= set(ids)
    visit.close()


def test_the_page_shows_the_tables(chrome: Browser, whole: Path) -> None:
    visit = Visit(chrome, whole)
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


def test_images_that_changed_are_shown(chrome: Browser, whole: Path, results: dict[str, Any]) -> None:
    visit = Visit(chrome, whole)
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
    chrome: Browser, results: dict[str, Any], tmp_path: Path
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
    visit = Visit(chrome, file)
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
    chrome: Browser, results: dict[str, Any], tmp_path: Path, less: Any
) -> None:
    file = tmp_path / "report.html"
    file.write_text(report.html(less(results)), encoding="utf-8")
    visit = Visit(chrome, file, 375)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 375
    assert "Quick run" in visit.page.locator("header").inner_text()
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
