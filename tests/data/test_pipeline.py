import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest

from lesionkeras.config import AugmentConfig, DataConfig, SSDRecipe, TrainConfig
from lesionkeras.data.opening import Split, open_splits
from lesionkeras.data.pipeline import (
    describe_augmentation,
    make_eval,
    make_train,
    steps_per_epoch,
)
from tests.data.made import HIGH_HU, LOW_HU, make_split, read_numbers

DATA = DataConfig(window_hu=(LOW_HU, HIGH_HU))
PLAIN = SSDRecipe(
    data=DATA,
    augment=AugmentConfig(mode="none"),
    train=TrainConfig(batch_size=3, images_per_epoch=0, seed=11),
)
ONLINE = replace(PLAIN, augment=AugmentConfig(mode="online", flip_left_right=True, crop_size_px=16))
COPIES = replace(PLAIN, augment=AugmentConfig(mode="copies", copies=4, gamma=(0.5, 2.0)))


def take(split, recipe, num_batches, first_epoch=0):
    """NumPy batches: image, boxes, classes."""
    stream = make_train(split, recipe, first_epoch).take(num_batches).as_numpy_iterator()
    return [(image, target["boxes"], target["classes"]) for image, target in stream]


def are_same(first, second):
    pairs = zip(itertools.chain(*first), itertools.chain(*second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def change_train(recipe, **train):
    return replace(recipe, train=replace(recipe.train, **train))


@pytest.mark.parametrize("recipe", [PLAIN, ONLINE, COPIES], ids=["plain", "online", "copies"])
def test_seed_decides_the_batches(recipe):
    split = make_split(7, copies=4 if recipe is COPIES else 0)
    first = take(split, recipe, 5)
    assert are_same(first, take(split, recipe, 5))
    assert not are_same(first, take(split, change_train(recipe, seed=12), 5))


@pytest.mark.parametrize("recipe", [PLAIN, ONLINE, COPIES], ids=["plain", "online", "copies"])
@pytest.mark.parametrize("images_per_epoch", [0, 10])
def test_resuming_gives_the_batches_from_there(recipe, images_per_epoch):
    split = make_split(7, copies=4 if recipe is COPIES else 0)
    recipe = change_train(recipe, images_per_epoch=images_per_epoch)
    steps = steps_per_epoch(split, recipe)
    assert steps == round((images_per_epoch or len(split.rows)) / 3)
    whole = take(split, recipe, 3 * steps)
    for epoch in (1, 2):
        assert are_same(whole[epoch * steps :], take(split, recipe, (3 - epoch) * steps, epoch))


def test_every_example_once_a_pass():
    split = make_split(7)
    images = [image for batch in take(split, PLAIN, 14) for image in batch[0]]
    numbers = read_numbers(np.stack(images))
    passes = [numbers[start : start + 7] for start in range(0, 42, 7)]
    assert all(sorted(order) == list(range(7)) for order in passes)
    assert len(set(map(tuple, passes))) == len(passes)  # each in an order of its own


def test_boxes_belong_to_their_image():
    split = make_split(5)
    split.images.boxes[:, 0, 0] = np.arange(5) / 4  # says which image it is
    for image_unit, boxes, classes in take(split, PLAIN, 4):
        assert (boxes[:, 0, 0] * 4).astype(int).tolist() == read_numbers(image_unit)
        assert (classes == [0, -1, -1]).all() and not boxes[:, 1:].any()


def test_online_changes_are_new_every_epoch():
    epochs = [take(make_split(1), change_train(ONLINE, batch_size=1), 1, k) for k in range(3)]
    assert not are_same(epochs[0], epochs[1]) and not are_same(epochs[1], epochs[2])


@pytest.mark.parametrize(
    ("recipe", "side_px"), [(PLAIN, 32), (ONLINE, 16), (COPIES, 32)], ids=["plain", "online", "p1"]
)
def test_shapes_are_static(recipe, side_px):
    image, target = make_train(make_split(4), recipe).element_spec
    assert image.shape == (3, side_px, side_px, 3) and image.dtype.name == "float32"
    assert target["boxes"].shape == (3, 3, 4) and target["boxes"].dtype.name == "float32"
    assert target["classes"].shape == (3, 3) and target["classes"].dtype.name == "int32"


def test_copies_are_the_same_in_every_epoch_and_in_evaluation():
    split = make_split(2, copies=4)
    recipe = change_train(COPIES, batch_size=10)
    epochs = [take(split, recipe, 1, first_epoch)[0] for first_epoch in (0, 1)]
    images = [sorted(image.tobytes() for image in epoch[0]) for epoch in epochs]
    assert images[0] == images[1] and len(set(images[0])) == 10
    assert not np.array_equal(epochs[0][0], epochs[1][0])  # in another order
    ((evaluated, _),) = make_eval(split, recipe, 10).as_numpy_iterator()
    assert sorted(image.tobytes() for image in evaluated) == images[0]


def test_each_copy_has_its_own_change():
    split = make_split(12, copies=4, side_px=8)
    ((image_unit, _),) = make_eval(split, COPIES, 60).as_numpy_iterator()
    for i in range(12):
        itself, brighter, contrast, noisy, moved = image_unit[5 * i : 5 * i + 5]
        assert read_numbers(itself[None]) == [i] and itself.std() < 1e-6
        for copy in (brighter, contrast):
            assert copy.std() < 1e-6 and abs(copy - itself).max() > 1e-6
        assert 0 < noisy.std() < 0.04
        assert set(np.unique((moved - itself).round(5))) <= {0.0, -itself[0, 0, 0].round(5)}


def test_evaluation_is_in_order_whole_and_unchanged():
    split = make_split(7)
    rows = split.rows[[4, 0, 6, 1, 2]]
    batches = list(make_eval(Split(split.images, rows), ONLINE, 2).as_numpy_iterator())
    assert [len(image) for image, _ in batches] == [2, 2, 1]
    assert [n for image, _ in batches for n in read_numbers(image)] == [4, 0, 6, 1, 2]
    image_unit, target = batches[2]
    assert image_unit.shape == (1, 32, 32, 3) and image_unit.std() < 1e-6
    assert np.array_equal(target["boxes"][0], split.images.boxes[2])
    assert np.array_equal(target["classes"][0], split.images.classes[2])


def test_papers_split_is_evaluated_whole_whatever_is_trained_on():
    """`--split paper` with a recipe that trains on crops: the copies stay P1's."""
    split = make_split(2, copies=2)
    online = replace(ONLINE, augment=replace(ONLINE.augment, copies=2))
    wanted = replace(online, augment=replace(online.augment, mode="copies"))
    ((found, target),) = make_eval(split, online, 6).as_numpy_iterator()
    ((reference, reference_target),) = make_eval(split, wanted, 6).as_numpy_iterator()
    assert found.shape == (6, 32, 32, 3)
    assert np.array_equal(found, reference)
    assert np.array_equal(target["boxes"], reference_target["boxes"])


@pytest.mark.parametrize(("images", "steps"), [(0, 4), (16, 5), (17, 6), (1, 1), (300, 100)])
def test_steps_per_epoch(images, steps):
    assert steps_per_epoch(make_split(13), change_train(PLAIN, images_per_epoch=images)) == steps


def test_one_lesion_pixel_from_its_file_to_the_network(deeplesion_all, dummy_dir):
    """Patient 009001: box x 10 to 26, y 20 to 32 of 64 x 64 px; neighbours on disk."""
    recipe = replace(PLAIN, data=replace(DATA, image_size_px=64))
    stored = {
        step: cv2.imread(str(dummy_dir / "Images_png/009001_01_01" / f"{10 + step:03d}.png"), -1)
        for step in (-1, 0, 1)
    }
    assert stored[0][25, 12] == 32768 + 40  # the lesion
    split = open_splits(deeplesion_all, recipe).train
    ((image_unit, target),) = make_eval(split, recipe, 1).as_numpy_iterator()
    for y, x in ((25, 12), (20, 10), (31, 25), (19, 10), (25, 26), (60, 3)):
        wanted = [
            (int(stored[step][y, x]) - 32768 - LOW_HU) / (HIGH_HU - LOW_HU) for step in (-1, 0, 1)
        ]
        np.testing.assert_allclose(image_unit[0, y, x], wanted, atol=1e-6)
    assert image_unit[0, 25, 12, 1] == 0.5 and image_unit[0, 60, 3, 1] == np.float32(0.65)
    np.testing.assert_allclose(target["boxes"][0, 0], [10, 20, 26, 32], atol=1e-4)


def test_what_is_trained_in_words():
    assert describe_augmentation(AugmentConfig(), 36) == "36 images, changed anew each time"
    assert describe_augmentation(AugmentConfig(mode="none"), 36) == "36 images, unchanged"
