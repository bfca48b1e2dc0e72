"""Each of LiTS's known faults: put right with a named correction, or refused."""

import itertools

import numpy as np
import pytest

from lesionkeras.ct.findings import CtError
from tests.tfds_builders.made_scans import (
    SPACING_MM,
    make_abdomen,
    make_affine,
    to_stored,
    write_lits,
    write_nifti,
)
from tfds_builders.lits.layout import list_cases
from tfds_builders.lits.reading import read_case

FLIPS = [axes for n in (1, 2, 3) for axes in itertools.combinations(range(3), n)]
CODES = ["".join(code) for code in itertools.product("LR", "PA", "SI")]


def read(folder):
    (case,) = list_cases(folder).cases
    return read_case(case, "lits_000")


def refuse(folder) -> CtError:
    with pytest.raises(CtError) as error:
        read(folder)
    return error.value


def name_all(scan) -> list[str]:
    return sorted({clause.split(":")[0] for clause in scan.corrections})


def check_truth(scan, truth):
    image, mask = truth
    np.testing.assert_array_equal(scan.image.array, image)
    np.testing.assert_array_equal(scan.mask.array, mask)
    np.testing.assert_array_equal(scan.mask.affine, scan.image.affine)
    assert scan.image.array.dtype == np.int16 and scan.mask.array.dtype == np.uint8


@pytest.mark.parametrize("code", CODES)
def test_a_right_pair_is_left_alone(tmp_path, code):
    truth = write_lits(tmp_path, 4, code=code)
    scan = read(tmp_path)
    check_truth(scan, truth)
    assert scan.corrections == ()
    assert (scan.name, scan.patient, scan.image.source.code) == ("volume-4", "lits_000", code)
    np.testing.assert_allclose(scan.image.spacing_mm, SPACING_MM, rtol=1e-6)
    np.testing.assert_allclose(scan.image.affine[:3, 3], [-150, -120, 7], atol=1e-4)


def test_clipped_to_a_liver_window_is_left_alone(tmp_path):
    image, mask = write_lits(tmp_path, 4)
    write_nifti(tmp_path / "volume-4.nii.gz", to_stored(np.clip(image, -160, 240)), make_affine())
    scan = read(tmp_path)
    check_truth(scan, (np.clip(image, -160, 240), mask))
    assert scan.corrections == ()


class TestIdentityAffine:
    SHAPE = (74, 36, 44)  # 3D-IRCADb-01 case 18 has 74 slices; LiTS calls it 45
    LESIONS = ((30, 36, 14, 18, 10, 14),)

    def write(self, folder, number=45, code="RAS", shape=SHAPE, affine=None, lesions=LESIONS):
        image, mask = make_abdomen(1, shape=shape, lesions=lesions)
        affine = np.eye(4) if affine is None else affine
        write_nifti(folder / f"volume-{number}.nii", to_stored(image, code), affine)
        write_nifti(folder / f"segmentation-{number}.nii", to_stored(mask, code), affine)
        return image, mask

    @pytest.mark.parametrize("code", CODES)
    def test_published_voxels_and_the_anatomy_replace_it(self, tmp_path, code):
        truth = self.write(tmp_path, code=code)
        scan = read(tmp_path)
        check_truth(scan, truth)
        assert scan.image.spacing_mm == (2.5, 0.74, 0.74)
        assert scan.image.source.code == code
        flipped = [] if code == "RAS" else ["mask-flipped"]
        assert name_all(scan) == sorted(["known-affine", "mask-affine-from-image", *flipped])
        assert scan.corrections[0] == (
            "known-affine: 1 x 1 x 1 mm became 2.5 x 0.74 x 0.74 mm (z, y, x), as published for "
            "3D-IRCADb-01 case 18"
        )

    def test_one_mm_with_an_origin_is_as_false(self, tmp_path):
        affine = np.eye(4)
        affine[:3, 3] = 5, -7, 9
        self.write(tmp_path, affine=affine)
        assert read(tmp_path).image.spacing_mm == (2.5, 0.74, 0.74)

    def test_a_true_affine_is_kept(self, tmp_path):
        self.write(tmp_path, affine=np.diag([0.7, 0.7, 2.6, 1.0]))
        scan = read(tmp_path)
        np.testing.assert_allclose(scan.image.spacing_mm, (2.6, 0.7, 0.7), rtol=1e-6)
        assert scan.corrections == ()

    @pytest.mark.parametrize(("number", "num_slices"), [(4, 74), (48, 74), (45, 70), (44, 74)])
    def test_any_other_identity_is_refused(self, tmp_path, number, num_slices):
        self.write(tmp_path, number, shape=(num_slices, 36, 44))
        assert refuse(tmp_path).name == "identity-affine"

    @pytest.mark.parametrize("signs", [(1, 1), (-1, -1)])
    def test_one_mm_of_a_part_is_refused(self, tmp_path, signs):
        affine = np.diag([*signs, 1.0, 1.0])
        affine[:3, 3] = 43, 35, 9
        self.write(tmp_path, shape=(70, 36, 44), affine=affine)
        error = refuse(tmp_path)
        assert error.name == "identity-affine"
        assert str(error).replace(str(tmp_path), "RAW") == (
            "An affine of 1 mm along each axis is false: the volume is a 3D-IRCADb-01 case in "
            "RAW/volume-45.nii: found 70 slices, wanted 74, of which the millimetres are "
            "published; use the original volume, or set its true affine."
        )

    def test_an_anatomy_that_shows_no_direction_is_refused(self, tmp_path):
        image, mask = make_abdomen(1, shape=self.SHAPE, lesions=self.LESIONS)
        image[image < -500] = -90  # no lungs: nothing tells cranial from caudal
        for name, array in (("volume", image), ("segmentation", mask)):
            write_nifti(tmp_path / f"{name}-45.nii", to_stored(array, "RAS"), np.eye(4))
        error = refuse(tmp_path)
        assert error.name == "identity-affine"
        assert str(error).replace(str(tmp_path), "RAW") == (
            "An affine is the identity and the anatomy does not show how the axes lie in "
            "RAW/volume-45.nii: found no clear cranial and caudal; use the original volume, or set "
            "its true affine."
        )


class TestMaskAffine:
    @pytest.mark.parametrize(
        "wrong",
        [
            np.eye(4),
            make_affine() @ np.diag([-1.0, -1.0, 1.0, 1.0]),
            make_affine() + np.array([[0, 0, 0, 12.0], *[[0] * 4] * 3]),
            np.diag([-1.25, 1.5, 1.0, 1.0]),
            np.array([[0, -1.5, 0, 9], [1.25, 0, 0, 9], [0, 0, 1.75, 9], [0, 0, 0, 1]]),
        ],
        ids=["identity", "signs", "shifted", "another spacing", "swapped axes"],
    )
    def test_the_images_replaces_it(self, tmp_path, wrong):
        truth = write_lits(tmp_path, 4)
        write_nifti(tmp_path / "segmentation-4.nii.gz", to_stored(truth[1]), wrong)
        scan = read(tmp_path)
        check_truth(scan, truth)
        assert name_all(scan) == ["mask-affine-from-image"]

    def test_flipped_about_the_middle(self, tmp_path):
        truth = write_lits(tmp_path, 4)
        path = tmp_path / "segmentation-4.nii.gz"
        write_nifti(path, to_stored(truth[1]), make_affine("RPS"))  # claims the same box
        scan = read(tmp_path)
        check_truth(scan, truth)
        assert name_all(scan) == ["mask-flipped"]

    def test_another_orientation_of_the_same_place_is_right(self, tmp_path):
        truth = write_lits(tmp_path, 4)
        path = tmp_path / "segmentation-4.nii.gz"
        write_nifti(path, to_stored(truth[1], "RPI"), make_affine("RPI"))
        scan = read(tmp_path)
        check_truth(scan, truth)
        assert scan.corrections == ()

    def test_only_where_the_mask_lies_on_the_liver(self, tmp_path):
        _, mask = write_lits(tmp_path, 4)
        moved = np.roll(mask, (0, 14, 25), axis=(0, 1, 2))  # fat, bone and air
        write_nifti(tmp_path / "segmentation-4.nii.gz", to_stored(moved), np.eye(4))
        error = refuse(tmp_path)
        assert error.name == "affine-mismatch"
        text = str(error).replace(str(tmp_path), "RAW")
        assert text.startswith(
            "A mask does not lie on a liver, however it is flipped in RAW/segmentation-4.nii.gz: "
        )
        assert text.endswith(
            "wanted 20 to 220 HU and a spread of at most 45; "
            "copy volume and segmentation from their source again."
        )

    def test_another_shape_is_refused(self, tmp_path):
        _, mask = write_lits(tmp_path, 4)
        write_nifti(tmp_path / "segmentation-4.nii.gz", to_stored(mask[1:]), make_affine())
        assert refuse(tmp_path).name == "shape-mismatch"


class TestFlips:
    @pytest.mark.parametrize("axes", FLIPS)
    def test_a_flipped_mask_is_flipped_back(self, tmp_path, axes):
        truth = write_lits(tmp_path, 4)
        path = tmp_path / "segmentation-4.nii.gz"
        write_nifti(path, to_stored(np.flip(truth[1], axes)), make_affine())
        scan = read(tmp_path)
        check_truth(scan, truth)
        assert list(scan.corrections) == [
            f"mask-flipped: the mask between {name}"
            for axis, name in enumerate(
                ["cranial and caudal", "dorsal and ventral", "left and right"]
            )
            if axis in axes
        ]

    @pytest.mark.parametrize("axes", FLIPS)
    def test_a_flipped_image_is_flipped_back(self, tmp_path, axes):
        truth = write_lits(tmp_path, 4)
        path = tmp_path / "volume-4.nii.gz"
        write_nifti(path, to_stored(np.flip(truth[0], axes)), make_affine())
        scan = read(tmp_path)
        check_truth(scan, truth)
        assert len(scan.corrections) == len(axes)
        assert all(c.startswith("mask-flipped: the image") for c in scan.corrections)

    @pytest.mark.parametrize("axes", FLIPS)
    def test_a_flipped_pair_is_flipped_back(self, tmp_path, axes):
        image, mask = truth = write_lits(tmp_path, 4)
        for name, array in (("volume", image), ("segmentation", mask)):
            path = tmp_path / f"{name}-4.nii.gz"
            write_nifti(path, to_stored(np.flip(array, axes)), make_affine())
        scan = read(tmp_path)
        check_truth(scan, truth)
        assert len(scan.corrections) == 2 * len(axes)
        # The code that the file should have had.
        wanted = ["LAS"[i] if 2 - i not in axes else "RPI"[i] for i in range(3)]
        assert list(scan.image.source.code) == wanted

    def test_a_part_below_the_lungs_is_left_alone(self, tmp_path):
        image, mask = make_abdomen()
        image, mask = image[:12], mask[:12]
        image[1:4, 20:26, 40:48] = -900  # the colon, caudal
        for name, array in (("volume", image), ("segmentation", mask)):
            affine = make_affine(shape=image.shape)
            write_nifti(tmp_path / f"{name}-4.nii.gz", to_stored(array), affine)
        scan = read(tmp_path)
        check_truth(scan, (image, mask))
        assert scan.corrections == ()


class TestTypesAndAxes:
    def test_fourth_axis_of_one_is_dropped(self, tmp_path):
        truth = write_lits(tmp_path, 4)
        for name, array in zip(("volume", "segmentation"), truth, strict=True):
            path = tmp_path / f"{name}-4.nii.gz"
            write_nifti(path, to_stored(array)[..., None], make_affine())
        scan = read(tmp_path)
        check_truth(scan, truth)
        assert name_all(scan) == ["squeezed"]

    def test_two_volumes_are_refused(self, tmp_path):
        image, _ = write_lits(tmp_path, 4)
        both = np.stack([to_stored(image)] * 2, axis=-1)
        write_nifti(tmp_path / "volume-4.nii.gz", both, make_affine())
        assert refuse(tmp_path).name == "four-dimensional"

    @pytest.mark.parametrize(
        "dtype", [np.int8, np.int16, np.uint16, np.int32, np.float32, np.float64]
    )
    def test_masks_of_other_types(self, tmp_path, dtype):
        truth = write_lits(tmp_path, 4)
        path = tmp_path / "segmentation-4.nii.gz"
        write_nifti(path, to_stored(truth[1]).astype(dtype), make_affine())
        scan = read(tmp_path)
        check_truth(scan, truth)
        assert name_all(scan) == ["mask-to-uint8"]

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
    def test_images_of_other_types(self, tmp_path, dtype):
        truth = write_lits(tmp_path, 4)
        path = tmp_path / "volume-4.nii.gz"
        write_nifti(path, to_stored(truth[0]).astype(dtype), make_affine())
        check_truth(read(tmp_path), truth)


class TestLabels:
    @pytest.mark.parametrize(("label", "found"), [(3, "1 voxels of 3"), (7, "1 voxels of 7")])
    def test_others_are_refused(self, tmp_path, label, found):
        _, mask = write_lits(tmp_path, 4)
        mask[7, 22, 16] = label
        write_nifti(tmp_path / "segmentation-4.nii.gz", to_stored(mask), make_affine())
        error = refuse(tmp_path)
        assert error.name == "bad-label"
        assert str(error).replace(str(tmp_path), "RAW") == (
            f"A mask holds other labels than LiTS' in RAW/segmentation-4.nii.gz: found {found}, "
            "wanted 0 background, 1 liver, 2 tumour; copy the file from its source again, or map "
            "its labels to these."
        )

    @pytest.mark.parametrize("value", [255, 1.5, -1, np.nan])
    def test_no_labels_at_all_are_refused(self, tmp_path, value):
        _, mask = write_lits(tmp_path, 4)
        mask = mask.astype(np.float32)
        mask[7, 22, 16] = value
        write_nifti(tmp_path / "segmentation-4.nii.gz", to_stored(mask), make_affine())
        assert refuse(tmp_path).name in ("bad-label", "not-finite")

    def test_a_mask_without_liver_is_refused(self, tmp_path):
        _, mask = write_lits(tmp_path, 4)
        write_nifti(tmp_path / "segmentation-4.nii.gz", to_stored(mask * 0), make_affine())
        error = refuse(tmp_path)
        assert error.name == "bad-label" and "A mask holds no liver" in str(error)

    def test_no_lesion_is_no_fault(self, tmp_path):
        truth = write_lits(tmp_path, 4, lesions=())
        scan = read(tmp_path)
        check_truth(scan, truth)
        assert scan.corrections == () and scan.mask.array.max() == 1


@pytest.mark.real
@pytest.mark.parametrize("number", [0, 2, 4, 7])
def test_real_anatomy_shows_every_flip(tmp_path, real_data, number):
    import nibabel

    names = [f"volume-{number}.nii.gz", f"segmentation-{number}.nii.gz"]
    sources = [nibabel.load(real_data / "lits" / name) for name in names]
    arrays = [np.asarray(source.dataobj)[::4, ::4] for source in sources]
    affine = sources[0].affine @ np.diag([4.0, 4.0, 1.0, 1.0])
    wanted = None
    for axes in [(), *FLIPS]:
        for name, array, flips in zip(names, arrays, (axes, ()), strict=True):
            write_nifti(tmp_path / name, np.flip(array, flips).astype(np.int16), affine)
        scan = read(tmp_path)
        if wanted is None:
            wanted = scan.image.array, scan.mask.array
        check_truth(scan, wanted)
        assert name_all(scan) == ["mask-flipped", "mask-to-uint8"][not axes :]


@pytest.mark.real
def test_real_ircadb01_as_lits_volume_28(tmp_path, real_data):
    from tfds_builders.ircadb01.layout import list_cases as list_ircadb01
    from tfds_builders.ircadb01.reading import read_case as read_ircadb01

    (case,) = list_ircadb01(real_data / "ircadb01")
    truth = read_ircadb01(case, "")
    small = truth.image.array[:, ::4, ::4], truth.mask.array[:, ::4, ::4]
    for code in CODES:
        for name, array in zip(("volume", "segmentation"), small, strict=True):
            write_nifti(tmp_path / f"{name}-28.nii", to_stored(array, code), np.eye(4))
        scan = read(tmp_path)
        check_truth(scan, small)
        assert scan.image.spacing_mm == (1.6, 0.57, 0.57)
        assert scan.image.source.code == code
    np.testing.assert_allclose(truth.image.spacing_mm, (1.6, 0.57, 0.57), atol=0.005)
