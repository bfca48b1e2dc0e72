"""Scans of one patient are found, people of one build are not mixed up, copies are told."""

import dataclasses
import logging
from itertools import pairwise

import numpy as np
import pytest

from lesionkeras.ct import same_patient
from lesionkeras.ct.nifti import read_nifti
from lesionkeras.ct.reading import read_volume
from lesionkeras.ct.same_patient import (
    SAME_PATIENT,
    Pair,
    compare_scans,
    describe_scan,
    find_pairs,
    group_scans,
    join_groups,
)
from lesionkeras.ct.volume import Volume, like, to_canonical
from tests.ct.made_up_people import make_scan
from tfds_builders.liver_phantom import phantom

IRCADB = "ircadb01/3Dircadb1.1"


@pytest.fixture(scope="module")
def prints():
    """Four made-up people, two of them scanned again: turned, moved, other voxels, more noise."""
    found = {name: describe_scan(*make_scan(seed)) for seed, name in enumerate("abcd")}
    again = make_scan(0, (5.0, 2.6, 2.6), turn_deg=7.0, shift_mm=(12, -9, 15), noise_hu=25.0)
    found["a2"] = describe_scan(*again)
    found["c2"] = describe_scan(*make_scan(2, (2.5, 2.2, 2.2), turn_deg=-5.0, shift_mm=(-20, 0, 0)))
    return found


@pytest.fixture(scope="module")
def pairs(prints):
    return find_pairs(prints)


def test_scans_of_one_patient_are_found_and_no_others(prints, pairs):
    assert len(pairs) == 15
    assert {pair.names for pair in pairs if pair.is_same} == {("a", "a2"), ("c", "c2")}
    assert pairs[1].similarity > 0.7 > SAME_PATIENT > 0.4 > pairs[2].similarity
    assert all(a.similarity >= b.similarity for a, b in pairwise(pairs))
    assert group_scans(prints, pairs=pairs) == [{"a", "a2"}, {"b"}, {"c", "c2"}, {"d"}]


def test_the_order_of_two_scans_matters_little(prints):
    there, back = (compare_scans(prints[x], prints[y]) for x, y in (("a", "a2"), ("a2", "a")))
    assert there > 0.7
    assert there == pytest.approx(back, abs=0.05)


def test_part_of_a_scan_and_enhanced_liver_are_still_the_patient(prints):
    image, mask = make_scan(1, (5.0, 2.3, 2.3), turn_deg=4.0)
    brighter = image.array + 40 * mask.array.astype(np.int16)
    low = slice(0, 2 * len(brighter) // 3)
    part = [Volume(array[low], image.affine) for array in (brighter, mask.array)]
    assert compare_scans(prints["b"], describe_scan(*part)) > 0.7


def flip_back(image, mask):
    """As a copy that lost its affine, was flipped, clipped, and put right by its builder."""
    arrays = [np.flip(volume.array, (0, 2)) for volume in (image, mask)]
    affine = np.diag([*image.spacing_mm, 1.0])[[2, 1, 0, 3]] * [[-1], [1], [-1], [1]]
    copy = to_canonical(np.clip(arrays[0], -160, 240), affine, "array")
    return copy, to_canonical(arrays[1], affine, "array")


def test_a_copy_is_told_by_its_content_whatever_its_affine():
    image, mask = make_scan(5)
    copy, copied_mask = flip_back(image, mask)
    assert not np.allclose(copy.affine, image.affine)
    wrong = [Volume(v.array[3:-2, ::-1, 4:-4], np.eye(4)) for v in (copy, copied_mask)]
    scans = {"first": (image, mask), "put right": (copy, copied_mask), "wrong": wrong}
    pairs = find_pairs({name: describe_scan(*scan) for name, scan in scans.items()})
    assert all(pair.is_same and pair.similarity == 1.0 for pair in pairs)
    assert min(pair.copied_slices for pair in pairs) >= 15


def test_a_copy_less_exact_is_told_by_its_anatomy():
    image, mask = make_scan(5)
    copy, copied_mask = flip_back(image, mask)
    rounded = like(copy, copy.array // 2 * 2)
    prints = {"first": describe_scan(image, mask), "copy": describe_scan(rounded, copied_mask)}
    (pair,) = find_pairs(prints)
    assert pair.copied_slices == 0
    assert pair.is_same
    assert pair.similarity > 0.95


def test_a_body_that_is_its_own_mirror_image_proves_nothing():
    # Two people alike in all that is the same on both sides: only asymmetry is a person's own.
    prints = {
        name: describe_scan(*make_scan(9, symmetric=True, noise_seed=i))
        for i, name in enumerate("ab")
    }
    (pair,) = find_pairs(prints)
    assert pair.similarity > 0.9
    assert pair.mirrored == pytest.approx(pair.similarity, abs=0.05)
    assert not pair.is_same


@pytest.mark.parametrize(
    ("similarity", "mirrored", "copied", "same"),
    [
        (0.8, 0.4, 0, True),
        (0.54, None, 0, False),
        (0.8, 0.75, 0, False),
        (1.0, None, 3, True),
        (0.3, None, 2, False),
    ],
)
def test_what_makes_a_pair_one_patient(similarity, mirrored, copied, same):
    assert Pair(("a", "b"), similarity, mirrored, copied).is_same is same


def test_a_pair_says_what_was_found():
    assert str(Pair(("0", "1"), 0.816, 0.496, 0)) == (
        "0 and 1: similarity 0.82, with the mirrored scan 0.50"
    )
    assert str(Pair(("0", "1"), 1.0, None, 28)) == "0 and 1: similarity 1.00, 28 equal slices"


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 40, 40), (40, 3, 300), (30, 60, 60)])
@pytest.mark.parametrize("hu", [-1000, 40])
def test_scans_without_anatomy_are_like_nothing(shape, hu, prints):
    image = np.full(shape, hu, np.int16)
    empty = describe_scan(Volume(image, np.eye(4)), Volume(np.zeros_like(image, "u1"), np.eye(4)))
    assert compare_scans(empty, empty) == 0.0
    assert compare_scans(prints["a"], empty) == compare_scans(empty, prints["a"]) == 0.0
    assert group_scans({"x": empty, "y": empty}) == [{"x"}, {"y"}]


def test_known_groups_are_kept_and_join_what_is_found(prints, pairs):
    groups = group_scans(prints, [{"a2", "b"}, ["d", "absent"]], pairs=pairs)
    assert groups == [{"a", "a2", "b"}, {"c", "c2"}, {"d"}]


def test_groups_are_joined_along_chains_and_through_absent_names():
    links = [{"e", "d"}, {"a", "b"}, {"d", "b"}, {"c", "x"}, {"x", "f"}]
    assert join_groups("abcdefg", links) == [{"a", "b", "d", "e"}, {"c", "f"}, {"g"}]
    assert join_groups([], [{"a"}]) == []


def test_progress_is_told_and_no_name_is_logged(prints, caplog):
    caplog.set_level(logging.DEBUG)
    told = []
    some = {f"Doe^Jane {name}": prints[name] for name in ("a", "a2", "b")}
    group_scans(some, progress=lambda done, num_all: told.append((done, num_all)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert "1 of 3 pairs of scans are of one patient" in caplog.text
    assert "Doe" not in caplog.text


def test_few_or_no_scans_are_groups_of_themselves(prints):
    assert group_scans({}) == []
    assert group_scans({"a": prints["a"]}) == [{"a"}]


def test_pairs_that_are_not_alike_are_not_aligned(prints, monkeypatch):
    calls = []
    real = same_patient.align
    monkeypatch.setattr(same_patient, "align", lambda *a: calls.append(1) or real(*a))
    find_pairs({name: prints[name] for name in "abcd"})
    assert not calls
    find_pairs({name: prints[name] for name in ("a", "a2")})
    assert len(calls) == 2  # the scan and its mirror image


def test_giving_up_early_changes_no_finding(prints, pairs):
    for pair in pairs:
        whole = compare_scans(*(prints[name] for name in pair.names))
        assert (whole >= SAME_PATIENT) is pair.is_same
        if pair.is_same:
            assert whole == pair.similarity


@pytest.mark.parametrize("num_slices", [5, 8])
def test_scans_too_small_to_be_given_up_early_are_aligned_at_once(num_slices, monkeypatch):
    found = {}
    for name, turn_deg in (("a", 0.0), ("a2", 5.0)):
        image, mask = make_scan(0, turn_deg=turn_deg)
        part = slice(20, 20 + num_slices)  # 20 and 32 mm: one or two voxels of 16
        cut = [Volume(volume.array[part], image.affine) for volume in (image, mask)]
        found[name] = describe_scan(*cut)
    monkeypatch.setattr(same_patient, "_screen", None)
    (pair,) = find_pairs(found)
    assert pair.similarity == compare_scans(*found.values())


def render_phantom(patient, slice_mm, pixel_mm, noise_hu):
    length_mm = patient.num_slices * patient.spacing_mm[0]
    spacing_mm = (slice_mm, pixel_mm, pixel_mm)
    patient = dataclasses.replace(
        patient, spacing_mm=spacing_mm, num_slices=int(length_mm / slice_mm), noise_hu=noise_hu
    )
    affine = np.diag([*spacing_mm, 1.0])[[2, 1, 0, 3]]
    return describe_scan(*(Volume(array, affine) for array in phantom.render_volume(patient)))


def test_a_phantom_patient_is_found_again_among_others_of_the_same_skeleton():
    # All phantoms have the vertebrae and ribs of one drawing: harder than people, who do not.
    patient, other = phantom.make_patient(3, 0), phantom.make_patient(3, 3)
    assert patient.orientation == other.orientation == "HFS"
    scan = render_phantom(patient, 6.0, 1.4, 12.0)
    assert compare_scans(scan, render_phantom(patient, 5.0, 1.6, 25.0)) > 0.9
    assert compare_scans(scan, render_phantom(other, 6.0, 1.4, 12.0)) < 0.75


@pytest.mark.real
def test_the_shared_scans_are_of_five_patients(real_data):
    prints = {}
    for number in (0, 1, 2, 4, 6, 7):
        image, mask = (
            read_nifti(real_data / "lits" / f"{name}-{number}.nii.gz", kind=kind)
            for name, kind in (("volume", "image"), ("segmentation", "mask"))
        )
        prints[str(number)] = describe_scan(image, mask)
    image = read_volume(real_data / IRCADB / "PATIENT_DICOM.zip")
    prints["ircadb01 1"] = describe_scan(image, like(image, np.zeros(image.array.shape, np.uint8)))
    pairs = find_pairs(prints)
    assert len(pairs) == 21
    assert {pair.names for pair in pairs if pair.is_same} == {("0", "1"), ("6", "7")}
    assert pairs[1].similarity > 0.75
    assert pairs[2].similarity < 0.5  # some after the quick alignment only
    others = [compare_scans(*(prints[name] for name in pair.names)) for pair in pairs[2:]]
    assert max(others) < 0.42
    assert [len(group) for group in group_scans(prints, pairs=pairs)] == [2, 1, 1, 2, 1]
    assert [pair.copied_slices for pair in pairs] == [0] * 21


@pytest.mark.real
def test_the_lits_copy_of_an_ircadb_case_is_that_case(real_data):
    image = read_volume(real_data / IRCADB / "PATIENT_DICOM.zip")
    mask = like(image, (abs(image.array - 110) < 40).astype(np.uint8))
    shown = describe_scan(image, mask)
    copy = describe_scan(*flip_back(image, mask))
    assert len(shown.slices & copy.slices) == len(image.array)
    by_anatomy = [dataclasses.replace(scan, slices=frozenset()) for scan in (shown, copy)]
    assert compare_scans(*by_anatomy) > 0.95
