import numpy as np
import tensorflow as tf

from lesionkeras.ct.window import (
    resize_hu_graph,
    resize_mask_graph,
    standardise_graph,
    standardise_numpy,
    window_graph,
    window_numpy,
)

WINDOW_HU = (-160.0, 240.0)


def make_slices(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(7).integers(-1400, 3400, shape).astype(np.int16)


def test_window_by_hand():
    image_hu = np.array([[-32768, -160, -60], [240, 241, 32767]], np.int16)
    image_unit = window_numpy(image_hu, WINDOW_HU)
    assert image_unit.dtype == np.float32
    np.testing.assert_array_equal(image_unit, np.float32([[0, 0, 0.25], [1, 1, 1]]))


def test_window_twins_are_equal_eagerly_and_in_a_graph():
    for window_hu in [WINDOW_HU, (-175.0, 250.0), (-1024.0, 3071.0)]:
        every_hu = np.arange(-32768, 32768).astype(np.int16).reshape(256, 256)
        want = window_numpy(every_hu, window_hu)
        eager = window_graph(every_hu, window_hu)
        graph = tf.function(lambda x, w=window_hu: window_graph(x, w))(tf.constant(every_hu))
        assert eager.dtype == tf.float32
        np.testing.assert_allclose(eager.numpy(), want, rtol=0, atol=1e-7)
        np.testing.assert_allclose(graph.numpy(), want, rtol=0, atol=1e-7)


def test_two_by_two_becomes_its_average_channel_by_channel():
    image_hu = np.array([[[0, 10, -7], [100, 10, -7]], [[40, 10, -7], [60, 10, 9]]], np.int16)
    assert resize_hu_graph(image_hu, (1, 1)).numpy().tolist() == [[[50, 10, -3]]]


def test_halving_is_antialiased_with_a_triangle_of_four_pixels():
    # Output pixel 1 is centred at 3.0: weights 1, 3, 3, 1 of 8 on the pixels 1 to 4.
    row_hu = np.array([800, 80, 800, -160, 400, 80], np.int16)
    image_hu = np.tile(row_hu[None, :, None], (6, 1, 1))
    resized = resize_hu_graph(image_hu, (3, 3)).numpy()
    assert resized[1, 1, 0] == (80 + 3 * 800 + 3 * -160 + 400) // 8


def test_clips_before_averaging_so_that_padding_cannot_leak():
    image_hu = np.array([[[-2000], [-24]], [[-2000], [-24]]], np.int16)
    assert resize_hu_graph(image_hu, (1, 1)).numpy().item() == -524
    assert resize_hu_graph(np.full((2, 2, 1), 32767, np.int16), (2, 2)).numpy().max() == 3071


def test_same_size_keeps_every_value_also_with_unknown_sizes():
    image_hu = make_slices((2, 13, 9, 3))
    want = np.clip(image_hu, -1024, 3071)
    unknown = tf.function(
        resize_hu_graph,
        input_signature=[
            tf.TensorSpec([None, None, None, 3], tf.int16),
            tf.TensorSpec([2], tf.int32),
        ],
    )
    np.testing.assert_array_equal(resize_hu_graph(image_hu, (13, 9)), want)
    np.testing.assert_array_equal(unknown(image_hu, tf.constant([13, 9])), want)


def test_resize_is_the_same_eagerly_in_tf_data_and_batched():
    images_hu = make_slices((4, 37, 53, 3))
    batched = resize_hu_graph(images_hu, (24, 32))
    assert batched.dtype == tf.int16 and batched.shape == (4, 24, 32, 3)
    dataset = tf.data.Dataset.from_tensor_slices(images_hu).map(
        lambda image: resize_hu_graph(image, (24, 32))
    )
    for one, mapped, image_hu in zip(batched, dataset, images_hu, strict=True):
        np.testing.assert_array_equal(one, mapped)
        np.testing.assert_array_equal(one, resize_hu_graph(image_hu, (24, 32)))


def test_mask_is_resized_by_the_nearest_pixel_over_the_same_area():
    mask = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 1, 1], [2, 2, 1, 0]], np.uint8)[..., None]
    halved = resize_mask_graph(mask, (2, 2))
    assert halved.dtype == tf.uint8
    assert halved.numpy()[..., 0].tolist() == [[0, 1], [2, 0]]  # pixel centres 1 and 3
    doubled = tf.function(resize_mask_graph)(mask[:2, 1:3], tf.constant([4, 4])).numpy()[..., 0]
    assert doubled.tolist() == [[0, 0, 1, 1]] * 4
    batch = np.stack([mask, mask[::-1]])
    assert np.array_equal(resize_mask_graph(batch, (4, 4)), batch)


def test_standardised_by_hand():
    image_unit = np.zeros((2, 4, 1), np.float32)
    image_unit[0, :, 0] = 1.0
    wanted = [[1.0] * 4, [-1.0] * 4]  # mean .5, standard deviation .5
    assert standardise_numpy(image_unit)[..., 0].tolist() == wanted
    assert standardise_numpy(np.full((3, 3, 2), 0.25, np.float32)).tolist() == [[[0.0] * 2] * 3] * 3


def test_standardised_twins_are_equal_image_by_image():
    rng = np.random.default_rng(5)
    images = rng.random((3, 16, 12, 3), np.float32) * np.float32([[[[1.0]]], [[[0.3]]], [[[0.5]]]])
    found = standardise_numpy(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.mean((1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(found.std((1, 2, 3)), 1, atol=1e-5)
    for run in (standardise_graph, tf.function(standardise_graph)):
        np.testing.assert_allclose(run(images), found, atol=1e-5)
        np.testing.assert_allclose(run(images[1]), found[1], atol=1e-5)
