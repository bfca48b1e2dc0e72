import itertools
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.config import AugmentConfig
from lesionkeras.data.augment import (
    MIN_VISIBLE_SHARE,
    P1_OPERATIONS,
    augment,
    compose,
    draw_view,
    list_pixels,
    view_side_px,
)

SIDE_PX = 64
# Rectangles with pairwise different sides, one a channel; and a row of padding between them.
BOXES = np.float32([[6, 30, 17, 49], [0, 0, 0, 0], [22, 8, 45, 15], [38, 40, 47, 56]])
CLASSES = np.int32([0, -1, 2, 1])
CHANNEL_ROWS = (0, 2, 3)
STILL = AugmentConfig(
    mode="online",
    brightness=0.0,
    gamma=(1.0, 1.0),
    noise_std=0.0,
    translate_fraction=0.1,
    flip_left_right=False,
    flip_up_down=False,
    scale=(1.0, 1.0),
    crop_size_px=0,
    crop_on_lesion_probability=0.75,
)
GEOMETRIES = {
    "translation": STILL,
    "flips": replace(STILL, flip_left_right=True, flip_up_down=True),
    "zoom": replace(STILL, scale=(0.7, 1.4)),
    "crop": replace(STILL, crop_size_px=32),
    "all": replace(
        STILL, flip_left_right=True, flip_up_down=True, scale=(0.7, 1.4), crop_size_px=40
    ),
}
NUM_KEYS = 60


def paint():
    """Each rectangle bright in its own channel."""
    image_unit = np.zeros((SIDE_PX, SIDE_PX, len(CHANNEL_ROWS)), np.float32)
    for channel, row in enumerate(CHANNEL_ROWS):
        x1, y1, x2, y2 = BOXES[row].astype(int)
        image_unit[y1:y2, x1:x2, channel] = 1.0
    return image_unit


def make_grey(low=0.3, high=0.7, seed=0):
    """An image whose pixels all differ, far from 0 and 1."""
    values = np.random.default_rng(seed).uniform(low, high, (SIDE_PX, SIDE_PX, 3))
    return values.astype(np.float32)


def augment_by(image_unit, config, key, copy=0, boxes=BOXES, classes=CLASSES):
    image_unit, boxes, classes = map(tf.constant, (image_unit, boxes, classes))
    return augment(image_unit, boxes, classes, config, tf.constant(copy), tf.convert_to_tensor(key))


def augment_many(image_unit, config, num_keys=NUM_KEYS, copy=0):
    """NumPy results for keys (7, 0), (7, 1), ... computed inside tf.data."""
    keys = tf.data.Dataset.range(num_keys)

    def run(number):
        key = [7, tf.cast(number, tf.int32)]
        return augment_by(image_unit, config, key, copy)

    return list(keys.map(run).as_numpy_iterator())


def find_rectangle(channel):
    """Edges of a rectangle with bilinear rims, xyxy; some pixel lies wholly in it."""
    assert channel.max() > 0.99
    edges = []
    for axis in (0, 1):
        profile = channel.max(axis=axis)
        size = profile.sum()
        centre = (profile * (np.arange(len(profile)) + 0.5)).sum() / size
        edges.append((centre - size / 2, centre + size / 2))
    (x1, x2), (y1, y2) = edges
    return np.array([x1, y1, x2, y2])


@pytest.mark.parametrize("name", GEOMETRIES)
def test_boxes_follow_their_pixels(name):
    config = GEOMETRIES[name]
    tolerance_px = 0.3 if config.scale != (1.0, 1.0) else 1e-3
    found, dropped, seen = 0, 0, set()
    for image_unit, boxes, classes in augment_many(paint(), config):
        assert image_unit.shape == (view_side_px(SIDE_PX, config),) * 2 + (3,)
        assert classes[1] == -1 and not boxes[1].any()  # padding stays padding
        for channel, row in enumerate(CHANNEL_ROWS):
            if classes[row] < 0:
                dropped += 1
                assert not boxes[row].any()
                continue
            assert classes[row] == CLASSES[row]
            rectangle = find_rectangle(image_unit[..., channel])
            np.testing.assert_allclose(boxes[row], rectangle, atol=tolerance_px)
            seen.add(tuple(boxes[row].round(1)))
            found += 1
    assert found > NUM_KEYS and len(seen) > found / 3
    assert (dropped > 10) == (config.crop_size_px > 0)


@pytest.mark.parametrize("name", ["crop", "all"])
def test_a_box_is_dropped_with_most_of_its_pixels(name):
    config, kept_shares, dropped_shares = GEOMETRIES[name], [], []
    for number, (image_unit, _, classes) in enumerate(augment_many(paint(), config)):
        view = draw_view(
            tf.constant(BOXES), tf.constant(CLASSES), SIDE_PX, config, 0, tf.constant([7, number])
        )
        pixel_area = abs(np.linalg.det(view.matrix))  # of a pixel of the view, in source px
        for channel, row in enumerate(CHANNEL_ROWS):
            x1, y1, x2, y2 = BOXES[row]
            share = image_unit[..., channel].sum() * pixel_area / ((x2 - x1) * (y2 - y1))
            (kept_shares if classes[row] >= 0 else dropped_shares).append(share)
    slack = 0.02 if name == "crop" else 0.08
    assert min(kept_shares) > MIN_VISIBLE_SHARE - slack
    assert max(dropped_shares) < MIN_VISIBLE_SHARE + slack
    assert min(kept_shares) < 0.9 and max(dropped_shares) > 0  # some are cut


def test_translation_stays_within_its_share():
    shifts = []
    for _, boxes, classes in augment_many(paint(), STILL, 200):
        assert (classes == CLASSES).all()  # 6 px of 64 push nothing out
        shifts.append((boxes[2] - BOXES[2])[:2])
    shifts = np.array(shifts)
    assert np.array_equal(shifts, shifts.round())  # whole pixels: nothing is smoothed
    assert np.abs(shifts).max() <= round(0.1 * SIDE_PX)
    assert shifts.min(axis=0).max() <= -5 and shifts.max(axis=0).min() >= 5  # both axes, both ways


def test_flips_are_one_in_two():
    results = augment_many(paint(), replace(GEOMETRIES["flips"], translate_fraction=0.0), 200)
    lefts = np.array([boxes[0, 0] for _, boxes, _ in results])
    tops = np.array([boxes[0, 1] for _, boxes, _ in results])
    assert set(lefts) == {6.0, SIDE_PX - 17.0} and set(tops) == {30.0, SIDE_PX - 49.0}
    assert 60 < (lefts == 6).sum() < 140 and 60 < (tops == 30).sum() < 140
    assert 20 < ((lefts == 6) & (tops == 30)).sum() < 80  # independent of each other
    assert np.array_equal(
        results[0][0], paint()[:: -1 if tops[0] != 30 else 1, :: -1 if lefts[0] != 6 else 1]
    )


def test_zoom_spans_its_range():
    results = augment_many(paint(), GEOMETRIES["zoom"])
    zooms = np.array([boxes[3, 2] - boxes[3, 0] for _, boxes, _ in results]) / 9
    assert zooms.min() >= 0.7 - 1e-4 and zooms.max() <= 1.4 + 1e-4
    assert zooms.min() < 0.76 and zooms.max() > 1.3


def test_crops_hold_a_lesion_as_often_as_asked():
    def count(probability):
        config = replace(GEOMETRIES["crop"], crop_on_lesion_probability=probability)
        whole = 0
        for _, boxes, classes in augment_many(paint(), config):
            sizes = boxes[:, 2:] - boxes[:, :2]
            wanted = BOXES[:, 2:] - BOXES[:, :2]
            whole += bool(((classes >= 0) & np.isclose(sizes, wanted).all(axis=1)).any())
        return whole

    assert count(1.0) == NUM_KEYS
    assert count(0.0) < 0.9 * NUM_KEYS


def test_crop_of_an_image_without_a_lesion():
    config = GEOMETRIES["crop"]
    nothing = {"boxes": np.zeros_like(BOXES), "classes": np.full_like(CLASSES, -1)}
    image_unit, boxes, classes = augment_by(make_grey(), config, [1, 2], **nothing)
    assert image_unit.shape == (32, 32, 3)
    assert not np.any(boxes) and np.all(classes == -1)
    assert np.min(image_unit) > 0.25  # it lies inside the picture


def test_crop_never_exceeds_the_image():
    assert view_side_px(64, replace(STILL, crop_size_px=96)) == 64
    assert view_side_px(64, replace(STILL, crop_size_px=32)) == 32
    assert view_side_px(64, replace(STILL, crop_size_px=32, mode="copies")) == 64


FULL = replace(GEOMETRIES["all"], brightness=0.1, gamma=(0.5, 2.0), noise_std=0.03)


def test_eager_equals_graph():
    image_unit = make_grey()
    for number, graph in enumerate(augment_many(image_unit, FULL, 5)):
        eager = augment_by(image_unit, FULL, [7, number])
        for ours, reference in zip(graph, eager, strict=True):
            np.testing.assert_allclose(ours, reference, atol=1e-5)


def test_key_decides_everything():
    image_unit = make_grey()
    first, again = augment_many(image_unit, FULL, 4), augment_many(image_unit, FULL, 4)
    for a, b in zip(first, again, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    for a, b in itertools.pairwise(first):
        assert not np.array_equal(a[0], b[0]) and not np.array_equal(a[1], b[1])


def test_mode_none_changes_nothing():
    config = replace(FULL, mode="none")
    image_unit = make_grey()
    found = augment(image_unit, BOXES, CLASSES, config, 3, tf.constant([1, 2]))
    assert all(a is b for a, b in zip(found, (image_unit, BOXES, CLASSES), strict=True))


COPIES = replace(FULL, mode="copies", translate_fraction=0.1)


def only(config, copy, num_keys=60):
    return augment_many(make_grey(), config, num_keys, copy)


def test_copy_0_is_the_image():
    for image_unit, boxes, classes in only(COPIES, 0, 5):
        np.testing.assert_allclose(image_unit, make_grey(), atol=1e-6)
        assert np.array_equal(boxes, BOXES) and np.array_equal(classes, CLASSES)


def test_copy_1_is_brighter_or_darker():
    steps = []
    for image_unit, boxes, _ in only(COPIES, 1):
        step = image_unit - make_grey()
        assert step.std() < 1e-6 and np.array_equal(boxes, BOXES)
        steps.append(step.mean())
    assert np.abs(steps).max() <= 0.1 + 1e-6
    assert min(steps) < -0.07 and max(steps) > 0.07


def test_copy_2_has_another_contrast():
    gammas = []
    for image_unit, boxes, _ in only(COPIES, 2):
        gamma = np.log(image_unit) / np.log(make_grey())
        assert gamma.std() < 1e-4 and np.array_equal(boxes, BOXES)
        gammas.append(gamma.mean())
    assert 0.5 - 1e-4 <= min(gammas) < 0.7 and 1.8 < max(gammas) <= 2.0 + 1e-4
    assert 0.3 < np.mean(np.array(gammas) < 1.25) < 0.7  # uniform, not log-uniform


def test_copy_3_is_noisy():
    stds = []
    for image_unit, boxes, _ in only(COPIES, 3):
        noise = image_unit - make_grey()
        assert abs(noise.mean()) < 0.1 * noise.std() + 1e-6 and np.array_equal(boxes, BOXES)
        assert abs(np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1]) < 0.05
        stds.append(noise.std())
    assert min(stds) < 0.006 and 0.024 < max(stds) < 0.031


def test_copy_4_is_moved():
    moves = set()
    for image_unit, boxes, _ in only(COPIES, 4):
        dx, dy = (boxes[0] - BOXES[0])[:2].astype(int)
        wanted = np.zeros_like(image_unit)
        rows = slice(max(dy, 0), SIDE_PX + min(dy, 0))
        columns = slice(max(dx, 0), SIDE_PX + min(dx, 0))
        wanted[rows, columns] = np.roll(make_grey(), (dy, dx), (0, 1))[rows, columns]
        np.testing.assert_allclose(image_unit, wanted, atol=1e-6)
        assert np.array_equal(
            boxes[CLASSES >= 0], (BOXES + np.array([dx, dy, dx, dy]))[CLASSES >= 0]
        )
        moves.add((dx, dy))
    assert len(moves) > 30


def test_fifth_copy_begins_again():
    assert P1_OPERATIONS == ("brightness", "contrast", "noise", "translation")
    first, fifth = only(COPIES, 1, 3), only(COPIES, 5, 3)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(first, fifth, strict=True))


def test_intensities_stay_within_0_and_1():
    image_unit = np.zeros((SIDE_PX, SIDE_PX, 3), np.float32)
    image_unit[:, 32:] = 1.0
    config = replace(STILL, brightness=0.5, noise_std=0.5)
    for number in range(4):
        change = compose(pixels=list_pixels(config, 0))
        changed = change(image_unit, BOXES, CLASSES, tf.constant([3, number]))[0].numpy()
        assert changed.min() >= 0 and changed.max() <= 1
        assert np.any((changed > 0) & (changed < 1))
