"""Keras callbacks: progress, a checkpoint each epoch, a log for TensorBoard. Loads TensorFlow."""

import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfship.train import checkpoint
from tfship.train.cards import Card
from tfship.train.checkpoint import RunProgress
from tfship.train.common.errors import ResultError
from tfship.train.common.progress import Progress
from tfship.train.workers import Workers

__all__ = ["EpochCheckpoint", "ProgressReport", "tensorboard"]


class ProgressReport(keras.callbacks.Callback):  # type: ignore[misc]
    """Advances the progress bar and stops a run whose loss isn't finite."""

    def __init__(self, name: str, progress: Progress, epochs: int) -> None:
        super().__init__()
        self._name, self._progress, self._epochs = name, progress, epochs
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        """Note the epoch's number for the progress bar."""
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        """Show the figures so far. Raises ResultError if the loss isn't finite."""
        figures = logs or {}
        loss = float(figures["loss"])
        if not np.isfinite(loss):
            raise ResultError(
                f"{self._name}: the loss became {loss} in epoch {self._epoch}; lower the recipe's peak_learning_rate"
            )
        accuracy = float(figures["accuracy"])
        self._progress.advance(
            note=f"epoch {self._epoch}/{self._epochs}, loss {loss:.4f}, accuracy {accuracy:.4f}"
        )


class EpochCheckpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes the run's checkpoint after every epoch; `resume` restores the last one.

    The contents of `card` before the run identify the run: a checkpoint of any other run is ignored. `start` is the
    time when this process began the run, by `time.perf_counter`.
    """

    def __init__(self, model: keras.Model, folder: Path, card: Card, workers: Workers, start: float) -> None:
        super().__init__()
        model.optimizer.build(model.trainable_variables)
        # Everything that a step changes, including the states of dropout's random generators.
        self._variables = [*model.variables, *model.optimizer.variables]
        self._folder, self._name, self._identity = folder, card.model, asdict(card)
        self._workers, self._start = workers, start
        self._before = 0.0
        self.progress = RunProgress(0, 0.0, [])

    def resume(self) -> int:
        """Restore the last checkpoint of this run, if there is one, and return its number of complete epochs."""
        shapes = [tuple(each.shape) for each in self._variables]
        found = (
            checkpoint.read(self._folder, self._name, self._identity, shapes) if self._workers.chief else None
        )
        if found:
            self.progress, values = found
            self._before = self.progress.seconds
        else:
            values = [each.numpy() for each in self._variables]
        # All workers begin with the chief's state, a checkpoint or the initial weights.
        epochs, *values = self._workers.from_chief([np.array(self.progress.epochs), *values])
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)
        return int(epochs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Average the variables over all workers and write the checkpoint."""
        self._workers.average(self._variables)
        if not self._workers.chief:
            return
        figures = {key: float(value) for key, value in (logs or {}).items()}
        seconds = self._before + time.perf_counter() - self._start
        self.progress = RunProgress(epoch + 1, seconds, [*self.progress.history, figures])
        values = [each.numpy() for each in self._variables]
        checkpoint.write(self._folder, self._name, self._identity, self.progress, values)

    def clear(self) -> None:
        """Remove the checkpoint, after the run has ended."""
        checkpoint.clear(self._folder, self._name)


def tensorboard(folder: Path, name: str, first: int, workers: Workers) -> list[keras.callbacks.Callback]:
    """Return the callbacks that log to `folder/logs/name` for TensorBoard; epoch `first` = 0 starts a new log."""
    if not workers.chief:
        return []
    logs = folder / "logs" / name
    if not first:
        shutil.rmtree(logs, ignore_errors=True)
    return [keras.callbacks.TensorBoard(logs, write_graph=False)]
