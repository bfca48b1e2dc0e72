import math
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.config import LossConfig
from lesionkeras.losses import (
    MAX_HARD_NEGATIVES,
    log_probabilities,
    multibox_loss,
    select_hard_negatives,
    smooth_l1,
)

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1
SSD_LOSS = LossConfig(negatives_per_positive=3.0, box_weight=1.0, smooth_l1_beta=1.0)


def softplus(x):
    return math.log1p(math.exp(x))


def make_case():
    """Two images: 2 positives, 1 ignored and 8 negatives; and no box, with 11 negatives."""
    negatives = [3.0, -4.0, 1.0, -1.0, 0.5, -3.0, 2.0, 0.0]
    logits = np.array(
        [
            [2.0, 0.7, 9.0, *negatives],
            [-2.0, -1.5, 0.25, -6.0, -2.5, 1.5, -7.0, -3.5, -8.0, -9.0, -0.5],
        ],
        np.float32,
    )[..., None]
    state = np.array([[POSITIVE, POSITIVE, IGNORED, *[NEGATIVE] * 8], [NEGATIVE] * 11], np.int32)
    deltas, target_deltas = np.zeros((2, 2, 11, 4), np.float32)
    deltas[0, 0] = [0.5, 0.0, 3.0, -1.0]
    target_deltas[0, 0] = [0.0, 0.0, 1.0, 1.0]
    deltas[0, 1] = [1.0, 1.0, 1.0, 1.0]
    target_deltas[0, 1] = [1.2, 1.0, 1.0, 1.0]
    deltas[0, 2:] = 7.0  # neither an ignored nor a negative anchor has a box to miss
    return logits, deltas, np.zeros((2, 11), np.int32), target_deltas, state


def test_smooth_l1_is_quadratic_then_linear():
    error = np.array([-3.0, -2.0, -0.5, 0.0, 1.0, 4.0], np.float32)
    np.testing.assert_allclose(smooth_l1(error, 2.0), [2.0, 1.0, 0.0625, 0.0, 0.25, 3.0], rtol=1e-6)


def test_log_probabilities_take_background_as_a_logit_of_zero():
    background, classes = log_probabilities(np.array([[1.0, 3.0], [-200.0, 0.0]], np.float16))
    total = 1 + math.e + math.e**3
    assert background.dtype == classes.dtype == tf.float32
    np.testing.assert_allclose(background, [-math.log(total), -math.log(2)], rtol=1e-6)
    np.testing.assert_allclose(classes[0], [1 - math.log(total), 3 - math.log(total)], rtol=1e-6)
    np.testing.assert_allclose(classes[1], [-200 - math.log(2), -math.log(2)], rtol=1e-6)


def test_loss_by_hand():
    class_loss, box_loss = multibox_loss(*make_case(), replace(SSD_LOSS, box_weight=2.5))
    positives = softplus(-2.0) + softplus(-0.7)
    hardest = sum(map(softplus, [3.0, 2.0, 1.5, 1.0, 0.5, 0.25]))  # of both images, 3 a positive
    assert float(class_loss) == pytest.approx((positives + hardest) / 2, rel=1e-6)
    boxes = 0.5 * 0.5**2 + 0.0 + (2.0 - 0.5) + (2.0 - 0.5) + 0.5 * 0.2**2
    assert float(box_loss) == pytest.approx(2.5 * boxes / 2, rel=1e-5)


def test_loss_of_two_classes_by_hand():
    logits = np.array([[[1.0, -1.0], [0.5, 2.0]]], np.float32)
    classes, state = np.array([[1, 0]], np.int32), np.array([[POSITIVE, NEGATIVE]], np.int32)
    boxes = np.zeros((1, 2, 4), np.float32)
    class_loss, box_loss = multibox_loss(logits, boxes, classes, boxes, state, SSD_LOSS)
    positive = math.log(1 + math.e + math.exp(-1)) + 1.0  # class 1 has the logit of -1
    negative = math.log(1 + math.exp(0.5) + math.exp(2))
    assert float(class_loss) == pytest.approx(positive + negative, rel=1e-6)
    assert float(box_loss) == 0.0


@pytest.mark.parametrize("ratio", [0.0, 1.0, 2.5])
def test_ratio_of_negatives(ratio):
    config = replace(SSD_LOSS, negatives_per_positive=ratio)
    class_loss = multibox_loss(*make_case(), config)[0]
    hardest = [3.0, 2.0, 1.5, 1.0, 0.5, 0.25][: int(2 * ratio)]
    wanted = softplus(-2.0) + softplus(-0.7) + sum(map(softplus, hardest))
    assert float(class_loss) == pytest.approx(wanted / 2, rel=1e-6)


def test_ties_go_to_the_lower_anchor():
    loss = np.array([[1.0, 2.0, 1.0, -1.0, 1.0, 2.0, 1.0], [0.0] * 7], np.float32)
    for wanted, first, second in (
        (4.0, [1, 1, 1, 0, 0, 1, 0], [0] * 7),
        (1.0, [0, 1, 0, 0, 0, 0, 0], [0] * 7),
        (9.0, [1, 1, 1, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0]),
        (99.0, [1, 1, 1, 0, 1, 1, 1], [1] * 7),  # never an anchor that is no negative
    ):
        chosen = select_hard_negatives(tf.constant(loss), tf.constant(wanted))
        assert np.array_equal(chosen, [first, second])


def test_most_negatives_are_cut_and_the_hardest_are_kept():
    loss = tf.reshape(tf.range(2.0 * MAX_HARD_NEGATIVES), (2, -1))
    chosen = select_hard_negatives(loss, tf.constant(1e9)).numpy()
    assert not chosen[0].any() and chosen[1].all()


def test_float16_in_float32_out():
    logits, deltas, *rest = make_case()
    wanted = multibox_loss(logits, deltas, *rest, SSD_LOSS)
    found = multibox_loss(
        tf.cast(logits, tf.float16), tf.cast(deltas, tf.float16), *rest, LossConfig()
    )
    for loss, reference in zip(found, wanted, strict=True):
        assert loss.dtype == tf.float32
        assert float(loss) == pytest.approx(float(reference), rel=1e-3)


def compute_gradients(logits, deltas, *rest):
    logits, deltas = tf.constant(logits), tf.constant(deltas)
    with tf.GradientTape() as tape:
        tape.watch([logits, deltas])
        class_loss, box_loss = multibox_loss(logits, deltas, *rest, SSD_LOSS)
        loss = class_loss + box_loss
    return float(loss), [g.numpy() for g in tape.gradient(loss, [logits, deltas])]


def test_gradients_by_hand():
    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    _, (by_logits, by_deltas) = compute_gradients(*make_case())
    chosen = {(0, 3): 3.0, (0, 9): 2.0, (0, 5): 1.0, (0, 7): 0.5, (1, 5): 1.5, (1, 2): 0.25}
    wanted = np.zeros((2, 11))
    wanted[0, :2] = [-sigmoid(-2.0) / 2, -sigmoid(-0.7) / 2]
    for place, logit in chosen.items():
        wanted[place] = sigmoid(logit) / 2
    np.testing.assert_allclose(by_logits[..., 0], wanted, atol=1e-6)
    assert wanted[0, 2] == 0 and not by_deltas[0, 2:].any()  # ignored
    np.testing.assert_allclose(by_deltas[0, 0], [0.25, 0.0, 0.5, -0.5], atol=1e-6)
    np.testing.assert_allclose(by_deltas[0, 1], [-0.1, 0, 0, 0], atol=1e-6)
    assert not by_deltas[1].any()


@pytest.mark.parametrize("kind", [NEGATIVE, IGNORED])
def test_no_positive_at_all_stays_finite(kind):
    logits, deltas, classes, targets, _ = make_case()
    state = np.full((2, 11), kind, np.int32)
    loss, (by_logits, by_deltas) = compute_gradients(logits, deltas, classes - 1, targets, state)
    assert np.isfinite(by_logits).all() and not by_deltas.any()
    if kind == NEGATIVE:
        hardest = [9.0, 3.0, 2.0]  # as if there were one positive
        assert loss == pytest.approx(sum(map(softplus, hardest)), rel=1e-6)
        assert np.count_nonzero(by_logits) == 3
    else:
        assert loss == 0.0 and not by_logits.any()


def test_huge_logits_stay_finite():
    logits, deltas, *rest = make_case()
    loss, gradients = compute_gradients(1e4 * logits, 1e4 * deltas, *rest)
    assert np.isfinite(loss) and all(np.isfinite(g).all() for g in gradients)
