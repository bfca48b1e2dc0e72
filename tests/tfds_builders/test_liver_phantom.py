"""The phantom: reproducible, true to its constants, and not to be solved by a threshold."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from lesionkeras.ct.png16 import to_hu
from tests.tfds_builders import threshold_baseline as baseline
from tests.tfds_builders.harness import check_prepared, decode, read_boxes_px
from tfds_builders import open_builder
from tfds_builders.liver_phantom import lesions as lesion_module
from tfds_builders.liver_phantom import patient as patient_module
from tfds_builders.liver_phantom import phantom
from tfds_builders.liver_phantom.liver_phantom_dataset_builder import (
    FIRST_PATIENT,
    SEED,
    Builder,
    list_patients,
    make_example,
)
from tfds_builders.liver_phantom.patient import compute_liver_hu

NUM_PATIENTS = 24
THRESHOLDS_HU = (16, 20, 24, 28, 32, 36, 40, 45, 50, 60)


@pytest.fixture(scope="module")
def patients():
    """The patients of the default config's test split."""
    return [phantom.make_patient(SEED, idx) for idx in list_patients("test", NUM_PATIENTS)]


@pytest.fixture(scope="module")
def many_patients():
    return [phantom.make_patient(7, number) for number in range(60)]


@pytest.fixture(scope="module")
def slices(patients):
    """Their key slices: patient, z, image, mask."""
    return [
        (patient, z_idx, *phantom.render_slice(patient, z_idx))
        for patient in patients
        for z_idx in phantom.key_slices(patient)
    ]


def make_patient_with(patient, lesion, **changes):
    return dataclasses.replace(patient, lesions=(lesion,), **changes)


def make_lesion(patient, z_mm, radii_mm, contrast_hu=-50.0):
    lobe = patient.anatomy.lobes[0]
    x_mm, y_mm = patient.anatomy.pose.to_scan(*lobe.centre_mm[:2])
    return phantom.Lesion(0, (x_mm, y_mm, z_mm), radii_mm, 0.4, contrast_hu, 0.5)


def test_same_numbers_same_pixels_and_other_numbers_other_pixels():
    first, again, other = (phantom.make_patient(3, number) for number in (5, 5, 6))
    assert first.lesions == again.lesions
    np.testing.assert_array_equal(first.vessels, again.vessels)
    image, mask = phantom.render_slice(first, 20)
    image_again, mask_again = phantom.render_slice(again, 20)
    np.testing.assert_array_equal(image, image_again)
    np.testing.assert_array_equal(mask, mask_again)
    assert phantom.make_patient(4, 5).anatomy != first.anatomy != other.anatomy


def test_volume_is_its_slices():
    thick = phantom.make_patient(SEED, 2000)
    thick = dataclasses.replace(thick, num_slices=5)
    volume, masks = phantom.render_volume(thick)
    size_px = thick.scanner.matrix_px
    assert volume.shape == masks.shape == (5, size_px, size_px)
    assert volume.dtype == np.int16 and masks.dtype == np.uint8
    for z_idx in (0, 4):
        image, mask = phantom.render_slice(thick, z_idx)
        np.testing.assert_array_equal(volume[z_idx], image)
        np.testing.assert_array_equal(masks[z_idx], mask)


@pytest.mark.parametrize("z_idx", [-1, 10_000])
def test_a_slice_beyond_the_scan_is_refused(patients, z_idx):
    with pytest.raises(IndexError, match=str(z_idx)):
        phantom.render_slice(patients[0], z_idx)


def test_box_of_a_turned_ellipsoid_by_hand():
    patient = phantom.make_patient(0, 0)
    quarter = phantom.Lesion(0, (13.0, -26.0, 30.0), (20.0, 10.0, 10.0), np.pi / 2, -40.0, 0.5)
    scanner = dataclasses.replace(patient.scanner, matrix_px=256)
    patient = make_patient_with(
        patient, quarter, scanner=scanner, spacing_mm=(4.0, 1.3, 1.3), orientation="HFS"
    )
    z_idx = 31  # its middle lies at -92 + 31.5 * 4 = 34 mm, 4 mm above the lesion's middle
    scale = (1 - 0.4**2) ** 0.5
    x, y = 13.0 / 1.3 + 128, -26.0 / 1.3 + 128
    half_x, half_y = 10 * scale / 1.3, 20 * scale / 1.3
    expected = [(x - half_x, y - half_y, x + half_x, y + half_y)]
    np.testing.assert_allclose(phantom.boxes_of_slice(patient, z_idx), expected, rtol=1e-9)


def test_a_footprint_below_five_mm_is_not_boxed():
    patient = dataclasses.replace(
        phantom.make_patient(0, 0), spacing_mm=(4.0, 1.3, 1.3), orientation="HFS"
    )
    for radius_mm, count in ((2.49, 0), (2.51, 1)):
        lesion = make_lesion(patient, 34.0, (radius_mm, radius_mm, 8.0))
        assert len(phantom.boxes_of_slice(make_patient_with(patient, lesion), 31)) == count


def test_feet_first_reverses_the_slices():
    patient = phantom.make_patient(0, 0)
    up, down = (
        dataclasses.replace(patient, orientation=name, num_slices=36, spacing_mm=(5.0, 1.3, 1.3))
        for name in ("HFS", "FFS")
    )
    assert up.compute_z_mm(0) == pytest.approx(down.compute_z_mm(35)) == pytest.approx(-89.5)


def test_boxes_bound_the_lesions_of_the_mask(slices):
    compared = 0
    for patient, z_idx, _, mask in slices:
        boxes = phantom.boxes_of_slice(patient, z_idx)
        num, _, stats, _ = cv2.connectedComponentsWithStats((mask == 2).astype(np.uint8))
        for x1, y1, x2, y2 in boxes:
            found = [
                (x, y, x + width, y + height)
                for x, y, width, height, _ in stats[1:num].tolist()
                if x1 <= x + width / 2 <= x2 and y1 <= y + height / 2 <= y2
            ]
            assert len(found) == 1
            np.testing.assert_allclose(found[0], (x1, y1, x2, y2), atol=1.0)
            compared += 1
    assert compared >= 40


def test_key_slices_show_each_lesion_and_slices_without(slices, patients):
    free = [not phantom.boxes_of_slice(patient, z_idx) for patient, z_idx, _, _ in slices]
    assert 0.2 < np.mean(free) < 0.6
    for patient in patients:
        shown = {
            lesion.lesion_id
            for z_idx in phantom.key_slices(patient)
            for lesion in phantom.lesions_of_slice(patient, z_idx)
        }
        large = {lesion.lesion_id for lesion in patient.lesions if min(lesion.radii_mm) > 5.0}
        assert large <= shown
    assert all((mask > 0).sum() > 500 for _, _, _, mask in slices)


def test_key_slices_rarely_graze_a_lesion(slices):
    grazed = sum(
        0.0 < lesion.compute_scale(patient.compute_z_mm(z_idx)) < phantom.GRAZED_SCALE
        for patient, z_idx, _, _ in slices
        for lesion in patient.lesions
    )
    assert grazed / len(slices) < 0.08


def test_lesions_keep_to_their_constants(many_patients):
    patients = many_patients
    lesions = [lesion for patient in patients for lesion in patient.lesions]
    radii = np.array([lesion.radii_mm for lesion in lesions])
    contrasts = np.array([lesion.contrast_hu for lesion in lesions])
    assert radii.min() >= 4.0 and radii.max() <= 25.0
    assert radii.min() < 7.0 and radii.max() > 20.0
    dark, bright = -contrasts[contrasts < 0], contrasts[contrasts > 0]
    assert dark.min() >= 25 and dark.max() <= 70 and bright.min() >= 30 and bright.max() <= 60
    assert len(bright) > 0.15 * len(lesions)
    counts = [len(patient.lesions) for patient in patients]
    assert 0.08 < counts.count(0) / len(counts) < 0.3 and max(counts) == 5
    for patient in patients:
        for number, first in enumerate(patient.lesions):
            for second in patient.lesions[:number]:
                apart = np.linalg.norm(np.subtract(first.centre_mm, second.centre_mm))
                assert apart > max(first.radii_mm) + max(second.radii_mm)


def test_scanners_patients_and_phases_differ(many_patients):
    patients = many_patients
    assert {patient.scanner.matrix_px for patient in patients} == {256, 320}
    assert {patient.orientation for patient in patients} == {"HFS", "HFP", "FFS"}
    assert {patient.phase.name for patient in patients} == {
        phase.name for phase in patient_module.PHASES
    }
    spacings = np.array([patient.spacing_mm for patient in patients])
    assert spacings[:, 0].min() == 2.5 and spacings[:, 0].max() == 5.0
    assert 1.1 <= spacings[:, 1:].min() < 1.2 and 1.4 < spacings[:, 1:].max() <= 1.6
    noise = [patient.noise_hu for patient in patients]
    assert 10 <= min(noise) < 12 and 16 < max(noise) <= 18


def test_liver_has_the_hu_of_its_kind(slices):
    for patient, _, image, mask in slices:
        spread = 3 * lesion_module.WEDGE_HU[1] / 2
        assert abs(np.median(image[mask == 1]) - patient.liver_hu) < spread
    means = [np.median(image[mask == 1]) for _, _, image, mask in slices]
    assert 90 < np.median(means) < 120
    assert all(90 <= patient.liver_hu <= 120 for patient, _, _, _ in slices)
    assert all((image.min() >= -1024) and (image.max() <= 3071) for _, _, image, _ in slices)


def test_lesion_has_its_contrast_in_the_middle(patients):
    for contrast_hu in (-60.0, 45.0):
        patient = patients[0]
        lesion = make_lesion(patient, patient.compute_z_mm(30), (14.0, 14.0, 20.0), contrast_hu)
        patient = make_patient_with(patient, lesion, noise_hu=0.0)
        image, mask = phantom.render_slice(patient, 30)
        x1, y1, x2, y2 = phantom.boxes_of_slice(patient, 30)[0]
        row, column = int((y1 + y2) / 2), int((x1 + x2) / 2)
        around = compute_liver_hu(
            patient, lesion.centre_mm[0], lesion.centre_mm[1], lesion.centre_mm[2]
        )
        assert mask[row, column] == 2
        assert image[row, column] - around == pytest.approx(contrast_hu, abs=3.0)


def test_a_lesion_that_enters_a_slice_a_little_shows_a_little(patients):
    patient = patients[0]
    z_mm, thickness_mm = patient.compute_z_mm(30), patient.spacing_mm[0]
    lesion = make_lesion(patient, z_mm + 12.0 + 0.1 * thickness_mm, (12.0, 12.0, 12.0))
    patient = make_patient_with(patient, lesion, noise_hu=0.0)
    with_lesion, _ = phantom.render_slice(patient, 30)
    without, _ = phantom.render_slice(dataclasses.replace(patient, lesions=()), 30)
    deepest = int((with_lesion.astype(int) - without).min())
    assert phantom.boxes_of_slice(patient, 30) == []
    assert -0.6 * 50 < deepest < -0.05 * 50


def test_noise_has_its_deviation_and_is_correlated(patients):
    for patient in patients[:4]:
        noisy, mask = phantom.render_slice(patient, 30)
        clean, _ = phantom.render_slice(dataclasses.replace(patient, noise_hu=0.0), 30)
        noise = (noisy.astype(float) - clean)[60:-60, 60:-60]
        assert noise.std() == pytest.approx(patient.noise_hu, rel=0.06)
        assert np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1] > 0.2
        assert (mask > 0).any()


@pytest.fixture(scope="module")
def liver_slices(slices):
    """What the threshold sees: smoothed deviation from the patient's median, in the true liver."""
    by_patient: dict[int, list] = {}
    for patient, z_idx, image, mask in slices:
        by_patient.setdefault(patient.patient_idx, []).append((patient, z_idx, image, mask))
    images = []
    for group in by_patient.values():
        median_hu = np.median(np.concatenate([image[mask > 0] for _, _, image, mask in group]))
        for patient, z_idx, image, mask in group:
            pixel_mm = patient.spacing_mm[2]
            smooth = baseline.smooth_in_liver(image, mask > 0, pixel_mm)
            boxes = phantom.boxes_of_slice(patient, z_idx)
            images.append(baseline.LiverSlice(smooth - median_hu, mask > 0, pixel_mm, boxes))
    return images


def test_a_threshold_on_smoothed_hu_finds_fewer_than_half_of_the_lesions(liver_slices):
    assert len(liver_slices) >= 60 and sum(len(image.boxes) for image in liver_slices) >= 40
    strict, lenient, unlimited = {}, {}, {}
    for threshold_hu in THRESHOLDS_HU:
        found = [baseline.find_components(image, threshold_hu) for image in liver_slices]
        for name, ranking in baseline.RANKINGS.items():
            strict[threshold_hu, name] = baseline.compute_recall(
                liver_slices, found, ranking, baseline.is_overlapping, 1.0
            )
        mean = baseline.RANKINGS["mean"]
        lenient[threshold_hu] = baseline.compute_recall(
            liver_slices, found, mean, baseline.is_centre_inside, 1.0
        )
        unlimited[threshold_hu] = baseline.compute_recall(
            liver_slices, found, mean, baseline.is_overlapping, np.inf
        )
    best = max(strict, key=strict.__getitem__)
    assert strict[best] < 0.5, best
    assert max(lenient.values()) < 0.5
    assert max(unlimited.values()) > 0.5  # the baseline does work: false positives are its trouble


def test_builder_writes_what_is_rendered(tmp_path):
    builder = open_builder("liver_phantom", "tiny", tmp_path, None, False)
    splits = check_prepared(builder)
    patients = {split: {e["patient"].decode() for e in it} for split, it in splits.items()}
    assert {split: len(seen) for split, seen in patients.items()} == {
        "train": 6,
        "validation": 3,
        "test": 3,
    }
    assert len(splits["train"]) >= 12
    example = max(splits["train"], key=lambda example: len(example["lesions"]["label"]))
    patient = phantom.make_patient(SEED, int(example["patient"].decode().removeprefix("phantom-")))
    z_idx = int(example["slice"])
    assert example["file"].decode() == f"{patient.patient_id}/{z_idx:03d}.png"
    for name, shift in (("png_previous", -1), ("png_key", 0), ("png_next", 1)):
        image, _ = phantom.render_slice(patient, z_idx + shift)
        np.testing.assert_array_equal(to_hu(decode(example[name])), image)
    np.testing.assert_array_equal(
        decode(example["mask_png"]), phantom.render_slice(patient, z_idx)[1]
    )
    np.testing.assert_allclose(
        read_boxes_px(example), phantom.boxes_of_slice(patient, z_idx), atol=1e-3
    )
    np.testing.assert_allclose(example["spacing_mm"], patient.spacing_mm)
    assert example["phase"].decode() == patient.phase.name


def test_the_ends_of_a_scan_miss_a_neighbour(patients):
    last = patients[0].num_slices - 1
    bottom, top = make_example(patients[0], 0), make_example(patients[0], last)
    assert (bottom["has_previous"], bottom["has_next"]) == (False, True)
    assert (top["has_previous"], top["has_next"]) == (True, False)
    assert bottom["png_previous"] == top["png_next"] == b""


def test_no_patient_is_in_two_splits_of_any_config():
    for config in Builder.BUILDER_CONFIGS:
        numbers = [
            list_patients(*pair) for pair in zip(FIRST_PATIENT, config.num_patients, strict=True)
        ]
        assert len(set().union(*numbers)) == sum(config.num_patients)
    default, tiny = Builder.BUILDER_CONFIGS
    assert not set(list_patients("test", default.num_patients[2])) & set(
        list_patients("train", tiny.num_patients[0])
    )
