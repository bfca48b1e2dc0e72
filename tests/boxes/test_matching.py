import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.boxes import compute_iou, make_anchors
from lesionkeras.boxes.matching import match_anchors
from lesionkeras.config import AnchorConfig, MatchConfig

P1 = MatchConfig(positive_iou=0.5, negative_iou=0.5)


def _match(anchors, boxes, classes, config=P1):
    """`match_anchors` of one image, as NumPy."""
    anchors = np.array(anchors, np.float32)
    idx, state = match_anchors(
        anchors, np.array([boxes], np.float32), np.array([classes], np.int32), config
    )
    return np.asarray(idx)[0].tolist(), np.asarray(state)[0].tolist()


def test_a_positive_is_above_the_threshold_and_not_at_it():
    # IoU with the box 8 x 8: 1 (forced anyway), 5/8, exactly 4/8, 3/8.
    anchors = [[0, 0, 8, 8], [0, 0, 8, 5], [0, 0, 8, 4], [0, 0, 8, 3]]
    assert _match(anchors, [[0, 0, 8, 8]], [0]) == ([0, 0, 0, 0], [1, 1, 0, 0])


def test_anchors_between_two_thresholds_are_ignored():
    # IoU 1, 4/8 (not above .5), 3/8, exactly 2/8 (not below .25), 1/8.
    anchors = [[0, 0, 8, 8], [0, 0, 8, 4], [0, 0, 8, 3], [0, 0, 8, 2], [0, 0, 8, 1]]
    config = MatchConfig(positive_iou=0.5, negative_iou=0.25)
    assert _match(anchors, [[0, 0, 8, 8]], [0], config)[1] == [1, -1, -1, -1, 0]


def test_the_best_anchor_is_forced_below_the_threshold():
    # IoU 4/128 and 4/64: far below .5; the third does not touch.
    anchors = [[0, 0, 16, 8], [0, 0, 8, 8], [50, 50, 58, 58]]
    assert _match(anchors, [[0, 0, 2, 2]], [0]) == ([0, 0, 0], [0, 1, 0])


def test_forcing_takes_an_anchor_from_a_box_that_has_others():
    # Anchor 1 is closest to box 0 (IoU 6/8 to box 1's 2/8), but box 0 has anchor 0 as its own.
    anchors = [[0, 0, 8, 8], [0, 0, 8, 6]]
    boxes = [[0, 0, 8, 8], [0, 4, 8, 6]]
    assert _match(anchors, boxes, [0, 0]) == ([0, 1], [1, 1])


def test_two_boxes_with_one_best_anchor_get_two_anchors():
    # Both like anchor 0 best: box 1 with 6/8, box 0 with 3/8; box 0 goes on to anchor 1 (1/3).
    anchors = [[0, 0, 8, 8], [0, 0, 8, 1], [0, 20, 8, 28]]
    boxes = [[0, 0, 8, 3], [0, 0, 8, 6]]
    assert _match(anchors, boxes, [0, 0]) == ([1, 0, 0], [1, 1, 0])


def test_ties_go_to_the_lower_box_and_the_lower_anchor():
    anchors = [[0, 0, 8, 8], [0, 0, 8, 8], [0, 0, 8, 8]]
    same = [[0, 0, 8, 4], [0, 0, 8, 4]]
    assert _match(anchors, same, [0, 0]) == ([0, 1, 0], [1, 1, 0])


def test_a_box_that_no_anchor_touches_forces_none():
    assert _match([[0, 0, 8, 8]], [[20, 20, 24, 24]], [0]) == ([0], [0])


def test_more_boxes_than_anchors_leave_the_worst_without():
    anchors = [[0, 0, 8, 8]]
    boxes = [[0, 0, 8, 3], [0, 0, 8, 7], [0, 0, 8, 5]]
    assert _match(anchors, boxes, [0, 0, 0]) == ([1], [1])


@pytest.mark.parametrize("rows", [0, 3])
def test_no_truth_is_all_negative(rows):
    anchors = make_anchors(AnchorConfig(strides_px=(16, 32)), 64, 64)
    for config in (P1, MatchConfig(positive_iou=0.5, negative_iou=0.25)):
        idx, state = _match(anchors, np.zeros((rows, 4)), [-1] * rows, config)
        assert set(idx) == {0} and set(state) == {0}


def test_padding_rows_match_nothing_even_between_real_rows():
    anchors = [[0, 0, 8, 8], [0, 0, 4, 4]]
    boxes = [[0, 0, 0, 0], [0, 0, 8, 8], [0, 0, 4, 4]]
    # Row 2 has a box but class -1: padding.
    assert _match(anchors, boxes, [-1, 0, -1]) == ([1, 1], [1, 0])


def test_thresholds_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match=r"negative_iou 0.6 is above 0.5"):
        _match([[0, 0, 8, 8]], [[0, 0, 8, 8]], [0], MatchConfig(0.5, 0.6))


def _match_slowly(anchors, boxes, classes, config):
    """The rules again, as plain loops over one image."""
    iou = compute_iou(boxes, anchors) * (classes >= 0)[:, None]
    idx, best = iou.argmax(axis=0), iou.max(axis=0)
    state = np.where(best > config.positive_iou, 1, np.where(best < config.negative_iou, 0, -1))
    left = iou.copy()
    for _ in boxes:
        box, anchor = np.unravel_index(left.argmax(), left.shape)
        if left[box, anchor] > 0:
            idx[anchor], state[anchor] = box, 1
            left[box], left[:, anchor] = 0, 0
    return idx, state


@pytest.fixture(scope="module")
def crowded():
    """Four images of up to 9 boxes in 12 rows, crowded so that boxes share best anchors."""
    rng = np.random.default_rng(3)
    anchors = make_anchors(AnchorConfig(strides_px=(8, 16, 32)), 48, 80)
    centre = rng.uniform([10, 10], [40, 40], (4, 12, 2))
    half = rng.uniform(1, 20, (4, 12, 2))
    boxes = np.concatenate([centre - half, centre + half], -1).astype(np.float32)
    classes = rng.integers(0, 2, (4, 12)).astype(np.int32)
    classes[:, 9:] = classes[0, 2] = classes[3] = -1
    boxes[classes < 0] = 0
    return anchors, boxes, classes


CONFIG = MatchConfig(positive_iou=0.5, negative_iou=0.4)


def test_crowded_images_equal_plain_loops(crowded):
    anchors, boxes, classes = crowded
    before = [array.copy() for array in crowded]
    idx, state = match_anchors(anchors, boxes, classes, CONFIG)
    for i in range(len(boxes)):
        wanted_idx, wanted_state = _match_slowly(anchors, boxes[i], classes[i], CONFIG)
        np.testing.assert_array_equal(idx[i], wanted_idx)
        np.testing.assert_array_equal(state[i], wanted_state)
    assert {-1, 0, 1} == set(np.unique(state))
    for array, copy in zip(crowded, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_graph_and_xla_equal_eager(crowded, jit_compile):
    anchors, boxes, classes = crowded
    match = tf.function(lambda b, c: match_anchors(anchors, b, c, CONFIG), jit_compile=jit_compile)
    eager = match_anchors(anchors, boxes, classes, CONFIG)
    for ours, wanted in zip(match(boxes, classes), eager, strict=True):
        assert ours.dtype == "int32" and ours.shape == (4, len(anchors))
        np.testing.assert_array_equal(ours, wanted)


def test_matching_takes_an_unknown_batch_size_inside_a_gradient(crowded):
    anchors, boxes, classes = crowded
    weight = tf.Variable(2.0)

    @tf.function(
        input_signature=[tf.TensorSpec((None, 12, 4)), tf.TensorSpec((None, 12), tf.int32)]
    )
    def compute_gradient(boxes, classes):
        with tf.GradientTape() as tape:
            _, state = match_anchors(anchors, boxes, classes, CONFIG)
            loss = weight * tf.reduce_sum(tf.cast(state == 1, tf.float32))
        return tape.gradient(loss, weight)

    _, state = match_anchors(anchors, boxes, classes, CONFIG)
    for count in (1, 4):
        positives = np.sum(np.asarray(state[:count]) == 1)
        assert compute_gradient(boxes[:count], classes[:count]) == positives


def _match_with_kerascv(iou, config):
    """Boxes and states by KerasCV, from IoUs [B, M, A]; all rows are boxes."""
    from keras_cv.layers import BoxMatcher

    matcher = BoxMatcher(
        [config.negative_iou, config.positive_iou], [0, -1, 1], force_match_for_each_col=True
    )
    return map(np.asarray, matcher(np.swapaxes(iou, 1, 2)))


def _make_boxes(num_images, num_boxes, seed):
    """Random boxes of images of 64 x 96 px, and their classes: no padding."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform([4, 4], [92, 60], (num_images, num_boxes, 2))
    half = rng.uniform(2, 24, (num_images, num_boxes, 2))
    boxes = np.concatenate([centre - half, centre + half], -1).astype(np.float32)
    return boxes, np.zeros((num_images, num_boxes), np.int32)


def test_kerascv_agrees_where_each_box_has_a_best_anchor_of_its_own():
    """On every anchor but the first, which it gives to a box that does not exist."""
    anchors = make_anchors(AnchorConfig(strides_px=(8, 16, 32)), 64, 96)
    boxes, classes = _make_boxes(100, 4, seed=1)
    iou = compute_iou(boxes, anchors)
    assert all(len(set(best)) == 4 for best in iou.argmax(axis=2))
    their_idx, their_state = _match_with_kerascv(iou, CONFIG)
    idx, state = map(np.asarray, match_anchors(anchors, boxes, classes, CONFIG))
    np.testing.assert_array_equal(idx[:, 1:], their_idx[:, 1:])
    np.testing.assert_array_equal(state[:, 1:], their_state[:, 1:])
    assert {-1, 0, 1} == set(np.unique(state))
    assert (their_state[:, 0] == 1).all() and (their_idx[:, 0] == 4).all()  # rows are 0 to 3
    assert (iou[:, :, 0] < CONFIG.positive_iou).all() and not (state[:, 0] == 1).any()


def test_kerascv_leaves_boxes_without_an_anchor():
    """A reason for our own matcher: where two boxes like one anchor best, it drops one of them."""
    config = AnchorConfig(strides_px=(16, 32), size_factor=2.0, scales=(1.0,), ratios=(1.0,))
    anchors = make_anchors(config, 64, 96)
    boxes, classes = _make_boxes(100, 6, seed=2)
    iou = compute_iou(boxes, anchors)
    assert (iou.max(axis=2) > 0).all()

    def count_dropped(idx, state):
        return sum(6 - len(set(range(6)) & set(i[s == 1])) for i, s in zip(idx, state, strict=True))

    assert count_dropped(*_match_with_kerascv(iou, CONFIG)) > 50
    assert count_dropped(*map(np.asarray, match_anchors(anchors, boxes, classes, CONFIG))) == 0
