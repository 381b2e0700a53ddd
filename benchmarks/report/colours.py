"""The report's colours: by what they stand for, light and dark, told apart by colour-blind readers too.

Plots are drawn with placeholders, which become CSS variables: one drawing serves both themes.
"""

__all__ = ["FORMATS", "PARTS", "css", "of_format", "placeholder", "variable"]

# Light and dark. What a page is made of:
_PAGE = {
    "paper": ("#ffffff", "#14171c"),
    "ink": ("#1c2430", "#e3e7ec"),
    "muted": ("#5b6675", "#9aa5b3"),
    "grid": ("#e3e7ec", "#2b313a"),
    "raised": ("#f5f6f8", "#1b1f26"),
}
# One colour for each format, in all plots and tables. They were searched for: every two differ by 9 or more hundredths
# of OKLab, as they are and as Machado's matrices (2009) show them to the red- and the green-blind.
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
# The parts of a request in the order of time: the client's blue, the network grey, the server's orange.
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
    """Return whose colour a row of this format has; a format that nobody knows is drawn in grey."""
    return name if name in FORMATS else "muted"


def placeholder(name: str) -> str:
    """Return the colour to draw with for what becomes a variable: one that nothing else has."""
    return f"#{0xC0FE00 + list(_ALL).index(name):06x}"


def variable(drawn: str) -> str:
    """Return the CSS that stands for a placeholder; KeyError if something was drawn in another colour."""
    return _VARIABLES[drawn]


def css() -> str:
    """Return the variables' definitions, those of the dark theme where the reader's system is dark."""
    light, dark = (
        " ".join(f"--{name}: {colours[theme]};" for name, colours in _ALL.items()) for theme in (0, 1)
    )
    # On paper it is always day.
    return f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


_VARIABLES = {placeholder(name): f"var(--{name})" for name in _ALL}
