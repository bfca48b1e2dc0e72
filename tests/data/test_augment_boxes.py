"""The geometric operations one by one and chained: pixels and boxes go the same way."""

import itertools

import cv2
import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.data.augment import compose
from lesionkeras.data.augment_boxes import (
    Crop,
    Flip,
    Rotate,
    Translate,
    View,
    Zoom,
    apply_view,
    move_boxes,
)

SIDE_PX = 96
# Ellipses with pairwise different axes, one a channel, and a row of padding.
BOXES = np.float32([[20, 30, 44, 42], [0, 0, 0, 0], [50, 20, 62, 56], [40, 60, 60, 80]])
CLASSES = np.int32([0, -1, 2, 1])
ROWS = (0, 2, 3)
CHAINS = {
    "rotate": [Rotate(40.0)],
    "rotate half": [Rotate(180.0)],
    "zoom, rotate": [Zoom(0.7, 1.4), Rotate(25.0)],
    "translate, rotate, flip": [Translate(0.1), Rotate(30.0), Flip()],
    "all": [Zoom(0.8, 1.3), Rotate(20.0), Crop(64, 0.7), Flip(), Translate(0.05)],
}


def paint_ellipses():
    """Each box's inscribed ellipse, smooth at its rim, in its own channel."""
    fine = 8
    image = np.zeros((SIDE_PX, SIDE_PX, len(ROWS)), np.float32)
    for channel, row in enumerate(ROWS):
        large = np.zeros((SIDE_PX * fine,) * 2, np.uint8)
        x1, y1, x2, y2 = (BOXES[row] * fine).astype(int).tolist()
        axes = ((x2 - x1) // 2, (y2 - y1) // 2)
        cv2.ellipse(large, ((x1 + x2) // 2, (y1 + y2) // 2), axes, 0, 0, 360, 255, -1)
        image[..., channel] = cv2.resize(large, (SIDE_PX,) * 2, interpolation=cv2.INTER_AREA) / 255
    return image


def run_chain(geometry, key, image=None, eager=False):
    image = paint_ellipses() if image is None else image
    words = tuple(map(tf.constant, (image, BOXES, CLASSES, np.int32(key))))
    change = compose(geometry)
    return [np.asarray(out) for out in (change if eager else tf.function(change))(*words)]


def find_bounds(channel):
    """Edges of a filled ellipse: where it is half covered, to a tenth of a pixel or so."""
    fine = cv2.resize(channel, None, fx=8, fy=8, interpolation=cv2.INTER_LINEAR)
    y, x = np.nonzero(fine > 0.5)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) / 8


@pytest.mark.parametrize("name", CHAINS)
def test_a_turned_box_is_the_bounds_of_its_ellipse(name):
    checked, change = 0, tf.function(compose(CHAINS[name]))
    words = tuple(map(tf.constant, (paint_ellipses(), BOXES, CLASSES)))
    for number in range(12):
        image, boxes, classes = change(*words, tf.constant([3, number]))
        side = image.shape[0]
        for channel, row in enumerate(ROWS):
            box = boxes[row].numpy()
            if classes[row] < 0 or box.min() < 1 or box.max() > side - 1:
                continue  # cut by the picture's edge
            np.testing.assert_allclose(box, find_bounds(image[..., channel].numpy()), atol=0.75)
            checked += 1
    assert checked >= 12


def test_a_turn_by_hand():
    """A quarter turn takes 24 x 12 px to 12 x 24 px about the same middle's image."""
    quarter = View.whole(SIDE_PX)._replace(
        matrix=tf.constant([[0.0, -1.0], [1.0, 0.0]]), is_turned=True
    )
    boxes, classes = move_boxes(tf.constant(BOXES), tf.constant(CLASSES), quarter)
    # source y = -view x + 96, source x = view y: view x = 96 - y, view y = x
    np.testing.assert_allclose(boxes[0], [96 - 42, 20, 96 - 30, 44], atol=1e-4)
    assert classes.numpy().tolist() == [0, -1, 2, 1] and not boxes[1].numpy().any()
    eighth = np.float32([[1, -1], [1, 1]]) / np.float32(np.sqrt(2))
    boxes, _ = move_boxes(
        tf.constant(BOXES), tf.constant(CLASSES), quarter._replace(matrix=tf.constant(eighth))
    )
    np.testing.assert_allclose(  # a circle of 20 px stays one, whatever the angle
        (boxes[3, 2:] - boxes[3, :2]).numpy(), [20, 20], atol=1e-3
    )
    wide = np.hypot(12, 6) * np.sqrt(2)  # sqrt((12 cos 45)^2 + (6 sin 45)^2) * 2
    np.testing.assert_allclose((boxes[0, 2:] - boxes[0, :2]).numpy(), [wide, wide], atol=1e-3)


def test_slivers_go_and_what_is_left_is_clipped():
    moved = View.whole(SIDE_PX)._replace(centre=tf.constant([0.5, 0.5 + 32 / SIDE_PX]))
    boxes, classes = move_boxes(tf.constant(BOXES), tf.constant(CLASSES), moved)
    # x from 32 on: of box 0 half is left, and a pixel more and it is gone
    assert boxes[0].numpy().tolist() == [0, 30, 12, 42] and classes[0] == 0
    further = moved._replace(centre=tf.constant([0.5, 0.5 + 35 / SIDE_PX]))
    boxes, classes = move_boxes(tf.constant(BOXES), tf.constant(CLASSES), further)
    assert classes.numpy().tolist() == [-1, -1, 2, 1] and not boxes[0].numpy().any()


def test_operations_alone():
    def find(operation, count=40):
        change = tf.function(compose([operation]))
        words = tuple(map(tf.constant, (paint_ellipses(), BOXES, CLASSES)))
        return [change(*words, tf.constant([5, n]))[1].numpy() for n in range(count)]

    flips = find(Flip(left_right=True, up_down=False))
    assert {float(boxes[0, 0]) for boxes in flips} == {20.0, SIDE_PX - 44.0}
    assert {float(boxes[0, 1]) for boxes in flips} == {30.0}
    moves = np.array([boxes[0, :2] - BOXES[0, :2] for boxes in find(Translate(0.1))])
    assert np.abs(moves).max() <= 10 and np.array_equal(moves, moves.round())
    assert len(np.unique(moves[:, 0])) > 8 and (moves.min(0) < 0).all() and (moves.max(0) > 0).all()
    zooms = np.array(
        [(boxes[3, 2] - boxes[3, 0]) / 20 for boxes in find(Zoom(0.5, 1.5)) if boxes[3].any()]
    )
    assert 0.5 <= zooms.min() < 0.7 and 1.3 < zooms.max() <= 1.5


def test_chains_draw_anew_where_a_kind_comes_twice():
    once = run_chain([Translate(0.2)], (1, 2), eager=True)[1][0, :2] - BOXES[0, :2]
    twice = run_chain([Translate(0.2), Translate(0.2)], (1, 2), eager=True)[1][0, :2] - BOXES[0, :2]
    assert not np.allclose(twice, 2 * once, atol=1.5)


@pytest.mark.parametrize("name", CHAINS)
def test_eager_equals_graph_and_the_key_decides(name):
    first, again = (run_chain(CHAINS[name], (7, 1), eager=eager) for eager in (True, False))
    for ours, reference in zip(first, again, strict=True):
        np.testing.assert_allclose(ours, reference, atol=2e-4)
    other = run_chain(CHAINS[name], (7, 2), eager=True)
    assert not np.allclose(first[0], other[0])


def test_geometry_is_one_resampling():
    """Fine detail survives a chain that ends where it began: twice smoothed it would not."""
    noise = np.random.default_rng(0).uniform(size=(SIDE_PX, SIDE_PX, 1)).astype(np.float32)
    there_and_back = View.whole(SIDE_PX)
    for operation in (Zoom(2.0, 2.0), Zoom(0.5, 0.5)):
        there_and_back = operation(there_and_back, BOXES, CLASSES, tf.constant([0, 0]))
    image, boxes, _ = apply_view(tf.constant(noise), BOXES, CLASSES, there_and_back)
    assert np.array_equal(image, noise) and np.array_equal(boxes, BOXES)


def test_crops_of_turned_images_hold_their_lesion():
    kept, change = 0, tf.function(compose([Rotate(180.0), Crop(64, 1.0)]))
    words = tuple(map(tf.constant, (paint_ellipses(), BOXES, CLASSES)))
    for number in range(30):
        _, boxes, classes = change(*words, tf.constant([2, number]))
        assert np.max(boxes) <= 64
        kept += bool((classes.numpy() >= 0).any())
    assert kept >= 28


def test_views_are_what_chains_make_of_them():
    for chain in itertools.islice(CHAINS.values(), 2):
        image, boxes, classes = run_chain(chain, (4, 4), eager=True)
        view = View.whole(SIDE_PX)
        for operation in chain:
            view = operation(view, tf.constant(BOXES), tf.constant(CLASSES), tf.constant([4, 4]))
        wanted = apply_view(
            tf.constant(paint_ellipses()), tf.constant(BOXES), tf.constant(CLASSES), view
        )
        np.testing.assert_allclose(image, np.clip(wanted[0], 0, 1), atol=1e-5)
        np.testing.assert_allclose(boxes, wanted[1], atol=1e-4)
        assert np.array_equal(classes, wanted[2])
