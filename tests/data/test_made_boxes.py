from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from lesionkeras.config import DataConfig, DetectionAugmentConfig, SSDRecipe, TrainConfig
from lesionkeras.data.made_boxes import check_made_lesions, follow_boxes
from lesionkeras.data.opening import Split
from lesionkeras.data.pipeline import make_eval, make_train
from lesionkeras.data.prepared import concatenate
from lesionkeras.errors import DataError, RecipeError
from tests.data.made import make_prepared

SIDE, WINDOW_HU, LIVER_HU = 96, (-100.0, 200.0), 80
EVERY = np.arange(3)
STILL = DetectionAugmentConfig(  # nothing is changed but by what is made
    crop_size_px=0,
    brightness=0.0,
    gamma=(1.0, 1.0),
    noise_std=0.0,
    translate_fraction=0.0,
    scale=(1.0, 1.0),
    flip_left_right=False,
    flip_up_down=False,
)
RECIPE = SSDRecipe(
    data=DataConfig(
        window_hu=WINDOW_HU, image_size_px=SIDE, pixel_mm=1.25, made_lesions=0.5, max_boxes=8
    ),
    augment=STILL,
    train=TrainConfig(batch_size=4, images_per_epoch=0, seed=11),
)


def make_images(count=3):
    """A liver of one grey in air, a dark lesion of 8 x 6 px in it."""
    images = np.full((count, SIDE, SIDE, 3), -100, np.int16)
    masks = np.zeros((count, SIDE, SIDE), np.uint8)
    images[:, 8:88, 10:80], masks[:, 8:88, 10:80] = LIVER_HU, 1
    images[:, 20:26, 20:28], masks[:, 20:26, 20:28] = 20, 2
    boxes = np.zeros((count, 8, 4), np.float32)
    boxes[:, 0] = [20, 20, 28, 26]
    return replace(
        make_prepared(count, SIDE, max_boxes=8),
        images=images,
        masks=masks,
        boxes=boxes,
        liver_px=np.full(count, 80 * 70, np.int32),
    )


def take(images, recipe, num_batches, first_epoch=0):
    split = Split(images, np.stack([np.arange(len(images)), np.zeros(len(images), int)], axis=1))
    batches = make_train(split, recipe, first_epoch).take(num_batches).as_numpy_iterator()
    return [
        row
        for image, target in batches
        for row in zip(image, target["boxes"], target["classes"], strict=True)
    ]


def test_made_lesions_come_with_their_boxes():
    rows, made, seen = take(make_images(), RECIPE, 25), 0, 0
    untouched = (LIVER_HU + 100) / 300
    for image, boxes, classes in rows:
        real = boxes[classes >= 0]
        assert (
            len(real) >= 1 and (classes[classes >= 0] == 0).all() and not boxes[classes < 0].any()
        )
        made += len(real) > 1
        changed = np.abs(image[..., 1] - untouched)[8:88, 10:80] > 0.06  # 18 HU
        labels, count = ndimage.label(ndimage.binary_opening(changed))
        for y, x in ndimage.center_of_mass(changed, labels, range(1, count + 1)):
            hit = (real[:, :2] - 2 <= [x + 10, y + 8]) & ([x + 10, y + 8] <= real[:, 2:] + 2)
            assert hit.all(axis=1).any(), (x, y, real)
            seen += 1
    assert 0.25 * len(rows) < made < 0.6 * len(rows) and seen > 100


def test_stream_resumes_and_other_modes_make_none():
    images = make_images()
    recipe = replace(RECIPE, train=replace(RECIPE.train, images_per_epoch=8))
    for late, whole in zip(
        take(images, recipe, 2, first_epoch=1), take(images, recipe, 4)[8:], strict=True
    ):
        for one, other in zip(late, whole, strict=True):
            np.testing.assert_array_equal(one, other)
    for mode in ("none", "copies"):
        rows = take(images, replace(recipe, augment=replace(STILL, mode=mode)), 3)
        assert all((classes >= 0).sum() == 1 for _, _, classes in rows)
    split = Split(images, np.zeros((3, 2), int))
    ((_, target),) = make_eval(split, recipe, 3)
    assert (target["classes"].numpy() >= 0).sum() == 3


def test_boxes_of_grown_lesions_are_replaced_and_others_stay():
    mask = np.ones((20, 20), np.uint8)
    mask[2:5, 2:6] = 2  # stays
    mask[10:12, 10:12] = 2  # grows
    made = mask.copy()
    made[10:14, 11:16] = 2
    made[17:19, 1:3] = 2  # another one
    boxes = np.zeros((4, 4), np.float32)
    boxes[:2] = [[2.25, 1.75, 6.0, 5.0], [10, 10, 12, 12]]  # as stored: not of whole pixels
    classes = np.array([3, 0, -1, -1], np.int32)
    found, kinds = follow_boxes(mask, made, boxes, classes)
    assert found.tolist() == [[2.25, 1.75, 6, 5], [10, 10, 16, 14], [1, 17, 3, 19], [0, 0, 0, 0]]
    assert kinds.tolist() == [3, 0, 0, -1] and kinds.dtype == np.int32
    assert found.dtype == np.float32
    cut, kinds = follow_boxes(mask, made, boxes[:2], classes[:2])
    assert cut.tolist() == [[2.25, 1.75, 6, 5], [10, 10, 16, 14]] and kinds.tolist() == [3, 0]
    same, kinds = follow_boxes(mask, mask, boxes, classes)
    np.testing.assert_array_equal(same, boxes)
    np.testing.assert_array_equal(kinds, classes)


def test_lesions_that_cannot_be_made_are_refused():
    images = make_images()
    check_made_lesions(images, EVERY, RECIPE)
    bare = replace(images, masks=None)
    check_made_lesions(bare, EVERY, replace(RECIPE, data=replace(RECIPE.data, made_lesions=0.0)))
    held_out = replace(images, liver_px=np.int32([5600, 0, 0]))
    check_made_lesions(held_out, EVERY, RECIPE)
    with pytest.raises(DataError, match="No training image has a liver"):
        check_made_lesions(held_out, EVERY[1:], RECIPE)
    for lacking in (bare, replace(images, liver_px=np.zeros(3, np.int32))):
        with pytest.raises(DataError, match="No training image has a liver"):
            check_made_lesions(lacking, EVERY, RECIPE)
    drawn = replace(RECIPE, data=replace(RECIPE.data, box_convention="recist_plus_5"))
    with pytest.raises(RecipeError, match="wanted 'tight'"):
        check_made_lesions(images, EVERY, drawn)
    for mode in ("none", "copies"):
        with pytest.raises(RecipeError, match="wanted 'online'"):
            check_made_lesions(images, EVERY, replace(RECIPE, augment=replace(STILL, mode=mode)))


def test_masks_stay_with_their_images():
    images = make_images(4)
    images.masks[2, 0, 0] = 1
    taken = images.take([2, 1])
    assert taken.masks[0, 0, 0] == 1 and taken.masks[1, 0, 0] == 0
    joined = concatenate([images, taken])
    assert len(joined.masks) == 6 and joined.masks[4][0, 0] == 1
    half = concatenate([replace(taken, masks=None), images])
    assert not half.masks[1].any() and half.masks[1].shape == (SIDE, SIDE)
    assert np.array_equal(half.masks[4], images.masks[2])
    assert concatenate([replace(taken, masks=None)] * 2).masks is None


def test_slivers_get_no_box():
    mask = np.ones((20, 20), np.uint8)
    made = mask.copy()
    made[3, 2:9] = made[10:12, 4:6] = 2
    boxes, classes = follow_boxes(mask, made, np.zeros((3, 4), np.float32), np.full(3, -1))
    assert boxes[classes >= 0].tolist() == [[4, 10, 6, 12]]
