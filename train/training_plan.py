"""Training in the right order: teachers before students, and no network that is up to date."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tfship.train import cards, workers
from tfship.train.cards import Card
from tfship.train.common import cli, tensorflow_loader
from tfship.train.common.errors import DataError
from tfship.train.data.datasets import Digits
from tfship.train.recipe import RECIPES, Recipe
from tfship.train.workers import Workers

__all__ = ["TrainingPlan"]


class TrainingPlan:
    """Trains networks by one recipe on one data set. TensorFlow is loaded only if a network has to be trained.

    `epochs` overrides the recipe's number. With `force`, networks that are up to date are trained again, each once.
    """

    def __init__(
        self, recipe: str, digits: Digits, models: Path, epochs: int | None = None, *, force: bool = False
    ) -> None:
        self._recipes = RECIPES[recipe]
        self._digits, self._models, self._epochs, self._force = digits, models, epochs, force
        self._workers: Workers | None = None
        self._done: dict[tuple[str, Path], Card] = {}
        self._soft_targets: dict[Any, Any] = {}

    def recipe(self, name: str) -> Recipe:
        """Return the recipe of network `name`."""
        recipe = self._recipes[name]
        return recipe if self._epochs is None else replace(recipe, epochs=self._epochs, min_steps=0)

    def train(self, name: str, seed: int, folder: Path) -> Card:
        """Train network `name` into `folder`, after its teachers, unless it is up to date there; return its card."""
        if (name, folder) in self._done:
            return self._done[name, folder]
        recipe = self.recipe(name)
        teachers = self._teachers(name, recipe)
        group = self._group()
        card = None
        if group.chief and not self._force:
            card = cards.up_to_date(folder, name, self._digits, recipe, seed, teachers.values())
        # The chief's folder decides: other workers may have other files, or none.
        current = json.loads(group.text_from_chief(json.dumps(card and asdict(card))))
        if current:
            card = Card(**current)
            cli.say(f"{name}: up to date (same data, recipe and seed; --force trains again)")
        else:
            card = self._fit(name, recipe, seed, folder, teachers, group)
        self._done[name, folder] = card
        return card

    def _teachers(self, name: str, recipe: Recipe) -> dict[Path, Card]:
        """Return the cards of a network's teachers by folder, after training those that aren't up to date."""
        if not recipe.teachers:
            return {}
        teachers = recipe.teachers
        folders = {seed: self._models / "teachers" / str(seed) for seed in range(1, teachers.count + 1)}
        cli.say(f"{name}: {teachers.count} teachers are trained first")
        return {folder: self.train(teachers.network, seed, folder) for seed, folder in folders.items()}

    def _fit(
        self, name: str, recipe: Recipe, seed: int, folder: Path, teachers: dict[Path, Card], group: Workers
    ) -> Card:
        # Loaded here, since it takes seconds, and only if there is something to train.
        tensorflow_loader.tensorflow()
        from tfship.train import trainer

        # Students of the same teachers use the same views of the same images, whatever the weight.
        key = recipe.teachers and (replace(recipe.teachers, weight=0.0), recipe.augmentation)
        if key not in self._soft_targets:
            self._soft_targets = {key: trainer.prepare(recipe, self._digits, teachers, group)}
        cli.say(f"{name}: training with seed {seed}")
        return trainer.fit(
            name, recipe, self._digits, seed, folder, soft_targets=self._soft_targets[key], workers=group
        )

    def _group(self) -> Workers:
        if self._workers is None:
            self._workers = workers.connect(cli.say)
            expected = self._workers.text_from_chief(self._digits.sha256)
            if expected != self._digits.sha256:
                raise DataError(
                    f"this worker's data has sha256 {self._digits.sha256}, the chief's {expected}; give every worker "
                    "the same --data"
                )
        return self._workers
