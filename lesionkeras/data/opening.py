"""A prepared builder and a recipe to what is trained on, chosen on and tested on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lesionkeras.config import DetectionRecipe
from lesionkeras.data.prepared import Prepared, concatenate, prepare
from lesionkeras.data.splits import (
    PAPER_WARNING,
    check_disjoint,
    hold_out_patients,
    make_copies,
    split_as_paper,
)


@dataclass(frozen=True)
class Split:
    """Images and the list of examples made of them.

    Attributes:
        images: At the network's size.
        rows: int64 [N, 2] of image index and copy number (0 is the image itself).
    """

    images: Prepared
    rows: np.ndarray

    @property
    def patients(self) -> list[str]:
        """The patient of each example."""
        return [self.images.patients[i] for i in self.rows[:, 0]]

    def describe(self) -> dict[str, int]:
        """Return how many examples, images, patients and lesions there are."""
        used = np.unique(self.rows[:, 0])
        return {
            "examples": len(self.rows),
            "images": len(used),
            "patients": len({self.images.patients[i] for i in used}),
            "lesions": int((self.images.classes[used] >= 0).sum()),
        }


@dataclass(frozen=True)
class Splits:
    """What a run trains on, chooses its best epoch on, and is measured on once."""

    train: Split
    validation: Split | None
    test: Split
    warning: str = ""  # not empty where the split leaks

    def describe(self) -> dict[str, dict[str, int]]:
        """Return the counts of each split by its name."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part.describe() for name, part in parts.items() if part}


def _plain(images: Prepared) -> Split:
    return Split(images, make_copies(len(images), 0))


def open_splits(
    builder: Any,
    recipe: DetectionRecipe,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Splits:
    """Read the splits that a recipe names, by patient unless it asks for P1's.

    Args:
        builder: A prepared TFDS builder with the shared detection schema.
        recipe: Its `data` names splits and protocol, its `augment` the copies.
        progress: Called with images done and images in all while a cache is made.

    Returns:
        The splits; without validation_split and validation_fraction none is held out.

    Raises:
        DataError: A split is unknown or empty, or a patient is in two.
    """
    data = recipe.data
    if data.protocol == "paper":
        return _open_as_paper(builder, recipe, progress)
    train, test = (prepare(builder, s, data, progress) for s in (data.train_split, data.test_split))
    validation = None
    if data.validation_split:
        validation = prepare(builder, data.validation_split, data, progress)
    elif data.validation_fraction:
        kept, held = hold_out_patients(train.patients, data.validation_fraction, recipe.train.seed)
        train, validation = train.take(kept), train.take(held)
    parts = {"train": train, "validation": validation, "test": test}
    check_disjoint({name: part.patients for name, part in parts.items() if part is not None})
    copies = recipe.augment.copies if recipe.augment.mode == "copies" else 0
    return Splits(
        Split(train, make_copies(len(train), copies)),
        _plain(validation) if validation is not None else None,
        _plain(test),
    )


def _open_as_paper(
    builder: Any, recipe: DetectionRecipe, progress: Callable[[int, int], None]
) -> Splits:
    """P1's split: all images, their copies, 80/20; what it validates on is what it tests on."""
    names = [name for name, info in builder.info.splits.items() if info.num_examples]
    images = concatenate([prepare(builder, name, recipe.data, progress) for name in names])
    rows = make_copies(len(images), 0 if recipe.augment.mode == "none" else recipe.augment.copies)
    train_rows, test_rows = split_as_paper(rows, recipe.train.seed)
    test = Split(images, test_rows)
    return Splits(Split(images, train_rows), test, test, PAPER_WARNING)
