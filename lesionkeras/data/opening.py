"""Prepared builders and a recipe to what is trained on, chosen on and tested on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lesionkeras.config import DataConfig, DetectionRecipe
from lesionkeras.data.copies import check_copies
from lesionkeras.data.data_sets import DataSets
from lesionkeras.data.made_boxes import check_made_lesions
from lesionkeras.data.prepared import Prepared, concatenate, prepare
from lesionkeras.data.sampling import hold_out_named, repeat_lesions
from lesionkeras.data.splits import (
    PAPER_WARNING,
    check_disjoint,
    describe_p2_leak,
    hold_out_patients,
    make_copies,
    split_as_paper,
)
from lesionkeras.errors import DataError

Progress = Callable[[int, int], None]


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

    def list_slices(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the file and the key slice, HU [S, S], of every image that is used."""
        for i in np.unique(self.rows[:, 0]):
            yield self.images.files[i], self.images.images[i][..., 1]

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
    further: Mapping[str, Split] = field(default_factory=dict)  # data.test_sets, by name

    def describe(self) -> dict[str, dict[str, int]]:
        """Return the counts of each split by its name."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part.describe() for name, part in (parts | {**self.further}).items() if part}


def _plain(images: Prepared, rows: np.ndarray | None = None) -> Split:
    used = np.arange(len(images)) if rows is None else rows
    return Split(images, np.stack([used, np.zeros_like(used)], axis=1))


def open_splits(
    data_sets: Any,
    recipe: DetectionRecipe,
    progress: Progress = lambda done, total: None,
) -> Splits:
    """Read the splits that a recipe names, by patient unless it asks for a paper's.

    Args:
        data_sets: A prepared TFDS builder with the shared detection schema, or `DataSets`.
        recipe: Its `data` names splits and protocol, its `augment` the copies.
        progress: Called with images done and images in all while a cache is made.

    Returns:
        The splits; without validation_split and validation_fraction none is held out.

    Raises:
        DataError: A split is unknown or empty, nobody can be held out, no image has a lesion where
            only such are trained on, or a patient is in two.
    """
    data, data_sets = recipe.data, DataSets.of(data_sets)
    if data.protocol == "paper":
        return _open_as_paper(data_sets.pooled, recipe, progress)
    train, validation, test = _divide(data_sets.pooled, recipe, progress)
    warning = ""
    if data.protocol == "p2":
        warning = describe_p2_leak(train.patients, validation.patients if validation else ())
    known = {"train": train, "validation": validation, "test": test}
    parts = {name: part for name, part in known.items() if part is not None}
    for left_out in ("validation", "train") if warning else ("",):  # those two share what is said
        _check_apart({name: part for name, part in parts.items() if name != left_out})
    further = {
        name: _plain(pool_images([builder], list_splits(builder), data, progress))
        for name, builder in data_sets.further.items()
    }
    for name, part in further.items():
        for kind in sorted(parts.keys() - {"test"}):
            _check_apart({kind: parts[kind], name: part})
    check_made_lesions(train.images, train.rows[:, 0], recipe)
    return Splits(_choose_examples(train, recipe), validation, test, warning, further)


def _check_apart(parts: Mapping[str, Split]) -> None:
    """Raise where a patient is in two splits, or a slice under another name."""
    check_disjoint({name: part.patients for name, part in parts.items()})
    check_copies({name: part.list_slices() for name, part in parts.items()})


def _divide(
    builders: Sequence[Any], recipe: DetectionRecipe, progress: Progress
) -> tuple[Split, Split | None, Split]:
    """What is trained on, chosen on and tested on, an example an image."""
    data = recipe.data
    if data.held_out:
        names = {name for builder in builders for name in list_splits(builder)}
        images = pool_images(builders, sorted(names), data, progress)
        kept, held = hold_out_named(
            images.patients, images.volumes or images.patients, data.held_out
        )
        train, test = _plain(images, kept), _plain(images, held)
    else:
        train, test = (
            _plain(pool_images(builders, [name], data, progress))
            for name in (data.train_split, data.test_split)
        )
        if data.validation_split:
            images = pool_images(builders, [data.validation_split], data, progress)
            return train, _plain(images), test
    if not data.validation_fraction:
        return train, None, test
    kept, held = hold_out_patients(train.patients, data.validation_fraction, recipe.train.seed)
    images, used = train.images, train.rows[:, 0]
    return _plain(images, used[kept]), _plain(images, used[held]), test


def list_splits(builder: Any) -> list[str]:
    """Return the names of the splits of a prepared builder that have images."""
    return [name for name, info in builder.info.splits.items() if info.num_examples]


def pool_images(
    builders: Sequence[Any], names: Sequence[str], data: DataConfig, progress: Progress
) -> Prepared:
    """Return the images of the named splits of all data sets that have them.

    Args:
        builders: Prepared TFDS builders with the shared detection schema.
        names: Splits; one data set must have one of them.
        data: Image size, mm a pixel, convention of boxes, types of lesions.
        progress: Called with images done and images in all while a cache is made.

    Raises:
        DataError: What `prepared.prepare` raises.
    """
    having = [
        (builder, name) for name in names for builder in builders if name in list_splits(builder)
    ]
    having = having or [(builders[0], names[0])]  # which says what is missing
    parts = [prepare(builder, name, data, progress) for builder, name in having]
    return parts[0] if len(parts) == 1 else concatenate(parts)


def _choose_examples(train: Split, recipe: DetectionRecipe) -> Split:
    """Repeat images with a lesion up to the recipe's share, and add the copies."""
    used, share = train.rows[:, 0], recipe.data.lesion_share
    has_lesion = (train.images.classes[used] >= 0).any(axis=1)
    if share and not has_lesion.any():
        raise DataError(
            "No training image has a lesion",
            where=f"data.lesion_share {share:g}",
            wanted="one at least",
            next_step="train on other data, or set data.lesion_share=0",
        )
    if share == 1:
        used = used[has_lesion]
    elif share:
        used = used[repeat_lesions(has_lesion, share, recipe.train.seed)]
    rows = make_copies(len(used), recipe.augment.copies if recipe.augment.mode == "copies" else 0)
    return Split(train.images, np.stack([used[rows[:, 0]], rows[:, 1]], axis=1))


def _open_as_paper(builders: Sequence[Any], recipe: DetectionRecipe, progress: Progress) -> Splits:
    """P1's split: all images, their copies, 80/20; what it validates on is what it tests on."""
    parts = [
        prepare(builder, name, recipe.data, progress)
        for builder in builders
        for name in list_splits(builder)
    ]
    images = concatenate(parts)
    check_made_lesions(images, np.arange(len(images)), recipe)
    rows = make_copies(len(images), 0 if recipe.augment.mode == "none" else recipe.augment.copies)
    train_rows, test_rows = split_as_paper(rows, recipe.train.seed)
    test = Split(images, test_rows)
    return Splits(Split(images, train_rows), test, test, PAPER_WARNING)
