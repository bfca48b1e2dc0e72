"""The organisers' program: stored figures of it, made with its own functions on random masks."""

import base64
import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest

from lesionkeras.metrics.lits_protocol import PENALTY, WORST, score_lits
from lesionkeras.metrics.mask_pair import pair_masks
from lesionkeras.metrics.volume_summary import summarise

# Of the repository that `lits_protocol` names, under medpy 0.5.2; masks are [z, y, x].
VECTORS = json.loads((Path(__file__).parent / "lits_vectors.json").read_text())
SPACING_MM = (5.0, 0.5, 2.0)


def unpack(vector, name):
    data = zlib.decompress(base64.b64decode(vector[name]))
    return np.frombuffer(data, np.uint8).reshape(vector["shape"])


def check_equal(found, wanted, path=""):
    """Every figure of `wanted`, to 1e-9; null is a program that divided zero by zero."""
    if isinstance(wanted, dict):
        for key in wanted:
            check_equal(found[key], wanted[key], f"{path}/{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), path
        for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
            check_equal(one, other, f"{path}/{place}")
    elif wanted is None:
        assert math.isnan(found), path
    else:
        assert found == pytest.approx(wanted, abs=1e-9), path


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: "x".join(map(str, vector["shape"])))
def test_every_figure_is_the_programs(vector):
    truth, prediction = unpack(vector, "truth"), unpack(vector, "prediction")
    scores = score_lits(pair_masks(truth, prediction, vector["spacing_mm"]))
    check_equal(summarise([scores], ["one"]), vector["scores"])


def test_vectors_hold_what_the_program_does_wrong():
    counts = [vector["scores"]["detection_counts"]["0.5"] for vector in VECTORS]
    assert any(count["TP"] < 0 for count in counts)
    assert any(PENALTY in vector["scores"]["per_object"]["liver"]["assd"] for vector in VECTORS)
    assert any(len(v["scores"]["per_object"]["lesion"]["dice"]) > 100 for v in VECTORS)
    assert any(v["scores"]["dice_per_case"]["lesion"] == [1.0] for v in VECTORS)


def score(truth, prediction):
    return score_lits(pair_masks(truth, prediction, SPACING_MM))


def make(shape=(1, 4, 12)):
    return np.ones(shape, np.uint8)


def test_the_union_is_of_the_wrong_component():
    # Predicted component 1 lies on lesion 2 and is looked up as number 1: nothing is there, so that
    # the "union" is the lesion alone.  4 of its 6 voxels and 16 beside: 4 / 6 instead of 4 / 22.
    truth, prediction = make((1, 6, 14)), make((1, 6, 14))
    truth[0, 0, 0] = truth[0, :3, 8:10] = 2
    prediction[0, :2, 8:10] = prediction[0, :4, 10:14] = 2
    found = score(truth, prediction).detections[1]
    assert (found.num_found, found.num_missed, found.num_false) == (1, 1, 0)


def test_a_refused_hit_on_merged_lesions_takes_away_more_than_it_gave():
    truth, prediction = make(), make()
    truth[0, 0, [0, 3, 6]] = 2
    prediction[0, 0] = prediction[0, 1] = 2
    found = score(truth, prediction).detections[1]
    assert (found.num_found, found.num_missed, found.num_false) == (-2, 5, 3)


def test_no_liver_label_is_the_penalty_although_all_of_it_is_tumour():
    truth = make()
    truth[0, 0, :3] = 2
    scores = score(truth, np.full_like(truth, 2))
    assert scores.liver_dice == 0.0 and scores.liver_objects == (WORST,)
    assert scores.burden_error == pytest.approx(3 / 48 - 9001)
    assert scores.liver.num_both == 0 and scores.liver.num_truth == 48


def test_rvd_has_the_other_sign_and_volume():
    truth, prediction = make(), make()
    truth[0, 0, :3], prediction[0, 0, :4] = 2, 2
    (lesion,) = score(truth, prediction).tumour_objects
    assert lesion.rvd == (3 - 4) / 4
    assert lesion.assd_mm == pytest.approx((0 + 2.0) / 7)


def test_no_liver_in_the_truth_has_no_burden():
    assert math.isnan(score(np.zeros((1, 2, 2), np.uint8), make((1, 2, 2))).burden_error)


def test_lesion_table_shows_what_was_merged():
    truth, prediction = make(), make()
    truth[0, 0, [0, 2]] = truth[0, 3, 11] = 2
    prediction[0, 0, :3], prediction[0, 3, 5] = 2, 2
    rows = score(truth, prediction).lesions
    assert [(row.kind, row.number, row.found, row.found_half) for row in rows] == [
        ("lesion", 1, True, True),
        ("lesion", 2, True, True),
        ("lesion", 3, False, False),
        ("false component", 2, False, False),
    ]
    assert [row.dice for row in rows] == [0.8, 0.8, 0.0, 0.0]
    assert [row.iou for row in rows] == [2 / 3, 2 / 3, 0.0, 0.0]
    assert rows[0].volume_mm3 == 5.0 and rows[0].predicted_mm3 == 15.0
    assert rows[2].centroid_zyx == (0, 3, 11)
