"""What a command has to train: what is up to date is left alone, teachers come before those they teach."""

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

__all__ = ["Session"]


class Session:
    """Trains networks by one recipe on one data set; TensorFlow is loaded when the first needs it.

    `epochs` overrides the recipe's; `force` trains what is up to date too, once.
    """

    def __init__(
        self, recipe: str, digits: Digits, models: Path, epochs: int | None = None, *, force: bool = False
    ) -> None:
        self._recipes = RECIPES[recipe]
        self._digits, self._models, self._epochs, self._force = digits, models, epochs, force
        self._workers: Workers | None = None
        self._done: dict[tuple[str, Path], Card] = {}
        self._lessons: dict[Any, Any] = {}

    def recipe(self, name: str) -> Recipe:
        """Return the settings for a network."""
        recipe = self._recipes[name]
        return recipe if self._epochs is None else replace(recipe, epochs=self._epochs, min_steps=0)

    def train(self, name: str, seed: int, folder: Path) -> Card:
        """Train network `name` into `folder` unless it is up to date there, its teachers before it; return its card."""
        if (name, folder) in self._done:
            return self._done[name, folder]
        recipe = self.recipe(name)
        teachers = self._teachers(name, recipe)
        team = self._team()
        card = None
        if team.chief and not self._force:
            card = cards.up_to_date(folder, name, self._digits, recipe, seed, teachers.values())
        # What lies in the chief's folder counts: the others have another, or nothing in it.
        found = json.loads(team.text_from_chief(json.dumps(card and asdict(card))))
        if found:
            card = Card(**found)
            cli.say(f"{name}: up to date (same data, recipe and seed; --force trains again)")
        else:
            card = self._fit(name, recipe, seed, folder, teachers, team)
        self._done[name, folder] = card
        return card

    def _teachers(self, name: str, recipe: Recipe) -> dict[Path, Card]:
        """Return the cards of those that a network learns from, trained if need be, by their folders."""
        if not recipe.teachers:
            return {}
        teachers = recipe.teachers
        folders = {seed: self._models / "teachers" / str(seed) for seed in range(1, teachers.count + 1)}
        cli.say(f"{name}: learns from {teachers.count} teachers, which come first")
        return {folder: self.train(teachers.network, seed, folder) for seed, folder in folders.items()}

    def _fit(
        self, name: str, recipe: Recipe, seed: int, folder: Path, teachers: dict[Path, Card], team: Workers
    ) -> Card:
        # TensorFlow takes seconds to load: not before there is something to train.
        tensorflow_loader.tensorflow()
        from tfship.train import trainer

        # Networks with the same teachers learn from the same views of the same images, at whatever weight.
        key = recipe.teachers and (replace(recipe.teachers, weight=0.0), recipe.augmentation)
        if key not in self._lessons:
            self._lessons = {key: trainer.prepare(recipe, self._digits, teachers, team)}
        cli.say(f"{name}: training with seed {seed}")
        return trainer.fit(name, recipe, self._digits, seed, folder, lesson=self._lessons[key], workers=team)

    def _team(self) -> Workers:
        if self._workers is None:
            self._workers = workers.connect(cli.say)
            chiefs = self._workers.text_from_chief(self._digits.sha256)
            if chiefs != self._digits.sha256:
                raise DataError(
                    f"this worker's data has sha256 {self._digits.sha256}, the chief's {chiefs}; give every worker "
                    "the same with --data"
                )
        return self._workers
