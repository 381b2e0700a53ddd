"""The report's colours by role, for the light and the dark theme, distinguishable for colour-blind readers.

Plots are drawn with placeholder colours, which become CSS variables, so one drawing serves both themes.
"""

__all__ = ["FORMATS", "PARTS", "css", "of_format", "placeholder", "variable"]

# Each colour for the light and the dark theme. The page:
_PAGE = {
    "paper": ("#ffffff", "#14171c"),
    "ink": ("#1c2430", "#e3e7ec"),
    "muted": ("#5b6675", "#9aa5b3"),
    "grid": ("#e3e7ec", "#2b313a"),
    "raised": ("#f5f6f8", "#1b1f26"),
}
# One colour per format, in all plots and tables. An automatic search chose them: any two differ by 0.09 or more in
# OKLab, for normal vision and for red- and green-blindness by the matrices of Machado et al. (2009).
FORMATS = {
    "float32": ("#3d4653", "#d3dbec"),
    "dynamic": ("#0a704d", "#6ef588"),
    "float16": ("#0161da", "#527cff"),
    "int8": ("#c31f00", "#dc6802"),
    "int8_uint8": ("#9e9402", "#daad01"),
    "int16x8": ("#977bff", "#9c4fb5"),
    "selective": ("#9e2599", "#fb78b6"),
    "savedmodel": ("#08a0bc", "#01bcff"),
    "keras": ("#f4548f", "#cd3066"),
}
# The parts of a request in order: the client's are blue, the network grey, the server's orange.
PARTS = {
    "prepare": ("#0b4f8a", "#9bd0ff"),
    "encode": ("#3d8fd1", "#5fa8e6"),
    "network": ("#b9c1ca", "#5d6875"),
    "queue": ("#f3c98b", "#8a5a17"),
    "server_decode": ("#e59a3c", "#c07d24"),
    "inference": ("#c2410c", "#f08a4b"),
    "server_encode": ("#7c2d12", "#ffd0ad"),
    "decode": ("#7fbdec", "#2f6fa8"),
}
_ALL = {**_PAGE, **FORMATS, **PARTS}


def of_format(name: str) -> str:
    """Return the colour's name for a format; unknown formats are grey."""
    return name if name in FORMATS else "muted"


def placeholder(name: str) -> str:
    """Return the unique colour to draw with for the colour `name`."""
    return f"#{0xC0FE00 + list(_ALL).index(name):06x}"


def variable(drawn: str) -> str:
    """Return the CSS variable for the placeholder `drawn`. Raises KeyError for any other colour."""
    return _VARIABLES[drawn]


def css() -> str:
    """Return the CSS variables' definitions; the dark theme applies if the reader's system uses one."""
    light, dark = (
        " ".join(f"--{name}: {colours[theme]};" for name, colours in _ALL.items()) for theme in (0, 1)
    )
    # `screen`: paper always has the light theme.
    return f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


_VARIABLES = {placeholder(name): f"var(--{name})" for name in _ALL}
