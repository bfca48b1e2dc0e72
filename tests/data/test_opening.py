from dataclasses import replace
from types import SimpleNamespace

import pytest

from lesionkeras.config import AugmentConfig, DataConfig, SSDRecipe, TrainConfig
from lesionkeras.data import opening
from lesionkeras.data.data_sets import DataSets
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


LITS = {"train": make_prepared(6), "validation": make_prepared(2, first=20)}
IRCADB = {"train": make_prepared(4, first=30), "test": make_prepared(2, first=40)}
KEY_SLICES = {"test": make_prepared(5, first=60)}


def make_builder(name, parts):
    splits = {split: SimpleNamespace(num_examples=len(part)) for split, part in parts.items()}
    return SimpleNamespace(name=name, parts=parts, info=SimpleNamespace(splits=splits))


@pytest.fixture
def pooled(monkeypatch):
    monkeypatch.setattr(opening, "prepare", lambda builder, split, *words: builder.parts[split])
    lits, ircadb = make_builder("lits", LITS), make_builder("ircadb01", IRCADB)
    return DataSets((lits, ircadb), {"deeplesion/liver": make_builder("dl", KEY_SLICES)})


def open_pooled(data_sets, **data):
    recipe = SSDRecipe(data=DataConfig(name="lits+ircadb01", **data))
    return open_splits(data_sets, recipe)


def list_files(split):
    return sorted(split.images.files[i] for i in split.rows[:, 0])


def test_splits_of_pooled_data_sets(pooled):
    splits = open_pooled(pooled)
    assert list_files(splits.train) == sorted((*LITS["train"].files, *IRCADB["train"].files))
    assert list_files(splits.validation) == sorted(LITS["validation"].files)  # one of them has it
    assert list_files(splits.test) == sorted(IRCADB["test"].files)
    assert list_files(splits.further["deeplesion/liver"]) == sorted(KEY_SLICES["test"].files)
    assert list(splits.describe()) == ["train", "validation", "test", "deeplesion/liver"]
    assert splits.describe()["deeplesion/liver"]["patients"] == 3


def test_patients_held_out_by_name_whatever_their_split(pooled):
    splits = open_pooled(pooled, held_out=("010", "016"))  # LiTS validation, IRCADb train
    assert list_files(splits.test) == ["020.png", "021.png", "032.png", "033.png"]
    assert len(splits.train.rows) == 10 and splits.validation is None
    assert not set(splits.train.patients) & set(splits.test.patients)
    again = open_pooled(pooled, held_out=("010",), validation_fraction=0.34)
    assert len(set(again.validation.patients)) == 2
    everybody = [*again.train.patients, *again.validation.patients, *again.test.patients]
    assert len(everybody) == 14 and len(set(everybody)) == 7
    assert again.train.images.images[int(again.train.rows[3, 0])].shape == (32, 32, 3)


def test_nobody_of_that_name(pooled):
    with pytest.raises(
        DataError, match=r"Who is held out is not there in data.held_out: found 'x'"
    ):
        open_pooled(pooled, held_out=("x",))


@pytest.mark.parametrize("seen", ["train", "validation"])
def test_who_was_trained_on_is_no_further_test(pooled, seen):
    known = make_prepared(1, first=0 if seen == "train" else 20)
    sets = DataSets(pooled.pooled, {"deeplesion/liver": make_builder("dl", {"test": known})})
    with pytest.raises(DataError, match=f"found {seen} and deeplesion/liver"):
        open_pooled(sets)


def lose_lesions(part, count):
    classes = part.classes.copy()
    classes[:count] = -1
    return replace(part, classes=classes)


@pytest.mark.parametrize(
    ("share", "rows", "with_lesion"), [(0.0, 6, 2), (0.2, 6, 2), (0.6, 10, 6), (1.0, 2, 2)]
)
def test_lesion_share(monkeypatch, share, rows, with_lesion):
    parts = {"train": lose_lesions(make_prepared(6), 4), "test": make_prepared(2, first=20)}
    monkeypatch.setattr(opening, "prepare", lambda builder, split, *words: builder.parts[split])
    data = DataConfig(lesion_share=share, validation_split="")
    splits = open_splits(make_builder("one", parts), SSDRecipe(data=data))
    used = splits.train.rows[:, 0]
    assert len(used) == rows and (used >= 4).sum() == with_lesion
    assert len(splits.test.rows) == 2 and not splits.train.rows[:, 1].any()


def test_no_lesion_at_all_cannot_be_repeated(monkeypatch):
    parts = {"train": lose_lesions(make_prepared(2), 2), "test": make_prepared(2, first=20)}
    monkeypatch.setattr(opening, "prepare", lambda builder, split, *words: builder.parts[split])
    data = DataConfig(lesion_share=0.5, validation_split="")
    with pytest.raises(DataError) as caught:
        open_splits(make_builder("one", parts), SSDRecipe(data=data))
    assert str(caught.value) == (
        "No training image has a lesion in data.lesion_share 0.5: wanted one at least; train on "
        "other data, or set data.lesion_share=0."
    )


def test_p2s_own_split_leaks_between_training_and_validation(images):
    images["validation"] = make_prepared(3, first=4)  # patient 002 is in both, 003 is not
    recipe = change(name="deeplesion", protocol="p2")
    splits = open_splits(BUILDER, recipe)
    assert splits.warning == (
        "This split leaks: of P2's list 1 patient are both trained on and validated on, so that "
        "the epoch it chooses is the one that knows them best; nobody who is tested on is among "
        "them."
    ).replace("1 patient are", "1 patient is")
    with pytest.raises(DataError, match="found train and validation"):
        open_splits(BUILDER, change(name="deeplesion"))
    for split, first in (("train", 30), ("validation", 32)):
        images[split] = make_prepared(1, first=first)
        with pytest.raises(DataError, match=f"found {split} and test"):
            open_splits(BUILDER, recipe)
        images[split] = IMAGES[split]
    assert open_splits(BUILDER, recipe).warning == ""
