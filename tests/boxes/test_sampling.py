from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.boxes.sampling import match_proposals, sample_rows
from lesionkeras.config import MatchConfig

GOLDEN = Path(__file__).parents[1] / "golden" / "torchvision_rcnn.npz"


def sample(state, noise, num_rows, positive_fraction):
    noise = np.array([noise], np.float32)
    idx, drawn = sample_rows(np.array([state], np.int32), noise, num_rows, positive_fraction)
    return np.asarray(idx)[0].tolist(), np.asarray(drawn)[0].tolist()


def test_positives_are_at_most_their_share_and_negatives_fill_the_rest():
    state = [1, 0, 1, -1, 0, 1, 0, 0]
    noise = [0.1, 0.9, 0.8, 0.99, 0.2, 0.7, 0.3, 0.4]
    assert sample(state, noise, 4, 0.5) == ([2, 5, 1, 7], [True] * 4)
    assert sample(state, noise, 4, 0.25) == ([2, 1, 7, 6], [True] * 4)
    assert sample(state, noise, 5, 1.0) == ([2, 5, 0, 1, 7], [True] * 5)
    assert sample(state, noise, 4, 0.0) == ([1, 7, 6, 4], [True] * 4)


def test_where_rows_run_out_the_rest_does_not_count():
    idx, drawn = sample([1, -1, 0], [0.5, 0.9, 0.0], 5, 0.5)
    assert (idx[:2], drawn) == ([0, 2], [True, True, False, False, False])
    assert sample([-1, -1], [0.5, 0.6], 3, 0.5)[1] == [False] * 3


def test_equal_noise_goes_to_the_lower_row():
    assert sample([0, 1, 0, 1], [0.5] * 4, 2, 0.5) == ([1, 0], [True, True])


def test_every_row_is_as_likely_as_any_other():
    noise = np.random.default_rng(0).uniform(size=(4000, 10)).astype(np.float32)
    state = np.tile([1, 0, 0, 1, 0, -1, 0, 1, 0, 0], (4000, 1)).astype(np.int32)
    idx, drawn = sample_rows(state, noise, 4, 0.5)
    assert np.all(drawn)
    share = np.bincount(np.asarray(idx).ravel(), minlength=10) / 4000
    np.testing.assert_allclose(share[state[0] == 1], 2 / 3, atol=0.03)
    np.testing.assert_allclose(share[state[0] == 0], 2 / 6, atol=0.03)
    assert share[5] == 0


def test_thresholds_by_hand():
    """IoUs of 10/16, exactly .5, 5/12 and 4/16 with the one box; then empty, padding, no box."""
    box = [0, 0, 4, 4]
    proposals = [[0, 0, 4, 2.5], [0, 0, 4, 2], [0, 0, 2.5, 8 / 3], [0, 0, 2, 2], [3, 3, 3, 4]]
    proposals = np.array([[*proposals, [0, 0, 0, 0], [9, 9, 12, 12]]], np.float32)
    boxes = np.array([[[0, 0, 0, 0], box]], np.float32)
    found = match_proposals(proposals, boxes, np.array([[-1, 0]]), MatchConfig(0.5, 0.4))
    idx, state = (np.asarray(value)[0].tolist() for value in found)
    assert state == [1, 1, -1, 0, -1, -1, 0]
    assert idx[:4] == [1] * 4
    _, state = match_proposals(proposals, boxes, np.array([[-1, -1]]), MatchConfig(0.5, 0.4))
    assert np.asarray(state)[0].tolist() == [0, 0, 0, 0, -1, -1, 0]  # its box does not exist


def test_states_are_torchvisions():
    with np.load(GOLDEN) as file:
        boxes, proposals = file["match/boxes"], file["match/proposals"]
        matched = file["match/matched"]  # a row of boxes, -1 negative, -2 ignored
    classes = np.zeros((1, len(boxes)), np.int32)
    idx, state = match_proposals(proposals[None], boxes[None], classes, MatchConfig(0.5, 0.4))
    idx, state = np.asarray(idx)[0], np.asarray(state)[0]
    assert min(np.sum(matched == code) for code in (-1, -2)) >= 3 and np.sum(matched >= 0) >= 10
    np.testing.assert_array_equal(state, np.where(matched >= 0, 1, np.where(matched == -1, 0, -1)))
    np.testing.assert_array_equal(idx[matched >= 0], matched[matched >= 0])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_both_work_in_a_graph(jit_compile):
    rng = np.random.default_rng(1)
    state = rng.integers(-1, 2, (2, 30)).astype(np.int32)
    noise = rng.uniform(size=(2, 30)).astype(np.float32)
    boxes = rng.uniform(0, 20, (2, 30, 4)).astype(np.float32)

    def run(state, noise, boxes):
        drawn = sample_rows(state, noise, 12, 0.25)
        return *drawn, *match_proposals(boxes, boxes[:, :3], state[:, :3], MatchConfig(0.5, 0.5))

    graph = tf.function(run, jit_compile=jit_compile)(state, noise, boxes)
    for found, wanted in zip(graph, run(state, noise, boxes), strict=True):
        np.testing.assert_array_equal(found, wanted)
