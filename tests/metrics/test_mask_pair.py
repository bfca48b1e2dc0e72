import numpy as np
import pytest

from lesionkeras.errors import DataError
from lesionkeras.metrics.mask_pair import find_lesions, pair_masks
from lesionkeras.metrics.overlap import Overlap
from lesionkeras.metrics.surface import NO_SURFACE

SPACING_MM = (4.0, 2.0, 0.5)


def make():
    truth, prediction = np.zeros((2, 6, 7, 8), np.uint8)
    truth[2:4, 1:3, 5] = 1
    truth[3, 2, 5] = prediction[3, 2, 5:7] = 2
    return truth, prediction


def test_cut_to_the_labels_of_both_and_counted_in_the_whole():
    pair = pair_masks(*make(), SPACING_MM)
    assert pair.truth.shape == pair.prediction.shape == (2, 2, 2)
    assert pair.origin_zyx == (2, 1, 5)
    assert pair.voxel_mm3 == 4.0
    assert pair.tumour == Overlap(num_both=1, num_truth=1, num_prediction=2, num_voxels=336)
    assert pair.liver == Overlap(num_both=1, num_truth=4, num_prediction=2, num_voxels=336)


def test_a_cut_changes_no_distance_and_no_lesion():
    rng = np.random.default_rng(4)
    truth, prediction = rng.choice(np.array([0, 1, 2], np.uint8), (2, 6, 5, 4), p=[0.5, 0.3, 0.2])
    wide = [np.pad(mask, ((3, 1), (0, 4), (5, 2))) for mask in (truth, prediction)]
    one, other = pair_masks(truth, prediction, SPACING_MM), pair_masks(*wide, SPACING_MM)
    assert one.liver_surfaces == other.liver_surfaces
    assert one.tumour_surfaces == other.tumour_surfaces
    np.testing.assert_array_equal(find_lesions(one, 1).shared, find_lesions(other, 1).shared)


def test_views_are_scored_as_copies_are():
    truth, prediction = make()
    flipped = [np.flip(np.asfortranarray(mask), 1) for mask in (truth, prediction)]
    one = pair_masks(flipped[0], flipped[1], SPACING_MM)
    other = pair_masks(*(np.ascontiguousarray(mask) for mask in flipped), SPACING_MM)
    assert one.origin_zyx == other.origin_zyx and one.tumour_surfaces == other.tumour_surfaces


def test_empty_masks_have_nothing_to_measure():
    empty = np.zeros((3, 4, 5), np.uint8)
    pair = pair_masks(empty, empty, SPACING_MM)
    assert pair.liver == Overlap(0, 0, 0, 60)
    assert pair.liver_surfaces == pair.tumour_surfaces == NO_SURFACE
    assert find_lesions(pair, 1).shared.shape == (0, 0)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"prediction": np.zeros((2, 2, 3), np.uint8)},
            "Truth and prediction are not of one grid in liver_7: found (2, 2, 2) and (2, 2, 3), "
            "wanted the same three sides, z, y, x.",
        ),
        (
            {"prediction": np.zeros((2, 2, 2), np.int16)},
            "A mask is not of whole labels in liver_7: found uint8 and int16, wanted uint8.",
        ),
        (
            {"prediction": np.full((2, 2, 2), 3, np.uint8)},
            "A mask of the prediction holds a label that has no meaning here in liver_7: found 3, "
            "wanted 0 background, 1 liver, 2 tumour; map its labels to these.",
        ),
        (
            {"spacing_mm": (1.0, 0.0, 1.0)},
            "A spacing is none in liver_7: found (1.0, 0.0, 1.0), wanted three numbers of "
            "millimetres above 0.",
        ),
    ],
)
def test_errors_say_what_and_where(change, text):
    masks = {name: np.ones((2, 2, 2), np.uint8) for name in ("truth", "prediction")}
    arguments = {**masks, "spacing_mm": SPACING_MM, "case": "liver_7", **change}
    with pytest.raises(DataError) as error:
        pair_masks(**arguments)
    assert str(error.value) == text
