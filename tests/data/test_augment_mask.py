import math
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from scipy.ndimage import gaussian_filter

from lesionkeras.config import SegmentationAugmentConfig
from lesionkeras.ct.window import window_numpy
from lesionkeras.data.augment_mask import (
    apply_view,
    augment_with_mask,
    change_grey,
    choose_pixel,
    draw_grey,
    draw_mask_view,
)
from tests.data.test_segmentation import KEY, ONLINE, SIDE, STILL, make_split


def augment_one(config, rotation_deg=0.0, key=KEY):
    split = make_split(1)
    image_unit = window_numpy(split.slices.read_image(0, 3), (0.0, 100.0))
    result = augment_with_mask(
        tf.constant(image_unit), tf.constant(split.slices.masks[0]), config, rotation_deg, key
    )
    return image_unit, split.slices.masks[0], result[0].numpy(), result[1].numpy()


def test_without_magnitudes_nothing_changes():
    image_unit, mask, found, found_mask = augment_one(STILL)
    np.testing.assert_allclose(found, image_unit, atol=1e-6)
    assert np.array_equal(found_mask, mask)


@pytest.mark.parametrize(
    ("config", "rotation_deg"),
    [
        (replace(STILL, flip_left_right=True), 0.0),
        (replace(STILL, flip_up_down=True), 0.0),
        (replace(STILL, translate_fraction=0.3), 0.0),
        (replace(STILL, scale=(0.6, 1.7)), 0.0),
        (STILL, 180.0),
        (replace(STILL, crop_size_px=8, translate_fraction=0.2), 30.0),
        (replace(STILL, scale=(0.8, 1.3), translate_fraction=0.2, flip_up_down=True), 40.0),
    ],
    ids=["left-right", "up-down", "shift", "zoom", "turn", "crop", "all"],
)
def test_image_and_mask_move_together(config, rotation_deg):
    changed = 0
    for seed in range(12):
        key = tf.constant([seed, 1])
        image_unit, mask, found, found_mask = augment_one(config, rotation_deg, key)
        # the mask's own picture, moved as an image, says where each label must be
        picture = np.repeat(np.float32(mask)[..., None], 3, -1)
        matrix, shift = draw_mask_view(mask, config, rotation_deg, key)
        side = found.shape[0]
        moved = apply_view(tf.constant(picture), matrix, shift, side, "BILINEAR")[..., 0].numpy()
        sure = np.abs(moved - np.round(moved)) < 0.02
        assert sure.mean() > 0.3
        inside = sure & (np.round(moved) == 2)
        np.testing.assert_allclose(found[inside][:, 1], 0.9, atol=0.02)
        assert np.array_equal(found_mask[inside], np.full(inside.sum(), 2))
        changed += not (found.shape == image_unit.shape and np.allclose(found, image_unit))
    assert changed >= 3


def test_quarter_turn_by_hand():
    """90 degrees: what is right of the middle comes from above or below it, whole pixels."""
    matrix = tf.constant([[0.0, -1.0], [1.0, 0.0]])  # y from -x, x from y
    image = np.arange(16, dtype=np.float32).reshape(4, 4, 1)
    shift = tf.constant([4.0, 0.0])
    found = apply_view(tf.constant(image), matrix, shift, 4, "BILINEAR").numpy()[..., 0]
    assert found.tolist() == [[image[3 - x, y, 0] for x in range(4)] for y in range(4)]
    mask = apply_view(tf.constant(image.astype(np.uint8)), matrix, shift, 4, "NEAREST").numpy()
    assert np.array_equal(mask[..., 0], found)


def test_rotation_is_about_the_middle_and_as_far_as_said():
    mask = np.zeros((SIDE, SIDE), np.uint8)
    angles = []
    for seed in range(40):
        matrix, shift = draw_mask_view(mask, STILL, 30.0, tf.constant([seed, 0]))
        middle = tf.linalg.matvec(matrix, tf.fill([2], SIDE / 2)) + shift
        np.testing.assert_allclose(middle, [SIDE / 2] * 2, atol=1e-4)
        np.testing.assert_allclose(np.linalg.det(matrix), 1.0, atol=1e-5)
        angles.append(math.degrees(math.atan2(matrix[1, 0], matrix[0, 0])))
    assert -30 <= min(angles) < -15 and 15 < max(angles) <= 30


@pytest.mark.parametrize(("probability", "least", "most"), [(1.0, 30, 30), (0.0, 0, 27)])
def test_crops_hold_a_lesion_as_often_as_asked(probability, least, most):
    mask = np.zeros((64, 64), np.uint8)
    mask[50:53, 9:12] = 2
    config = replace(STILL, crop_size_px=16, crop_on_lesion_probability=probability)
    hits = 0
    for seed in range(30):
        matrix, shift = draw_mask_view(mask, config, 0.0, tf.constant([seed, 2]))
        crop = apply_view(tf.constant(mask[..., None]), matrix, shift, 16, "NEAREST").numpy()
        hits += bool((crop == 2).any())
    assert least <= hits <= most


def test_eager_equals_graph():
    for config in (ONLINE, replace(ONLINE, crop_size_px=8)):
        split = make_split(1)
        image_unit = window_numpy(split.slices.read_image(0, 3), (0.0, 100.0))
        words = (tf.constant(image_unit), tf.constant(split.slices.masks[0]))
        run = tf.function(
            lambda image, mask, key, c=config: augment_with_mask(image, mask, c, 15.0, key)
        )
        for seed in range(4):
            key = tf.constant([seed, 9])
            eager, graph = augment_with_mask(*words, config, 15.0, key), run(*words, key)
            np.testing.assert_allclose(eager[0], graph[0], atol=1e-5)
            assert (eager[1].numpy() != graph[1].numpy()).mean() < 0.01  # ties of the nearest pixel


def test_pixels_are_chosen_by_lesion_not_by_size():
    mask = np.zeros((8, 9), np.uint8)
    mask[0:4, 0:4], mask[0:3, 0:3], mask[6, 7] = 1, 2, 2
    chosen = np.array(
        [choose_pixel(mask, np.array([u, v, v])) for u in (0.1, 0.6) for v in (0, 0.99)]
    )
    assert chosen[:2, 0].tolist() == [[0.5, 0.5], [2.5, 2.5]]  # the first lesion, its ends
    assert chosen[2:, 0].tolist() == [[6.5, 7.5]] * 2
    assert chosen[:2, 1].tolist() == [[0.5, 0.5], [6.5, 7.5]]  # all of the liver, lesions too
    assert choose_pixel(np.zeros((4, 4), np.uint8), np.full(3, 0.5)).tolist() == [[-1, -1]] * 2


def test_crops_lie_on_liver_as_often_as_asked():
    mask = np.zeros((64, 64), np.uint8)
    mask[40:44, 50:54] = 1
    config = replace(STILL, crop_size_px=8)

    def count(share):
        hits = 0
        for seed in range(60):
            matrix, shift = draw_mask_view(mask, config, 0.0, tf.constant([seed, 3]), share)
            view = apply_view(tf.constant(mask[..., None]), matrix, shift, 8, "NEAREST")
            hits += bool(view.numpy().any())
        return hits

    assert count(0.0) < 10 and 20 < count(0.5) < 45 and count(1.0) == 60


def test_grey_by_hand():
    image_unit = np.float32([[[0.0, 0.25], [0.5, 1.0]]])
    found = change_grey(image_unit, np.float32([2.0, 0.1, 0.0, 1.0, 0.0]), np.int32([1, 2]))
    np.testing.assert_allclose(found, [[[0.1, 0.1625], [0.35, 1.0]]], rtol=1e-6)
    assert image_unit[0, 1, 0] == 0.5  # a copy
    dark = change_grey(image_unit, np.float32([1.0, -0.3, 0.0, 1.0, 0.0]), np.int32([1, 2]))
    np.testing.assert_allclose(dark, [[[0.0, 0.0], [0.2, 0.7]]], rtol=1e-6)


def test_noise_follows_its_seed_and_its_strength():
    grey = np.full((40, 50, 3), 0.5, np.float32)
    draws = np.float32([1.0, 0.0, 0.05, 1.0, 0.0])
    first, again, other = (change_grey(grey, draws, np.int32([-3, s])) for s in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    noise = first - 0.5
    assert abs(noise.std() - 0.05) < 0.002 and abs(noise.mean()) < 0.002
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.1


def test_draws_of_grey_stay_within_their_limits():
    config = SegmentationAugmentConfig(
        gamma=(0.5, 2.0), brightness=0.2, noise_std=0.1, contrast=0.3, sharpness=0.7
    )
    draws = np.array([draw_grey(config, tf.constant([seed, 1])) for seed in range(50)])
    low = np.array([0.5, -0.2, 0.0, np.exp(-0.3), -0.7])
    high = np.array([2.0, 0.2, 0.1, np.exp(0.3), 0.7])
    assert np.all(draws >= low) and np.all(draws <= high)
    assert np.all(draws.max(0) - draws.min(0) > 0.8 * (high - low))
    still = draw_grey(STILL, tf.constant([1, 1]))
    assert still.numpy().tolist() == [1.0, 0.0, 0.0, 1.0, 0.0]


def test_contrast_is_about_the_middle_grey():
    image_unit = np.float32([[[0.3, 0.5], [0.6, 0.9]]])
    found = change_grey(image_unit, np.float32([1.0, 0.1, 0.0, 1.5, 0.0]), np.int32([1, 2]))
    np.testing.assert_allclose(found, [[[0.3, 0.6], [0.75, 1.0]]], rtol=1e-6)


@pytest.mark.parametrize("sharpness", [-1.0, -0.5, 0.5])
def test_sharpness_adds_or_takes_what_a_gaussian_takes_away(sharpness):
    image_unit = np.random.default_rng(0).uniform(0.3, 0.7, (20, 22, 3)).astype(np.float32)
    draws = np.float32([1.0, 0.0, 0.0, 1.0, sharpness])
    found = change_grey(image_unit, draws, np.int32([1, 2]))
    smooth = gaussian_filter(image_unit, (1.0, 1.0, 0.0), mode="mirror")
    wanted = np.clip(image_unit + sharpness * (image_unit - smooth), 0.0, 1.0)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_views_agree_with_tensorflows_own():
    """The oracle resamples with float coordinates, OpenCV with 32nds of a pixel."""
    y, x = np.mgrid[:20, :24]
    image = np.stack([np.sin(y / 4 + i) + x / 24 for i in range(5)], -1).astype(np.float32)
    matrix, shift = np.float32([[0.8, -0.3], [0.25, -1.1]]), np.float32([5.0, 19.0])
    found = apply_view(tf.constant(image), matrix, shift, 16, "BILINEAR").numpy()
    offset = matrix @ [0.5, 0.5] + shift - 0.5
    row = [matrix[1, 1], matrix[1, 0], offset[1], matrix[0, 1], matrix[0, 0], offset[0], 0, 0]
    wanted = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=np.float32(row)[None],
        output_shape=[16, 16],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )[0]
    np.testing.assert_allclose(found, wanted, atol=0.05)
    assert np.mean(np.abs(found - wanted)) < 0.004
