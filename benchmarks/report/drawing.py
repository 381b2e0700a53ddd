"""Matplotlib's drawings as SVG within a page: text that is text, colours that follow the page's theme."""

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

__all__ = ["Canvas", "Plot", "drawn"]

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_FONT = re.compile(r"font-family: [^;]*;? ?")
_REFERENCE = re.compile(r'(?:url\(|href=")#([^)"]+)')
# Matplotlib counts in points, so that a point is a pixel.
_DPI = 72
# Pixels of the page, at its usual size: no text is drawn smaller than it can be read.
_TEXT = {"wide": 12.5, "narrow": 13.0}
_WIDTH = {"wide": 960, "narrow": 340}


@dataclass(frozen=True)
class Canvas:
    """What a plot is drawn on: Matplotlib's figure, whether the page is narrow, the text's size in pixels.

    A point of the figure's is a pixel of the page.
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
        """Add axes that leave so many pixels at each side."""
        width, height = self.size
        return self.figure.add_axes(
            (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
        )

    def extent(self, text: str) -> float:
        """Return how wide a text is, in pixels, in Matplotlib's font, which is wider than most."""
        from matplotlib.font_manager import FontProperties
        from matplotlib.textpath import text_to_path

        font = FontProperties(size=self.text)
        return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])

    def cut(self, text: str, share: float) -> str:
        """Return as much of a text as has room in a share of the width; names may be of any length."""
        shown = text
        while self.extent(shown) > share * self.size[0]:
            shown = f"{shown[:-2]}…"
        return shown


@dataclass(frozen=True)
class Plot:
    """A plot's title and caption, what is read to those who don't see it, and how it is drawn.

    `height` is that of the wide and of the narrow drawing, in pixels; `key` names the colours that no label explains.
    """

    title: str
    caption: str
    label: str
    draw: Callable[[Canvas], None]
    height: tuple[float, float]
    key: Mapping[str, str] = field(default_factory=dict)


def drawn(plot: Plot, name: str) -> tuple[str, str]:
    """Draw a plot for wide pages and for narrow ones and return both as SVG; `name` keeps their ids from others'."""
    wide, narrow = plot.height
    return _element(plot, f"{name}-wide", "wide", wide), _element(plot, f"{name}-narrow", "narrow", narrow)


def _element(plot: Plot, ident: str, kind: str, height: float) -> str:
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
    return _adopted(buffer.getvalue(), ident, kind, plot.label)


def _adopted(written: str, ident: str, kind: str, label: str) -> str:
    """Return the SVG as an element of a page that has others: own ids, variables for colours, the page's font."""
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(written)  # noqa: S314 - written by Matplotlib just now
    for each in list(root):
        # Who made it; and a style that would hold for the whole page.
        if each.tag == f"{{{_SVG}}}metadata" or each.find(f"{{{_SVG}}}style") is not None:
            root.remove(each)
    used = set(_REFERENCE.findall(written))
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
