"""Matplotlib drawings as inline SVG, with text elements and with colours from the page's theme."""

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from tfship.benchmarks.report.colours import placeholder, variable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Canvas", "Plot", "render"]

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_FONT = re.compile(r"font-family: [^;]*;? ?")
_REFERENCE = re.compile(r'(?:url\(|href=")#([^)"]+)')
# Matplotlib's unit is the point; at 72 dpi, a point is a pixel.
_DPI = 72
# Pixels of the page at its default size, so that text stays readable.
_TEXT = {"wide": 12.5, "narrow": 13.0}
_WIDTH = {"wide": 960, "narrow": 340}


@dataclass(frozen=True)
class Canvas:
    """Drawing surface of a plot: Matplotlib's figure, whether the page is narrow, the text's size in pixels.

    A point of the figure is a pixel of the page.
    """

    figure: "Figure"
    narrow: bool
    text: float

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels."""
        width, height = self.figure.get_size_inches()
        return float(width) * _DPI, float(height) * _DPI

    def axes(self, left: float, right: float, top: float, bottom: float) -> "Axes":
        """Add axes with margins of `left`, `right`, `top` and `bottom` pixels."""
        width, height = self.size
        return self.figure.add_axes(
            (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
        )

    def extent(self, text: str) -> float:
        """Return the width of `text` in pixels, in Matplotlib's font, which is wider than most."""
        from matplotlib.font_manager import FontProperties
        from matplotlib.textpath import text_to_path

        font = FontProperties(size=self.text)
        return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])

    def cut(self, text: str, share: float) -> str:
        """Return `text`, truncated to a `share` of the width if it is longer."""
        cut = text
        while self.extent(cut) > share * self.size[0]:
            cut = f"{cut[:-2]}…"
        return cut


@dataclass(frozen=True)
class Plot:
    """A plot: title, caption, label for screen readers, and drawing function.

    `height` is the height in pixels of the wide and of the narrow drawing. `key` explains the colours without a label.
    """

    title: str
    caption: str
    label: str
    draw: Callable[[Canvas], None]
    height: tuple[float, float]
    key: Mapping[str, str] = field(default_factory=dict)


def render(plot: Plot, name: str) -> tuple[str, str]:
    """Draw a plot for wide and for narrow pages and return both as SVG; `name` makes their ids unique."""
    wide, narrow = plot.height
    return _svg(plot, f"{name}-wide", "wide", wide), _svg(plot, f"{name}-narrow", "narrow", narrow)


def _svg(plot: Plot, ident: str, kind: str, height: float) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    muted, ink = placeholder("muted"), placeholder("ink")
    settings = {
        "svg.fonttype": "none",
        "text.parse_math": False,
        "svg.hashsalt": ident,
        "font.size": _TEXT[kind],
        "text.color": ink,
        "axes.labelcolor": muted,
        "axes.edgecolor": placeholder("grid"),
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": "medium",
        "axes.titlelocation": "left",
        "axes.titlecolor": ink,
        "axes.labelsize": "medium",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": placeholder("grid"),
        "xtick.major.size": 0,
        "xtick.minor.size": 0,
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
        "xtick.labelcolor": muted,
        "ytick.labelcolor": muted,
        "figure.facecolor": "none",
    }
    buffer = io.StringIO()
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(_WIDTH[kind] / _DPI, height / _DPI), dpi=_DPI)
        plot.draw(Canvas(figure, kind == "narrow", _TEXT[kind]))
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _inline(buffer.getvalue(), ident, kind, plot.label)


def _inline(svg: str, ident: str, kind: str, label: str) -> str:
    """Return a standalone SVG as a page's element, with unique ids, colour variables and the page's font."""
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(svg)  # noqa: S314 - trusted: Matplotlib's output
    for each in list(root):
        # Removes the metadata, and a style that would apply to the whole page.
        if each.tag == f"{{{_SVG}}}metadata" or each.find(f"{{{_SVG}}}style") is not None:
            root.remove(each)
    used = set(_REFERENCE.findall(svg))
    for each in root.iter():
        each.text, each.tail = (each.text or "").strip(), None
        name = each.attrib.pop("id", None)
        if name in used:
            each.set("id", f"{ident}-{name}")
        link = each.attrib.pop(f"{{{_XLINK}}}href", None)
        if link is not None:
            each.set("href", f"#{ident}-{link.removeprefix('#')}")
        for key, value in each.attrib.items():
            value = _COLOUR.sub(lambda found: variable(found[0]), value)
            value = _FONT.sub("", value)
            each.set(key, re.sub(r"url\(#", f"url(#{ident}-", " ".join(value.split())))
    for key in ("width", "height", "version"):
        del root.attrib[key]
    root.attrib.update({"role": "img", "aria-label": label, "class": kind})
    return ElementTree.tostring(root, encoding="unicode")
