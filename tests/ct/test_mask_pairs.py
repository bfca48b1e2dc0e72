import numpy as np
import pytest

from lesionkeras.ct.findings import CtError
from lesionkeras.ct.mask_files import FilePair, MaskFile
from lesionkeras.ct.mask_pairs import find_grid, read_pair
from tests.ct.made_nifti import MASK, make

# Stored axes to L, A and S; .5 x 2 x 5 mm, all different.
AFFINE = np.array([[-0.5, 0, 0, 90.0], [0, 2.0, 0, -70.0], [0, 0, 5.0, -300.0], [0, 0, 0, 1]])
IDENTITY = np.eye(4)


def write(folder, truth, prediction):
    files = []
    for name, data in (("truth", truth), ("prediction", prediction)):
        (folder / f"{name}_7.nii").write_bytes(data)
        files.append(MaskFile(f"{name}_7", folder / f"{name}_7.nii"))
    return FilePair("truth_7", *files)


def flip(array, affine, axis):
    """The same mask in the same place, stored the other way round."""
    turned = affine.copy()
    turned[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
    turned[:3, axis] *= -1
    return np.flip(array, axis), turned


def say(pair, *arguments):
    with pytest.raises(CtError) as error:
        find_grid(pair, *arguments)
    return error.value.name, str(error.value)


def test_both_come_on_the_grid_that_the_truth_stores(tmp_path):
    turned, affine = flip(MASK, AFFINE, 1)
    turned, affine = np.transpose(turned, (2, 0, 1)), affine[:, [2, 0, 1, 3]]
    pair = write(tmp_path, make(MASK, AFFINE), make(turned, affine))
    grid = find_grid(pair)
    truth, prediction = read_pair(pair, grid)
    assert grid.spacing_mm == (5.0, 2.0, 0.5) and grid.note == ""
    np.testing.assert_array_equal(truth, MASK.T)
    np.testing.assert_array_equal(prediction, MASK.T)


def test_masks_apart_are_refused_and_the_way_out_is_named(tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] += 3.0
    pair = write(tmp_path, make(MASK, AFFINE), make(MASK, moved))
    assert say(pair) == (
        "affine-mismatch",
        f"A mask does not lie where its image lies in {pair.prediction.path}: found corners up to "
        "3.00 mm apart, wanted at most 0.01 mm; if the arrays agree voxel by voxel, add "
        "--geometry stored.",
    )
    grid = find_grid(pair, "stored")
    np.testing.assert_array_equal(read_pair(pair, grid)[1], MASK.T)


def test_stored_takes_arrays_as_they_lie_in_the_files(tmp_path):
    # Mirrored in the file alone: checked, it is the same mask; stored, it is its mirror image.
    turned, affine = flip(MASK, AFFINE, 0)
    pair = write(tmp_path, make(MASK, AFFINE), make(turned, affine))
    np.testing.assert_array_equal(read_pair(pair, find_grid(pair))[1], MASK.T)
    stored = read_pair(pair, find_grid(pair, "stored"))[1]
    np.testing.assert_array_equal(stored, MASK.T[:, :, ::-1])


def test_one_place_stored_in_two_ways_is_said(tmp_path):
    turned, affine = flip(MASK, AFFINE, 1)
    note = find_grid(write(tmp_path, make(MASK, AFFINE), make(turned, affine)), "stored").note
    assert note.startswith("The files lie in one place but store their axes as LAS and LPS")


def test_what_is_compared_as_stored_says_where_affines_disagree(tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] += 7
    pair = write(tmp_path, make(MASK, AFFINE), make(MASK, moved))
    assert find_grid(pair, "stored").note == (
        "A mask does not lie where its image lies (corners up to 7.00 mm apart); the arrays were "
        "compared as stored all the same"
    )
    assert find_grid(write(tmp_path, *[make(MASK, AFFINE)] * 2), "stored").note == ""


def test_a_prediction_without_a_place_is_refused_unless_stored(tmp_path):
    pair = write(tmp_path, make(MASK, AFFINE), make(MASK, IDENTITY))
    name, text = say(pair)
    assert name == "identity-affine" and "add --geometry stored" in text
    assert str(pair.prediction.path) in text
    assert find_grid(pair, "stored").spacing_mm == (5.0, 2.0, 0.5)


def test_a_truth_without_a_place_needs_a_spacing(tmp_path):
    pair = write(tmp_path, make(MASK, IDENTITY), make(MASK, IDENTITY))
    for geometry in ("checked", "stored"):
        name, text = say(pair, geometry)
        assert name == "identity-affine"
        assert text.endswith("give the true affine, or add --spacing-mm Z,Y,X.")
        assert say(pair, geometry, lambda case, slices: None)[0] == "identity-affine"
    asked = []

    def find_spacing(case, num_slices):
        asked.append((case, num_slices))
        return 1.6, 0.57, 0.56

    grid = find_grid(pair, "checked", find_spacing)
    assert asked == [("truth_7", MASK.shape[2])]
    assert grid.spacing_mm == (1.6, 0.57, 0.56)
    assert grid.note == (
        "The truth does not say where its voxels lie (identity-affine); 1.6 x 0.57 x 0.56 mm "
        "(z, y, x) were taken instead"
    )
    truth, prediction = read_pair(pair, grid)
    np.testing.assert_array_equal(truth, MASK.T)
    np.testing.assert_array_equal(prediction, MASK.T)


def test_a_placed_prediction_of_a_truth_without_a_place_is_still_checked(tmp_path):
    pair = write(tmp_path, make(MASK, IDENTITY), make(MASK, AFFINE))
    assert say(pair, "checked", lambda case, slices: (5.0, 2.0, 0.5))[0] == "affine-mismatch"


def test_shapes_must_agree(tmp_path):
    pair = write(tmp_path, make(MASK, AFFINE), make(MASK[:, :-1], AFFINE))
    assert say(pair)[0] == "shape-mismatch"
    assert say(pair, "stored") == (
        "shape-mismatch",
        f"A prediction does not have its truth's shape in {pair.prediction.path}: found (7, 5, 5) "
        "voxels as stored, wanted (7, 6, 5); write the prediction on the grid of its truth.",
    )


def test_other_faults_of_a_file_are_named_with_it(tmp_path):
    pair = write(tmp_path, make(MASK, AFFINE), b"no NIfTI at all" * 40)
    name, text = say(pair)
    assert name == "unknown-format" and str(pair.prediction.path) in text
    broken = make(MASK, AFFINE)
    pair = write(tmp_path, make(MASK, AFFINE), broken[:-20])
    with pytest.raises(CtError) as error:
        read_pair(pair, find_grid(pair))
    assert error.value.name == "truncated" and str(pair.prediction.path) in str(error.value)
