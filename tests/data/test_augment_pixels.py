"""Operations on grey levels: what each draws, and what it leaves alone."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.config import AugmentConfig, DetectionAugmentConfig
from lesionkeras.ct.window import window_numpy
from lesionkeras.data.augment import augment, compose, find_read_window, list_pixels
from lesionkeras.data.augment_pixels import (
    Brightness,
    Curve,
    Gamma,
    KeySliceOnly,
    Noise,
    Resolution,
    ReverseSlices,
    Window,
)
from lesionkeras.errors import RecipeError

SIDE_PX = 32
WINDOW = (-100.0, 200.0)
STILL = DetectionAugmentConfig(
    brightness=0.0,
    gamma=(1.0, 1.0),
    noise_std=0.0,
    translate_fraction=0.0,
    flip_left_right=False,
    flip_up_down=False,
    scale=(1.0, 1.0),
    crop_size_px=0,
)
BOXES, CLASSES = np.float32([[4, 6, 20, 18]]), np.int32([0])
OPERATIONS = {
    "window": Window(WINDOW, 40.0),
    "curve": Curve(0.6),
    "resolution": Resolution(0.4),
    "gamma": Gamma(0.5, 2.0),
    "brightness": Brightness(0.2),
    "noise": Noise(0.1),
    "reverse": ReverseSlices(),
    "key slice": KeySliceOnly(0.5),
}


def make_image(seed=0, channels=3):
    values = np.random.default_rng(seed).uniform(0.2, 0.8, (SIDE_PX, SIDE_PX, channels))
    return values.astype(np.float32)


def draw_many(operation, image, count=60):
    run = tf.function(operation)
    return [run(tf.constant(image), tf.constant([9, n])).numpy() for n in range(count)]


@pytest.mark.parametrize("name", OPERATIONS)
def test_eager_equals_graph_and_the_key_decides(name):
    operation, image = OPERATIONS[name], make_image()
    results = draw_many(operation, image, 12)
    for number in (0, 5):
        eager = operation(tf.constant(image), tf.constant([9, number]))
        np.testing.assert_allclose(eager, results[number], atol=1e-5)
        assert eager.shape == image.shape and eager.dtype == tf.float32
    # sizes are whole pixels, so that few differ; two operations have two outcomes
    least = {"reverse": 2, "key slice": 2, "resolution": 6}.get(name, 12)
    assert len({result.tobytes() for result in results}) >= least


def test_window_ends_move_by_what_is_asked():
    hu = np.tile(np.arange(-200, 312, 0.5, np.float32).reshape(32, 32, 1), 1)
    wide = window_numpy(hu, (WINDOW[0] - 40, WINDOW[1] + 40))
    ends = []
    for image in draw_many(OPERATIONS["window"], wide, 80):
        low, high = hu[image == 0].max(), hu[image == 1].min()
        ends.append((low, high))
        np.testing.assert_allclose(image, window_numpy(hu, (low, high)), atol=4e-3)
    moved = np.array(ends) - WINDOW
    assert np.abs(moved).max() <= 40.5
    assert (moved.min(axis=0) < -30).all() and (moved.max(axis=0) > 30).all()
    assert abs(np.corrcoef(moved.T)[0, 1]) < 0.4  # each end its own


def test_images_are_read_with_the_widest_window():
    moving = replace(STILL, window_shift_hu=40.0)
    assert find_read_window(WINDOW, moving) == (-140.0, 240.0)
    for config in (
        STILL,
        AugmentConfig(),
        replace(moving, mode="none"),
        replace(moving, mode="copies"),
    ):
        assert find_read_window(WINDOW, config) == WINDOW
    with pytest.raises(RecipeError) as caught:
        find_read_window(WINDOW, replace(moving, window_shift_hu=150.0))
    assert str(caught.value) == (
        "augment.window_shift_hu is too large for the window: found 150 HU, wanted less than half "
        "of 300 HU (data.window_hu)."
    )


def test_curves_rise_and_keep_their_ends():
    grey = np.linspace(0, 1, SIDE_PX * SIDE_PX, dtype=np.float32).reshape(SIDE_PX, SIDE_PX, 1)
    bends = []
    for image in draw_many(Curve(0.8), grey, 40):
        values = image.ravel()
        assert values[0] == 0 and values[-1] == pytest.approx(1, abs=1e-6)
        assert (np.diff(values) > 0).all()
        bends.append(np.abs(values - grey.ravel()).max())
        steps = np.diff(values[:: len(values) // 4][:4])
        assert len(steps)
    assert max(bends) > 0.1 and min(bends) < 0.1
    for image in draw_many(Curve(0.0), grey, 2):
        np.testing.assert_allclose(image, grey, atol=1e-6)


def test_resolution_takes_detail_and_keeps_the_mean():
    image = make_image()
    details = []
    for coarse in draw_many(Resolution(0.25), image, 30):
        assert coarse.shape == image.shape
        assert coarse.mean() == pytest.approx(image.mean(), abs=0.01)
        details.append(coarse.std() / image.std())
    assert min(details) < 0.25 and max(details) > 2 * min(details)
    for same in draw_many(Resolution(1.0), image, 2):
        np.testing.assert_allclose(same, image, atol=1e-6)


def test_a_flat_edge_stays_where_it_is_at_another_resolution():
    image = np.zeros((SIDE_PX, SIDE_PX, 1), np.float32)
    image[:, 11:] = 1.0
    for coarse in draw_many(Resolution(0.5), image, 10):
        edge = SIDE_PX - coarse[16, :, 0].sum()
        assert edge == pytest.approx(11, abs=0.5)


def test_slices_are_reversed_or_left_out_in_a_share():
    image = make_image()
    turned = [np.array_equal(i, image[..., ::-1]) for i in draw_many(ReverseSlices(), image, 100)]
    assert 30 < sum(turned) < 70
    left = draw_many(KeySliceOnly(0.25), image, 200)
    alone = [np.array_equal(i, np.repeat(image[..., 1:2], 3, -1)) for i in left]
    assert 30 < sum(alone) < 70
    assert all(
        np.array_equal(i, image) for i, is_alone in zip(left, alone, strict=True) if not is_alone
    )


def test_gamma_brightness_and_noise_within_their_ranges():
    image = make_image()
    gammas = [
        np.log(i[0, 0, 0]) / np.log(image[0, 0, 0]) for i in draw_many(Gamma(0.5, 2.0), image)
    ]
    assert 0.5 - 1e-4 <= min(gammas) < 0.7 and 1.8 < max(gammas) <= 2 + 1e-4
    steps = [(i - image).mean() for i in draw_many(Brightness(0.2), image)]
    assert -0.2 - 1e-6 <= min(steps) < -0.15 and 0.15 < max(steps) <= 0.2 + 1e-6
    stds = [(i - image).std() for i in draw_many(Noise(0.1), image)]
    assert min(stds) < 0.02 and 0.08 < max(stds) < 0.11


def test_a_chain_ends_within_0_and_1():
    change = compose((), [Brightness(2.0), Gamma(0.5, 2.0), Noise(1.0)])
    for number in range(6):
        image, boxes, classes = change(
            tf.constant(make_image()),
            tf.constant(BOXES),
            tf.constant(CLASSES),
            tf.constant([0, number]),
        )
        assert np.isfinite(image).all() and np.min(image) >= 0 and np.max(image) <= 1
        assert np.array_equal(boxes, BOXES) and np.array_equal(classes, CLASSES)


def test_what_a_config_asks_for_and_nothing_else():
    def name(config):
        return [type(operation).__name__ for operation in list_pixels(config, 0, WINDOW)]

    plain = ["Gamma", "Brightness", "Noise"]
    assert name(STILL) == name(AugmentConfig()) == plain
    knobs = {
        "reverse_slices": (True, "ReverseSlices"),
        "key_slice_only": (0.5, "KeySliceOnly"),
        "window_shift_hu": (20.0, "Window"),
        "curve_strength": (0.3, "Curve"),
        "min_resolution": (0.5, "Resolution"),
    }
    for knob, (value, operation) in knobs.items():
        assert name(replace(STILL, **{knob: value})) == [operation, *plain]
        assert name(replace(STILL, mode="copies", **{knob: value})) == plain
    every = replace(STILL, **{knob: value for knob, (value, _) in knobs.items()})
    assert name(every) == [*(operation for _, operation in knobs.values()), *plain]


def test_a_rotation_by_config_turns_image_and_box():
    image = np.zeros((SIDE_PX, SIDE_PX, 3), np.float32)
    image[6:18, 4:20] = 1.0
    turned = set()
    for number in range(8):
        words = map(tf.constant, (image, BOXES, CLASSES))
        config = replace(STILL, rotation_deg=90.0)
        found, boxes, _ = augment(*words, config, 0, tf.constant([1, number]), WINDOW)
        y, x = np.nonzero(found[..., 0].numpy() > 0.5)
        middle = (np.array([x.mean(), y.mean()]) + 0.5).tolist()
        inside = (boxes[0, :2] + boxes[0, 2:]).numpy() / 2
        if len(x) > 150:  # whole in the picture
            np.testing.assert_allclose(inside, middle, atol=0.6)
            turned.add(tuple(inside.round()))
    assert len(turned) > 3
