"""Figures of a training run: learning curves and a confusion matrix."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tfship.train.cards import FIGURES, Card, figure_path
from tfship.train.common.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw"]


def draw(card: Card, truth: NDArray[np.integer], predicted: NDArray[np.integer], folder: Path) -> None:
    """Write all figures of a run into `folder`; `truth` and `predicted` are the test images' classes [N]."""
    for kind, figure in zip(FIGURES, (_curves(card), _confusion(card, truth, predicted)), strict=True):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
        write_bytes(figure_path(folder, card.model, kind), buffer.getvalue())


def _curves(card: Card) -> "Figure":
    """Plot loss and error by epoch, in training and on the held-out images."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(10, 4)
    epochs = np.arange(1, len(card.history) + 1)
    for axes, (key, title) in zip(
        figure.subplots(1, 2), (("loss", "loss"), ("accuracy", "error, %")), strict=True
    ):
        for prefix, label in (("", "training (distorted, with dropout)"), ("val_", "validation")):
            values = np.array([epoch[prefix + key] for epoch in card.history])
            shown = 100 * (1 - values) if key == "accuracy" else values
            axes.plot(epochs, shown, marker="." if len(epochs) < 30 else None, label=label)
        axes.set(title=f"{card.model}: {title}", xlabel="epoch")
        if all(line.get_ydata().min() > 0 for line in axes.get_lines()):
            axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(which="both", alpha=0.3)
        axes.legend()
    return figure


def _confusion(card: Card, truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> "Figure":
    """Plot the confusion matrix; only mistakes are shaded."""
    count = len(card.classes)
    matrix = np.zeros((count, count), int)
    np.add.at(matrix, (truth, predicted), 1)
    mistakes = matrix * (1 - np.eye(count, dtype=int))
    figure = _figure(6, 6)
    axes = figure.subplots()
    axes.imshow(mistakes, cmap="Reds", vmax=max(1, mistakes.max()))
    for row in range(count):
        for column in range(count):
            if matrix[row, column]:
                dark = mistakes[row, column] > 0.6 * mistakes.max()
                axes.text(
                    column, row, matrix[row, column], ha="center", va="center",
                    color="white" if dark and row != column else "black",
                )  # fmt: skip
    axes.set(
        title=f"{card.model}: {mistakes.sum()} mistakes in {matrix.sum():,} test images",
        xlabel="predicted",
        ylabel="true",
        xticks=range(count),
        yticks=range(count),
        xticklabels=card.classes,
        yticklabels=card.classes,
    )
    return figure


def _figure(width: float, height: float) -> "Figure":
    # Not pyplot, which keeps every figure until it is closed, and needs a display.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
