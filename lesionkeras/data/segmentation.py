"""Prepared slices divided into who is trained on, who may choose an epoch and who is tested."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lesionkeras.config import SegmentationDataConfig
from lesionkeras.data.copies import check_copies
from lesionkeras.data.leak import LEAK_PROTOCOLS, choose_target, hold_out_target
from lesionkeras.data.sampling import (
    PROTOCOLS,
    SAMPLINGS,
    describe_leak,
    divide_slices,
    hold_out_named,
    repeat_lesions,
    sample_as_p3,
)
from lesionkeras.data.slices import PreparedSlices, join_slices, prepare_slices
from lesionkeras.data.splits import check_disjoint
from lesionkeras.errors import DataError, RecipeError

NORMALISATIONS = ("window", "standardise")
NUM_SLICES = (1, 3, 5)
LEAKING = ("volume", "p5")  # protocols that divide otherwise than by patient


@dataclass(frozen=True)
class SegmentationSplit:
    """Slices, and which of them are examples.

    Attributes:
        slices: At the network's size.
        rows: int64 [n], rows of `slices`; a row that stands twice is seen twice a pass.
    """

    slices: PreparedSlices
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def patients(self) -> list[str]:
        """The patient of each example."""
        return [self.slices.patients[i] for i in self.rows]

    @property
    def volumes(self) -> list[str]:
        """The volume of each example."""
        return [self.slices.volumes[i] for i in self.rows]

    def list_slices(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield name and HU [S, S] of every key slice."""
        middle = self.slices.neighbours.shape[1] // 2
        for i in self.rows:
            name = f"{self.slices.volumes[i]} slice {self.slices.numbers[i]}"
            yield name, self.slices.slices_hu[self.slices.neighbours[i, middle]]

    def describe(self) -> dict[str, int]:
        """Return how many slices, volumes and patients there are, and slices with what."""
        rows = np.unique(self.rows)
        return {
            "slices": len(rows),
            "volumes": len(set(self.volumes)),
            "patients": len(set(self.patients)),
            "with_liver": int(self.slices.has_liver[rows].sum()),
            "with_lesion": int(self.slices.has_lesion[rows].sum()),
        }


@dataclass(frozen=True)
class SegmentationSplits:
    """What a run trains on, what it may choose an epoch on, and what it is measured on once."""

    train: SegmentationSplit
    test: SegmentationSplit
    warning: str = ""  # not empty where the split leaks
    validation: SegmentationSplit | None = None

    def describe(self) -> dict[str, dict[str, int]]:
        """Return the counts of each split by its name."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part.describe() for name, part in parts.items() if part}


def check_segmentation_data(data: SegmentationDataConfig) -> None:
    """Raise unless the words and numbers of a config are known, and fit each other.

    Args:
        data: The config.

    Raises:
        RecipeError: The first field that is not, with what it may be; or somebody is held out by
            name under a protocol that draws whom it holds out.
    """
    known: tuple[tuple[str, Any, Sequence[Any]], ...] = (
        ("protocol", data.protocol, (*PROTOCOLS, *LEAK_PROTOCOLS)),
        ("sampling", data.sampling, SAMPLINGS),
        ("normalisation", data.normalisation, NORMALISATIONS),
        ("slices", data.slices, NUM_SLICES),
    )
    for name, value, choices in known:
        if value not in choices:
            raise RecipeError(
                f"data.{name} is unknown",
                found=repr(value),
                wanted="one of " + ", ".join(map(repr, choices)),
            )
    if data.held_out and data.protocol not in ("patient", *LEAK_PROTOCOLS):
        raise RecipeError(
            "Patients are held out by name from a split by patient alone",
            where="data.held_out",
            found=f"{', '.join(data.held_out)} with data.protocol={data.protocol}",
            wanted="data.protocol=patient",
            next_step="leave out --split or --held-out",
        )
    if len(set(data.splits)) < len(data.splits):
        raise RecipeError(
            "A split would be read twice",
            where="data.splits",
            found=", ".join(data.splits),
            wanted="each split once",
        )
    if data.protocol in LEAK_PROTOCOLS and len(data.held_out) != 1:
        raise RecipeError(
            "A leak is measured on one scan",
            where="data.held_out",
            found=f"{len(data.held_out)} names with data.protocol={data.protocol}",
            wanted="the name of one scan",
            next_step="run experiments.leak, which chooses one",
        )


def pool_slices(
    builders: Sequence[Any],
    names: Sequence[str],
    data: SegmentationDataConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PreparedSlices:
    """Read data sets as one.

    Args:
        builders: Prepared TFDS builders.
        names: Splits of each; none are all that it has.
        data: Image size and mm a pixel.
        progress: Called with slices done and slices in all while a cache is made.

    Returns:
        The slices of all splits, data set after data set.

    Raises:
        DataError: A split is unknown or empty, a slice has no mask, or two data sets have a scan of
            one name, whose slices would be taken for one scan's.
    """
    parts = [
        [prepare_slices(builder, name, data, progress) for name in names or _list_splits(builder)]
        for builder in builders
    ]
    home: dict[str, int] = {}
    for place, of_one in enumerate(parts):
        for volume in sorted({volume for part in of_one for volume in part.volumes}):
            first = home.setdefault(volume, place)
            if first != place:
                raise DataError(
                    "Two data sets have a scan of one name",
                    where="data.name",
                    found=f"scan {volume} in {builders[first].info.name} and in "
                    f"{builders[place].info.name}",
                    wanted="names of their own",
                    next_step="rename the scan's files in one of them and prepare it again, or "
                    "train on one of the two",
                )
    return join_slices([part for of_one in parts for part in of_one])


def open_segmentation_splits(
    builders: Sequence[Any],
    data: SegmentationDataConfig,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SegmentationSplits:
    """Read data sets and divide their slices as a protocol does.

    Args:
        builders: Prepared TFDS builders whose slices are pooled, such as LiTS and 3D-IRCADb.
        data: Splits, protocol, who is held out, sampling, image size.
        seed: Who is held out, and which slices are drawn, where they are drawn.
        progress: Called with slices done and slices in all while a cache is made.

    Returns:
        Train, test and, where asked for, validation; only the first is sampled.  Not every protocol
        keeps patients apart: those that do not have a warning.

    Raises:
        RecipeError: A word of the config is unknown.
        DataError: A split is unknown or empty, a slice has no mask, nobody can be held out, a
            patient or a slice is in two splits, or a scan's name is in two data sets.
    """
    check_segmentation_data(data)
    if data.protocol == "given":
        trained, tested = (
            pool_slices(builders, [name], data, progress) for name in ("train", "test")
        )
        kept, held = np.arange(len(trained)), np.arange(len(tested))
    else:
        trained = tested = pool_slices(builders, data.splits, data, progress)
        kept, held = _divide(trained, data, seed)
    test = SegmentationSplit(tested, held)
    warning = describe_leak(data.protocol, [trained.patients[i] for i in kept], test.patients)
    if not warning:
        train = SegmentationSplit(trained, kept)
        check_disjoint({"train": train.patients, "test": test.patients})
        check_copies({"train": train.list_slices(), "test": test.list_slices()})
    kept, validation = _take_validation(trained, kept, data, seed)
    if data.sampling == "p3":
        kept = kept[sample_as_p3(trained.has_liver[kept], trained.has_lesion[kept], seed)]
    elif data.sampling == "lesion":
        kept = kept[repeat_lesions(trained.has_lesion[kept], data.lesion_share, seed)]
    return SegmentationSplits(SegmentationSplit(trained, kept), test, warning, validation)


def _take_validation(
    slices: PreparedSlices, kept: np.ndarray, data: SegmentationDataConfig, seed: int
) -> tuple[np.ndarray, SegmentationSplit | None]:
    """Divide what is kept once more, as the protocol does."""
    if not data.validation_fraction:
        return kept, None
    patients, volumes = ([names[i] for i in kept] for names in (slices.patients, slices.volumes))
    protocol = data.protocol if data.protocol in LEAKING else "patient"
    trained, held = divide_slices(patients, volumes, protocol, data.validation_fraction, seed)
    return kept[trained], SegmentationSplit(slices, kept[held])


def _list_splits(builder: Any) -> list[str]:
    return [name for name, info in builder.info.splits.items() if info.num_examples]


def _divide(
    slices: PreparedSlices, data: SegmentationDataConfig, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    if data.protocol in LEAK_PROTOCOLS:
        return hold_out_target(
            slices.patients,
            slices.volumes,
            slices.has_lesion,
            data.protocol,
            choose_target(slices.patients, slices.volumes, data.held_out, seed),
            data.held_out_fraction,
            seed,
        )
    if data.held_out:
        return hold_out_named(slices.patients, slices.volumes, data.held_out)
    return divide_slices(
        slices.patients, slices.volumes, data.protocol, data.held_out_fraction, seed
    )
