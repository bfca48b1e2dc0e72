"""What a folder of images says badly: nothing is dropped, divided or kept without a word."""

import json
import struct
import zlib

import cv2
import numpy as np
import pytest

from lesionkeras.errors import DataError
from tests.tfds_builders.harness import check_prepared
from tfds_builders import open_builder
from tfds_builders.folder.layout import index_boxes, list_coco
from tfds_builders.folder.voc import read_image_sets


def write_folder(root, patients, boxes=1):
    """One folder of images 1, 2 ...; image i is of patients[i] and i HU everywhere."""
    (root / "images").mkdir(parents=True)
    images, annotations = [], []
    for i, patient in enumerate(patients, 1):
        cv2.imwrite(str(root / "images" / f"{i:03d}.png"), np.full((8, 9), 32768 + i, np.uint16))
        name = f"{i:03d}.png"
        images.append({"id": i, "file_name": name, "height": 8, "width": 9, "patient": patient})
        box = {"image_id": i, "category_id": 1, "bbox": [1, 2, 3, 4]}
        annotations += [box | {"id": 10 * i + k} for k in range(boxes)]
    tree = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (root / "annotations.json").write_text(json.dumps(tree))
    (root / "dataset.json").write_text('{"spacing_mm": [5, 1, 1]}')
    return root


def test_a_neighbour_of_another_patient_is_left_out(tmp_path):
    raw = index_boxes(write_folder(tmp_path, ["a", "a", "b", "b"]), "coco")
    around = [(image.previous[-7:-4], image.next[-7:-4]) for image in raw.images]
    assert around == [("", "002"), ("001", ""), ("", "004"), ("003", "")]
    assert "2 neighbouring slices are other patients': left out" in raw.notes


def test_a_patient_may_be_a_number_and_nothing_else(tmp_path):
    raw = index_boxes(write_folder(tmp_path / "a", [1000, 1000, 7]), "coco")
    assert [image.patient for image in raw.images] == ["1000", "1000", "7"]
    with pytest.raises(DataError, match=r"A patient cannot be read in annotations\.json image 1"):
        index_boxes(write_folder(tmp_path / "b", ["a", ["b"]]), "coco")


def test_a_box_that_stands_twice_counts_once(tmp_path):
    raw = index_boxes(write_folder(tmp_path, ["a", "b"], boxes=3), "coco")
    assert [len(image.boxes) for image in raw.images] == [1, 1]
    assert "4 boxes stood twice: they count once" in raw.notes


def test_splits_are_told_by_names_of_files(tmp_path):
    (tmp_path / "annotations").mkdir()
    for name in ("instances_val2017", "train", "valid"):
        (tmp_path / "annotations" / f"{name}.json").write_text("{}")
    splits = [split for _, split in list_coco(tmp_path)]
    assert splits == ["validation", "train", "validation"]
    (tmp_path / "annotations" / "holdout.json").write_text("{}")
    with pytest.raises(DataError, match=r"says no split in .*: found holdout\.json, wanted train"):
        list_coco(tmp_path)


def test_lists_of_voc_contradict_each_other(tmp_path):
    main = tmp_path / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (main / "train.txt").write_text("a1\na4\n")
    (main / "test.txt").write_text("a9\n")
    assert read_image_sets(tmp_path, {"a1", "a4"}) == {"a1": "train", "a4": "train", "a9": "test"}
    (main / "test.txt").write_text("a9\na4\n")
    with pytest.raises(
        DataError, match=r"in two splits in test\.txt line 2: found a4 in train and"
    ):
        read_image_sets(tmp_path, {"a1", "a4"})


def test_texts_in_a_png_stay_behind(tmp_path):
    root = write_folder(tmp_path / "raw", ["a", "b", "c"])
    path = root / "images" / "002.png"
    data, text = path.read_bytes(), b"tEXtPatientName\0DOE^JOHN"
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    path.write_bytes(data[:33] + chunk + data[33:])
    builder = open_builder("folder", "boxes", tmp_path / "prepared", root, False)
    pngs = [each["png_key"] for examples in check_prepared(builder).values() for each in examples]
    assert data in pngs
    assert not any(b"DOE" in p.read_bytes() for p in tmp_path.glob("prepared/**/*") if p.is_file())
