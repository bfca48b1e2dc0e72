import json
import shutil

import cv2
import numpy as np
import pytest

from lesionkeras.ct.nifti import write_nifti
from lesionkeras.ct.volume import Volume
from lesionkeras.errors import DataError
from tests.tfds_builders.harness import check_prepared, decode, read_boxes_px
from tfds_builders import open_builder
from tfds_builders.deeplesion.make_dummy_data import write_dummy_data
from tfds_builders.folder.export import export_boxes
from tfds_builders.folder.scans import index_scans, parse_labels
from tfds_builders.verify import open_verifier, verify


def collect(builder):
    """Every example by what identifies a slice in any form."""
    return {
        (split, example["patient"], int(example["slice"]), example["png_key"]): example
        for split, examples in check_prepared(builder).items()
        for example in examples
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    write_dummy_data(folder / "raw")
    return open_builder("deeplesion", "all", folder / "prepared", folder / "raw", False)


@pytest.mark.parametrize("form", ["coco", "voc"])
def test_a_data_set_goes_out_and_comes_back(source, tmp_path, form):
    out = tmp_path / "out"
    assert export_boxes(source, form, out) == len(collect(source))
    before = collect(source)
    after = collect(open_builder("folder", "boxes", tmp_path / "prepared", out, False))
    assert before.keys() == after.keys()
    for key, example in before.items():
        other = after[key]
        for name in ("png_previous", "png_next", "has_previous", "has_next"):
            assert example[name] == other[name]
        np.testing.assert_array_equal(example["spacing_mm"], other["spacing_mm"])
        np.testing.assert_array_equal(example["size_px"], other["size_px"])
        np.testing.assert_allclose(read_boxes_px(example), read_boxes_px(other), atol=1e-4)
        assert len(read_boxes_px(example))
    assert not list(out.parent.glob("*.unfinished"))


def test_export_writes_over_nothing(source, tmp_path):
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(DataError, match="There is something already"):
        export_boxes(source, "coco", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.fixture
def coco(tmp_path):
    """Three patients with one image each, no neighbours, one spacing for all, another offset."""
    root = tmp_path / "raw"
    images, annotations = [], []
    for i in range(3):
        folder = root / "images" / f"p{i}"
        folder.mkdir(parents=True)
        stored = np.full((40, 60), 1024 + 50 + i, np.uint16)
        cv2.imwrite(str(folder / "003.png"), stored)
        images.append({"id": i, "file_name": f"p{i}/003.png", "height": 40, "width": 60})
        box = {"id": i, "image_id": i, "category_id": 1, "bbox": [i, 2, 10, 20]}
        annotations.append(box)
    tree = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (root / "annotations.json").write_text(json.dumps(tree))
    settings = {"spacing_mm": [5, 0.7, 0.8], "stored_offset_hu": 1024}
    (root / "dataset.json").write_text(json.dumps(settings))
    return root


def test_own_coco_with_its_own_offset(coco, tmp_path):
    builder = open_builder("folder", "boxes", tmp_path / "prepared", coco, False)
    examples = collect(builder)
    assert {key[0] for key in examples} == {"train", "validation", "test"}
    for example in examples.values():
        i = int(example["patient"][-1:])
        assert example["patient"].decode() == f"images/p{i}" and example["slice"] == 3
        assert (decode(example["png_key"]) == 32768 + 50 + i).all()
        np.testing.assert_allclose(read_boxes_px(example), [[i, 2, i + 10, 22]], atol=1e-5)
        assert example["lesions"]["category"].tolist() == [b"a"]
        assert example["spacing_mm"].tolist() == np.float32([5, 0.7, 0.8]).tolist()


def say(root, tmp_path, config="boxes"):
    with pytest.raises(DataError) as error:
        open_builder("folder", config, tmp_path / "prepared", root, False)
    assert not (tmp_path / "prepared").exists()
    return str(error.value).replace(str(root), "DIR")


def test_boxes_errors(coco, tmp_path):
    assert "found boxes (coco), wanted scans with masks; take folder/boxes" in say(
        coco, tmp_path, "slices"
    )
    (coco / "dataset.json").unlink()
    assert say(coco, tmp_path).startswith(
        "The spacing of an image is not known in annotations.json image 0"
    )
    (coco / "dataset.json").write_text('{"spacing_mm": [5, 1, 1]}')
    image = coco / "images" / "p1" / "003.png"
    cv2.imwrite(str(image), np.zeros((40, 60), np.uint8))
    assert "A PNG cannot hold CT values in DIR/images/p1/003.png" in say(coco, tmp_path)
    cv2.imwrite(str(image), np.zeros((40, 61), np.uint16))
    assert "found 40x61, wanted 40x60, annotations.json image 1" in say(coco, tmp_path)
    image.unlink()
    assert say(coco, tmp_path).startswith("An image is missing in annotations.json image 1")
    (coco / "imagesTr").mkdir()
    assert say(coco, tmp_path).startswith("A folder holds more than one data set")
    assert say(coco / "images", tmp_path).startswith("A folder is no data set")


def test_patient_in_two_splits_is_refused(coco, tmp_path):
    tree = json.loads((coco / "annotations.json").read_text())
    (coco / "annotations").mkdir()
    for split, picked in (("train", tree["images"][:2]), ("test", tree["images"][2:])):
        part = {**tree, "images": [{**image, "patient": "x"} for image in picked]}
        ids = [image["id"] for image in picked]
        part["annotations"] = [a for a in tree["annotations"] if a["image_id"] in ids]
        (coco / "annotations" / f"{split}.json").write_text(json.dumps(part))
    (coco / "annotations.json").unlink()
    assert say(coco, tmp_path).startswith("A patient is in two splits in the annotations: found ")


def check(root, tmp_path, config):
    verifier = open_verifier("folder", config, root)
    findings = verify(verifier, tmp_path, tmp_path / "checked.jsonl", lambda done, total: None)
    return {(f.severity, f.name, f.where): f.text for f in findings}


def test_boxes_are_verified(coco, tmp_path):
    image = coco / "images" / "p1" / "003.png"
    rng = np.random.default_rng(0)
    for i in range(3):
        stored = rng.integers(1024 - 500, 1024 + 500, (40, 60)).astype(np.uint16)
        cv2.imwrite(str(coco / "images" / f"p{i}" / "003.png"), stored)
    assert not [key for key in check(coco, tmp_path, "boxes") if key[0] == "error"]
    shutil.copy(coco / "images" / "p0" / "003.png", image)
    leak = check(coco, tmp_path, "boxes")["error", "duplicate-image", "images/p0/003.png"]
    assert leak.startswith("the same pixels as images/p1/003.png: a leak between ")
    image.write_bytes(image.read_bytes()[:-20])
    cv2.imwrite(str(coco / "images" / "p2" / "003.png"), stored[:30])
    wrong = [key[1:] for key in check(coco, tmp_path, "boxes") if key[0] == "error"]
    assert wrong == [("unusable", "images/p1/003.png"), ("size", "images/p2/003.png")]


def test_scans_are_verified(scans, tmp_path):
    found = check(scans, tmp_path, "slices")
    assert not [key for key in found if key[0] == "error"]
    assert ("corrected", "labels-merged", "c1") in found
    with pytest.raises(DataError, match="found scans with masks, wanted images with boxes"):
        open_verifier("folder", "boxes", scans)


@pytest.fixture
def scans(tmp_path):
    """Three cases of 4 x 24 x 30 voxels; labels 1 tumour, 2 liver, 3 spleen."""
    root = tmp_path / "raw"
    for name in ("imagesTr", "labelsTr"):
        (root / name).mkdir(parents=True)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 5, 0.7, 0.8, 1
    rng = np.random.default_rng(0)
    for i in range(3):
        image = rng.integers(-100, 200, (4, 24, 30)).astype(np.int16)
        mask = np.zeros((4, 24, 30), np.uint8)
        mask[:, 4:20, 4:24], mask[1:3, 8:15, 10:19], mask[:, 21:, 26:] = 2, 1, 3
        write_nifti(root / "imagesTr" / f"c{i}_0000.nii.gz", Volume(image, affine))
        write_nifti(root / "labelsTr" / f"c{i}.nii.gz", Volume(mask, affine))
    labels = {"background": 0, "tumour": 1, "liver": 2, "spleen": 3}
    (root / "dataset.json").write_text(json.dumps({"labels": labels}))
    return root


def test_scans_of_nnunet(scans, tmp_path):
    builder = open_builder("folder", "slices", tmp_path / "prepared", scans, False)
    examples = collect(builder)
    assert len(examples) == 12 and len({key[1] for key in examples}) == 3
    example = next(e for key, e in examples.items() if key[1] == b"c1" and key[2] == 2)
    mask = decode(example["mask_png"])
    assert [(mask == label).sum() for label in range(3)] == [24 * 30 - 320, 320 - 63, 63]
    np.testing.assert_allclose(read_boxes_px(example), [[10, 8, 19, 15]], atol=1e-5)
    assert example["spacing_mm"].tolist() == np.float32([5, 0.7, 0.8]).tolist()
    assert b"labels-merged" in example["corrections"]


def test_scan_errors(scans, tmp_path):
    assert "found scans with masks, wanted images with boxes" in say(scans, tmp_path)
    settings = (scans / "dataset.json").read_text()
    (scans / "dataset.json").write_text('{"labels": {"background": 0, "tumour": 1, "liver": 2}}')
    assert "A mask holds a label that dataset.json does not name" in say(scans, tmp_path, "slices")
    (scans / "dataset.json").write_text(settings)
    affine = np.diag([5, 0.7, 0.9, 1])[[2, 1, 0, 3]]
    other = Volume(np.ones((4, 24, 30), np.uint8), affine)
    write_nifti(scans / "labelsTr" / "c1.nii.gz", other)
    assert "A mask does not lie where its image lies" in say(scans, tmp_path, "slices")
    (scans / "labelsTr" / "c1.nii.gz").unlink()
    assert say(scans, tmp_path, "slices").startswith("A case is not whole in DIR: found no mask")
    (scans / "dataset.json").unlink()
    assert say(scans, tmp_path, "slices").startswith("nnU-Net's dataset.json is missing in DIR")
    shutil.rmtree(scans)
    assert "found no such folder" in say(scans, tmp_path, "slices")


@pytest.mark.parametrize(
    ("labels", "pairs"),
    [
        ({"background": 0, "liver": 1, "cancer": 2}, ((0, 0), (1, 1), (2, 2))),
        ({"0": "background", "1": "liver", "2": "Liver Tumor"}, ((0, 0), (1, 1), (2, 2))),
        ({"background": 0, "lesion": 5}, ((0, 0), (5, 2))),
        ({"background": 0, "liver": [1, 2], "tumour": 2}, ((0, 0), (1, 1), (2, 2))),
        ({"tumour": [2, 4], "liver": [1, 2, 4], "organ": [1, 3]}, ((1, 1), (2, 2), (3, 0), (4, 2))),
        ({"liver": 1, "cancer": 2, "ignore": 3}, ((1, 1), (2, 2))),
    ],
)
def test_labels_of_both_versions(labels, pairs):
    assert parse_labels(labels, "here") == pairs


@pytest.mark.parametrize(
    "labels",
    [
        None,
        {"liver": 1},
        {"lesion": "x"},
        {"lesion": 300},
        {"lesion": []},
        {"lesion": [1, "x"]},
        {"lesion": 1, "liver": 1},
        {"liver": 0, "lesion": 1},
        {"liver with lesions": [1, 2], "lesion": 2},
    ],
)
def test_labels_that_cannot_be_told_are_refused(labels):
    with pytest.raises(DataError, match="label"):
        parse_labels(labels, "here")


def change(root, **values):
    tree = json.loads((root / "dataset.json").read_text()) | values
    (root / "dataset.json").write_text(json.dumps(tree))


def test_other_meanings_are_prepared_and_verified_again(scans, tmp_path):
    def count_lesions():
        builder = open_builder("folder", "slices", tmp_path / "prepared", scans, False)
        return sum(int(example["lesion_px"]) for example in collect(builder).values())

    assert count_lesions() == 3 * 2 * 63
    assert ("corrected", "labels-merged", "c1") in check(scans, tmp_path, "slices")
    change(scans, labels={"background": 0, "liver": 1, "tumour": 2, "spleen": 3})
    assert count_lesions() == 3 * (4 * 320 - 2 * 63)
    change(scans, labels={"background": 0, "liver": 1, "tumour": 2, "ignore": 3})
    assert ("error", "bad-label", "c1") in check(scans, tmp_path, "slices")


def test_what_is_no_ct_or_no_nifti_is_refused(scans, tmp_path):
    for key, value, says in (
        ("channel_names", {"0": "T1w"}, "Images are not CT in dataset.json: found 'T1w'"),
        ("modality", {"0": "MRI"}, "Images are not CT in dataset.json: found 'MRI'"),
        ("file_ending", ".nrrd", "file_ending cannot be read in dataset.json: found '.nrrd'"),
    ):
        tree = (scans / "dataset.json").read_text()
        change(scans, **{key: value})
        assert say(scans, tmp_path, "slices").startswith(says)
        (scans / "dataset.json").write_text(tree)
    change(scans, channel_names={"0": "CT"}, file_ending=".nii.gz", numTraining=3)
    assert index_scans(scans)[1] == ["3 scans; cases that show one person are one patient"]


def test_cases_that_end_as_a_channel_and_masks_alone(scans):
    for i in range(3):
        for folder, end in (("imagesTr", "_0000"), ("labelsTr", "")):
            path = scans / folder / f"c{i}{end}.nii.gz"
            path.rename(scans / folder / f"case_{i:04d}.nii.gz")
    cases, _ = index_scans(scans)
    assert [case.name for case in cases] == ["case_0000", "case_0001", "case_0002"]
    change(scans, numTraining=3)
    (scans / "imagesTr" / "case_0001.nii.gz").unlink()
    assert index_scans(scans)[1][1:] == [
        "1 masks without an image: left out",
        "dataset.json says that there are 3",
    ]


@pytest.mark.parametrize("form", ["coco", "voc"])
def test_names_that_are_alike_as_folders_go_out(coco, tmp_path, form):
    tree = json.loads((coco / "annotations.json").read_text())
    for image, name in zip(tree["images"], ("\u5de6", "\u53f3", "_"), strict=True):
        (coco / "images" / image["file_name"]).rename(coco / "images" / f"{name}.png")
        image["file_name"] = f"{name}.png"
    (coco / "annotations.json").write_text(json.dumps(tree))
    source = open_builder("folder", "boxes", tmp_path / "prepared", coco, False)
    assert export_boxes(source, form, tmp_path / "out") == 3
    back = open_builder("folder", "boxes", tmp_path / "prepared", tmp_path / "out", False)
    images = [{key[3] for key in collect(builder)} for builder in (source, back)]
    assert images[0] == images[1] and len(images[0]) == 3
