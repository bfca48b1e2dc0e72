from dataclasses import replace
from types import SimpleNamespace

import pytest

from lesionkeras.config import AugmentConfig, DataConfig, SSDRecipe, TrainConfig
from lesionkeras.data import opening
from lesionkeras.data.opening import open_splits
from lesionkeras.data.splits import PAPER_WARNING
from lesionkeras.errors import DataError
from tests.data.made import make_prepared

IMAGES = {
    "train": make_prepared(6),
    "validation": make_prepared(2, first=20),
    "test": make_prepared(4, first=30),
}
RECIPE = SSDRecipe(augment=AugmentConfig(mode="copies", copies=3))
BUILDER = SimpleNamespace(
    info=SimpleNamespace(
        splits={
            **{name: SimpleNamespace(num_examples=len(p)) for name, p in IMAGES.items()},
            "unlabelled": SimpleNamespace(num_examples=0),
        }
    )
)


@pytest.fixture
def images(monkeypatch):
    """`prepare` gives these; a test may change them."""
    given = dict(IMAGES)
    monkeypatch.setattr(opening, "prepare", lambda builder, split, data, progress: given[split])
    return given


def change(**data):
    return replace(RECIPE, data=DataConfig(**data))


def test_splits_by_patient(images):
    splits = open_splits(BUILDER, RECIPE)
    assert splits.warning == ""
    assert splits.describe() == {
        "train": {"examples": 24, "images": 6, "patients": 3, "lesions": 6},
        "validation": {"examples": 2, "images": 2, "patients": 1, "lesions": 2},
        "test": {"examples": 4, "images": 4, "patients": 2, "lesions": 4},
    }
    assert splits.train.rows[:5].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]]
    assert splits.train.patients[:9] == ["000"] * 8 + ["001"]
    assert splits.test.rows.tolist() == [[0, 0], [1, 0], [2, 0], [3, 0]]


@pytest.mark.parametrize("mode", ["none", "online"])
def test_copies_are_made_only_where_asked(images, mode):
    recipe = replace(RECIPE, augment=replace(RECIPE.augment, mode=mode))
    assert len(open_splits(BUILDER, recipe).train.rows) == 6


def test_validation_patients_held_out_of_training(images):
    recipe = change(validation_split="", validation_fraction=0.34)
    recipe = replace(recipe, train=TrainConfig(seed=5))
    splits = open_splits(BUILDER, recipe)
    counts = splits.describe()
    assert counts["train"] == {"examples": 16, "images": 4, "patients": 2, "lesions": 4}
    assert counts["validation"] == {"examples": 2, "images": 2, "patients": 1, "lesions": 2}
    assert not set(splits.train.patients) & set(splits.validation.patients)
    held = {
        open_splits(BUILDER, replace(recipe, train=TrainConfig(seed=seed))).validation.patients[0]
        for seed in range(20)
    }
    assert held == {"000", "001", "002"}


def test_no_validation_at_all(images):
    splits = open_splits(BUILDER, change(validation_split=""))
    assert splits.validation is None and splits.describe().keys() == {"train", "test"}


@pytest.mark.parametrize("names", [("train", "test"), ("validation", "test")])
def test_patient_in_two_splits_is_an_error(images, names):
    first = 30 if "train" in names else 32
    images[names[0]] = make_prepared(1, first=first)
    with pytest.raises(DataError) as caught:
        open_splits(BUILDER, RECIPE)
    assert str(caught.value) == (
        f"A patient is in two splits in patient {first // 2:03d}: found {names[0]} and test, "
        "wanted one split a patient; move all images of the patient to one of them."
    )


def test_split_named_twice_is_an_error(images):
    with pytest.raises(DataError, match="found train and test"):
        open_splits(BUILDER, change(test_split="train"))


@pytest.mark.parametrize(("mode", "copies"), [("copies", 3), ("online", 3), ("none", 0)])
def test_papers_split_leaks_and_says_so(images, mode, copies):
    recipe = replace(change(protocol="paper"), augment=replace(RECIPE.augment, mode=mode))
    splits = open_splits(BUILDER, recipe)
    assert splits.warning == PAPER_WARNING
    assert splits.validation is splits.test
    total = 12 * (1 + copies)
    assert len(splits.test.rows) == round(0.2 * total)
    assert len(splits.train.rows) == total - len(splits.test.rows)
    assert splits.train.images.files == splits.test.images.files  # all splits of the data set
    assert set(splits.train.patients) & set(splits.test.patients)
    both = set(splits.train.rows[:, 0]) & set(splits.test.rows[:, 0])
    assert bool(both) == (mode != "none")  # copies of one image on both sides
