import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.boxes import compute_iou
from lesionkeras.boxes.suppression import select_detections
from lesionkeras.config import DecodeConfig

CONFIG = DecodeConfig(score_threshold=0.1, iou_threshold=0.5, candidates=16, max_detections=4)


def _select(boxes, scores, config=CONFIG):
    """`select_detections` of one image; scores are `[A]` or `[A, C]`."""
    scores = np.array(scores, np.float32).reshape(len(boxes), -1)
    found = select_detections(np.array([boxes], np.float32), scores[None], config)
    return {name: np.asarray(value)[0] for name, value in found.items()}


def test_greedy_suppression_by_hand():
    # 1 falls to 0 (IoU 6/10); 2 overlaps 1 (6/10) and 0 only by 3/13: it stays, as 1 is gone.
    boxes = [[0, 0, 8, 1], [2, 0, 10, 1], [5, 0, 12, 1], [40, 0, 44, 9]]
    found = _select(boxes, [0.9, 0.8, 0.7, 0.3])
    assert found["num_detections"] == 3
    np.testing.assert_array_equal(found["boxes"], [boxes[0], boxes[2], boxes[3], [0, 0, 0, 0]])
    np.testing.assert_allclose(found["scores"], [0.9, 0.7, 0.3, 0.0])
    np.testing.assert_array_equal(found["classes"], [0, 0, 0, -1])
    assert found["boxes"].dtype == np.float32 and found["classes"].dtype == np.int32


def test_an_overlap_at_the_threshold_is_kept():
    boxes = [[0, 0, 8, 8], [0, 0, 8, 4]]  # IoU exactly .5
    assert _select(boxes, [0.9, 0.8])["num_detections"] == 2


def test_a_score_at_the_threshold_is_dropped_and_so_is_nan():
    boxes = [[0, 0, 8, 8], [20, 0, 28, 8], [40, 0, 48, 8]]
    config = DecodeConfig(score_threshold=0.5, iou_threshold=0.5, candidates=9, max_detections=3)
    found = _select(boxes, [0.5, 0.75, np.nan], config)
    assert found["num_detections"] == 1
    np.testing.assert_array_equal(found["boxes"][0], boxes[1])


def test_an_empty_box_is_no_detection():
    boxes = [[20, 0, 20, 8], [0, 0, 8, 8], [3, 8, 5, 8], [30, 0, 28, 8]]
    found = _select(boxes, [0.9, 0.8, 0.7, 0.6])
    assert found["num_detections"] == 1
    np.testing.assert_array_equal(found["boxes"], [boxes[1], *[[0, 0, 0, 0]] * 3])


def test_classes_do_not_suppress_each_other():
    boxes = [[0, 0, 8, 8], [0, 0, 8, 7]]
    found = _select(boxes, [[0.9, 0.2], [0.6, 0.7]])
    # Class 0 keeps anchor 0; class 1 keeps anchor 1 (.7) and drops anchor 0 (.2).
    np.testing.assert_allclose(found["scores"], [0.9, 0.7, 0.0, 0.0])
    np.testing.assert_array_equal(found["classes"], [0, 1, -1, -1])
    np.testing.assert_array_equal(found["boxes"][:2], boxes)


def test_equal_scores_go_to_the_lower_anchor_then_the_lower_class():
    boxes = [[0, 0, 8, 7], [0, 0, 8, 8], [30, 0, 38, 8]]
    found = _select(boxes, [[0.5, 0.5]] * 3)
    np.testing.assert_array_equal(found["boxes"], [boxes[0], boxes[0], boxes[2], boxes[2]])
    np.testing.assert_array_equal(found["classes"], [0, 1, 0, 1])


def test_nothing_above_the_threshold_is_all_padding():
    found = _select([[0, 0, 8, 8]], [0.05])
    assert found["num_detections"] == 0
    assert not found["boxes"].any() and not found["scores"].any()
    np.testing.assert_array_equal(found["classes"], [-1] * 4)


def test_candidates_and_detections_are_limited():
    boxes = [[10 * i, 0, 10 * i + 8, 8] for i in range(6)]
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    assert _select(boxes, scores)["num_detections"] == 4
    two = DecodeConfig(score_threshold=0.1, iou_threshold=0.5, candidates=2, max_detections=4)
    np.testing.assert_allclose(_select(boxes, scores, two)["scores"], [0.9, 0.8, 0.0, 0.0])


@pytest.fixture(scope="module")
def crowd():
    """Three images of 400 crowded boxes; two classes; scores in hundredths, so that many tie."""
    rng = np.random.default_rng(5)
    centre, half = rng.uniform(0, 60, (3, 400, 2)), rng.uniform(2, 15, (3, 400, 2))
    boxes = np.concatenate([centre - half, centre + half], -1).astype(np.float32)
    return boxes, rng.uniform(0, 1, (3, 400, 2)).round(2).astype(np.float32)


CROWD_CONFIG = DecodeConfig(
    score_threshold=0.3, iou_threshold=0.4, candidates=300, max_detections=60
)


def _select_slowly(boxes, scores, config):
    """The rules again, as a plain loop over one image."""
    flat = scores.reshape(-1)
    pairs = np.argsort(-flat, kind="stable")[: config.candidates]
    kept = []
    for pair in pairs[flat[pairs] > config.score_threshold]:
        anchor, label = divmod(int(pair), scores.shape[1])
        rivals = [boxes[a] for a, c in kept if c == label]
        best = compute_iou(boxes[anchor][None], np.array(rivals)) if rivals else np.zeros(1)
        if best.max() <= config.iou_threshold:
            kept.append((anchor, label))
    return kept[: config.max_detections]


def test_a_crowd_equals_a_plain_loop_and_arguments_stay(crowd):
    before = [array.copy() for array in crowd]
    found = select_detections(*crowd, CROWD_CONFIG)
    for i, (boxes, scores) in enumerate(zip(*crowd, strict=True)):
        kept = _select_slowly(boxes, scores, CROWD_CONFIG)
        count = int(found["num_detections"][i])
        assert count == len(kept) > 10
        np.testing.assert_array_equal(found["boxes"][i][:count], [boxes[a] for a, _ in kept])
        np.testing.assert_array_equal(found["classes"][i][:count], [c for _, c in kept])
        np.testing.assert_array_equal(found["scores"][i][:count], [scores[a, c] for a, c in kept])
    for array, copy in zip(crowd, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_tensorflow_keeps_the_same_boxes(crowd):
    boxes, scores = crowd[0], crowd[1][..., :1]
    config = DecodeConfig(score_threshold=0.3, iou_threshold=0.4, candidates=400, max_detections=60)
    found = select_detections(boxes, scores, config)
    for i in range(len(boxes)):
        rows = tf.image.non_max_suppression(boxes[i], scores[i, :, 0], 60, 0.4, 0.3)
        count = int(found["num_detections"][i])
        np.testing.assert_allclose(found["scores"][i][:count], scores[i, :, 0][rows.numpy()])


def test_kerascv_lets_classes_suppress_each_other():
    """A reason for our own suppression; where there is one class the two agree."""
    from keras_cv.layers import NonMaxSuppression

    suppress = NonMaxSuppression("xyxy", False, 0.5, confidence_threshold=0.1, max_detections=4)
    boxes = np.float32([[[0, 0, 8, 8], [0, 0, 8, 7], [30, 0, 38, 8]]])
    scores = np.float32([[[0.9, 0.2], [0.6, 0.7], [0.3, 0.05]]])
    for found, counts in (
        (suppress(boxes, scores[..., :1]), [2]),
        (select_detections(boxes, scores[..., :1], CONFIG), [2]),
        (suppress(boxes, scores), [2]),  # .7 of class 1 is gone
        (select_detections(boxes, scores, CONFIG), [3]),
    ):
        assert np.asarray(found["num_detections"]).tolist() == counts
        np.testing.assert_array_equal(found["boxes"][0, 0], boxes[0, 0])


def test_tensorflows_own_for_classes_does_not_compile_under_xla():
    """The other reason; our own does (below)."""
    suppress = tf.function(
        lambda b, s: tf.image.combined_non_max_suppression(b[:, :, None], s, 4, 4),
        jit_compile=True,
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="CombinedNonMaxSuppression"):
        suppress(tf.zeros((1, 3, 4)), tf.zeros((1, 3, 2)))


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_graph_and_xla_equal_eager(crowd, jit_compile):
    select = tf.function(
        lambda b, s: select_detections(b, s, CROWD_CONFIG), jit_compile=jit_compile
    )
    eager = select_detections(*crowd, CROWD_CONFIG)
    graph = select(*crowd)
    assert set(graph) == {"boxes", "scores", "classes", "num_detections"}
    for name, value in graph.items():
        assert value.dtype == eager[name].dtype
        np.testing.assert_array_equal(value, eager[name])


def test_a_saved_model_takes_any_batch_size(crowd, tmp_path):
    signature = [tf.TensorSpec((None, 400, 4)), tf.TensorSpec((None, 400, 2))]
    module = tf.Module()
    module.select = tf.function(
        lambda b, s: select_detections(b, s, CROWD_CONFIG), input_signature=signature
    )
    tf.saved_model.save(module, tmp_path)
    loaded = tf.saved_model.load(tmp_path)
    eager = select_detections(*crowd, CROWD_CONFIG)
    for count in (1, 3):
        found = loaded.select(crowd[0][:count], crowd[1][:count])
        np.testing.assert_array_equal(found["boxes"], eager["boxes"][:count])
        np.testing.assert_array_equal(found["num_detections"], eager["num_detections"][:count])
