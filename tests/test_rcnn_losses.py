import numpy as np
import pytest

from lesionkeras.rcnn_losses import roi_loss, rpn_loss


def log_loss(probability):
    return -np.log(probability)


def to_logit(probability):
    return np.log(probability / (1 - probability))


def test_rpn_loss_by_hand():
    """Of four anchors one is positive, two negative, one not drawn; smooth L1 with beta .5."""
    logits = np.array([[to_logit(0.8), to_logit(0.3), to_logit(0.1), 50.0]], np.float32)
    deltas = np.array([[[1, 0, 0.25, 0], [9, 9, 9, 9], [9, 9, 9, 9], [9, 9, 9, 9]]], np.float32)
    wanted = np.zeros((1, 4, 4), np.float32)
    is_positive, is_drawn = np.array([[True, False, False, True]]), np.array([[True] * 3 + [False]])
    found = rpn_loss(logits, deltas, wanted, is_positive, is_drawn, 0.5)
    assert float(found[0]) == pytest.approx(
        (log_loss(0.8) + log_loss(0.7) + log_loss(0.9)) / 3, rel=1e-5
    )
    assert float(found[1]) == pytest.approx(((1 - 0.25) + 0.5 * 0.25**2 / 0.5) / 3, rel=1e-6)


def test_rpn_loss_of_nothing_is_nothing():
    found = rpn_loss(
        np.ones((2, 3), np.float16),
        np.ones((2, 3, 4), np.float16),
        np.full((2, 3, 4), 1e3, np.float32),
        np.ones((2, 3), bool),
        np.zeros((2, 3), bool),
        1.0,
    )
    assert [float(loss) for loss in found] == [0.0, 0.0]
    assert all(loss.dtype == "float32" for loss in found)


def test_rpn_loss_of_certain_logits_is_finite():
    logits = np.array([[-1e4, 1e4]], np.float32)
    none = np.zeros((1, 2, 4), np.float32)
    found = rpn_loss(logits, none, none, np.array([[True, False]]), np.ones((1, 2), bool), 1.0)
    assert float(found[0]) == pytest.approx(1e4)


def test_roi_loss_by_hand():
    """A lesion of class 1, background, and a row that is not drawn."""
    logits = np.log(np.array([[[2.0, 5.0], [1.0, 2.0], [1.0, 1.0]]], np.float32))
    deltas = np.zeros((1, 3, 2, 4), np.float32)
    deltas[0, 0, 0] = 7.0  # class 0's box of a class 1 lesion: not looked at
    deltas[0, 0, 1] = (0.5, 3.0, 0.0, 0.0)
    deltas[0, 1] = 7.0
    found = roi_loss(
        logits,
        deltas,
        np.array([[1, -1, 0]], np.int32),
        np.zeros((1, 3, 4), np.float32),
        np.array([[True, True, False]]),
        1.0,
    )
    assert float(found[0]) == pytest.approx((log_loss(5 / 8) + log_loss(1 / 4)) / 2, rel=1e-6)
    assert float(found[1]) == pytest.approx((0.5 * 0.25 + 2.5) / 2, rel=1e-6)


def test_roi_loss_of_nothing_is_nothing():
    found = roi_loss(
        np.ones((1, 2, 1), np.float16),
        np.ones((1, 2, 1, 4), np.float16),
        np.zeros((1, 2), np.int32),
        np.full((1, 2, 4), 1e3, np.float32),
        np.zeros((1, 2), bool),
        1.0,
    )
    assert [float(loss) for loss in found] == [0.0, 0.0]
    assert all(loss.dtype == "float32" for loss in found)
