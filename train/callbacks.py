"""What goes along with `fit`: progress, a checkpoint each epoch, a log for TensorBoard. Loads TensorFlow."""

import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfship.train import checkpoint
from tfship.train.cards import Card
from tfship.train.checkpoint import Progressed
from tfship.train.common.errors import ResultError
from tfship.train.common.progress import Progress
from tfship.train.workers import Workers

__all__ = ["Report", "Resumable", "tensorboard"]


class Report(keras.callbacks.Callback):  # type: ignore[misc]
    """Moves the progress bar and ends a run whose loss is no number any more."""

    def __init__(self, name: str, progress: Progress, epochs: int) -> None:
        super().__init__()
        self._name, self._progress, self._epochs = name, progress, epochs
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        """Note which epoch it is, for what is shown."""
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        """Show the figures so far; raises ResultError if they are none."""
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


class Resumable(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes the run's checkpoint after every epoch; `resume` puts a model into the state of the last one.

    What `card` says before a run tells which run it is: a checkpoint of any other is not gone on from. `start`
    is when this process began with the run, by `time.perf_counter`.
    """

    def __init__(self, model: keras.Model, folder: Path, card: Card, workers: Workers, start: float) -> None:
        super().__init__()
        model.optimizer.build(model.trainable_variables)
        # The state of everything that a step changes, dropout's random generators among it.
        self._variables = [*model.variables, *model.optimizer.variables]
        self._folder, self._name, self._identity = folder, card.model, asdict(card)
        self._workers, self._start = workers, start
        self._before = 0.0
        self.progressed = Progressed(0, 0.0, [])

    def resume(self) -> int:
        """Restore the last checkpoint of this run, if there is one, and return how many epochs it has done."""
        shapes = [tuple(each.shape) for each in self._variables]
        found = (
            checkpoint.read(self._folder, self._name, self._identity, shapes) if self._workers.chief else None
        )
        if found:
            self.progressed, values = found
            self._before = self.progressed.seconds
        else:
            values = [each.numpy() for each in self._variables]
        # All workers begin with what the chief has, be it a checkpoint or the first weights.
        epochs, *values = self._workers.from_chief([np.array(self.progressed.epochs), *values])
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)
        return int(epochs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Make the workers equal and write the checkpoint."""
        self._workers.average(self._variables)
        if not self._workers.chief:
            return
        figures = {key: float(value) for key, value in (logs or {}).items()}
        seconds = self._before + time.perf_counter() - self._start
        self.progressed = Progressed(epoch + 1, seconds, [*self.progressed.history, figures])
        values = [each.numpy() for each in self._variables]
        checkpoint.write(self._folder, self._name, self._identity, self.progressed, values)

    def clear(self) -> None:
        """Remove the checkpoint: the run has ended."""
        checkpoint.clear(self._folder, self._name)


def tensorboard(folder: Path, name: str, first: int, workers: Workers) -> list[keras.callbacks.Callback]:
    """Return what logs the run to `folder/logs/name` for TensorBoard; a run from its beginning begins it anew."""
    if not workers.chief:
        return []
    logs = folder / "logs" / name
    if not first:
        shutil.rmtree(logs, ignore_errors=True)
    return [keras.callbacks.TensorBoard(logs, write_graph=False)]
