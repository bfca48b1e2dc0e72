"""COCO's truth and results of anybody, read or refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lesionkeras.errors import DataError
from lesionkeras.metrics.coco_files import read_results, read_truth

IMAGES = [
    {"id": 7, "file_name": "b.png", "height": 80, "width": 120, "patient": "x"},
    {"id": "a", "height": 60, "width": 50, "patient": "y", "spacing_mm": [5, 0.5, 2.0]},
    {"id": 3, "height": 60, "width": 50, "patient": "x"},
]
ANNOTATIONS = [
    {"id": 1, "image_id": "a", "category_id": 4, "bbox": [1, 2, 10, 30], "iscrowd": 1},
    {"id": 2, "image_id": 7, "category_id": 9, "bbox": [5, 6, 7, 8.5], "size_mm": 12.5},
    {"id": 3, "image_id": "a", "category_id": 9, "bbox": [0, 0, 4, 4]},
]
CATEGORIES = [{"id": 9, "name": "lesion"}, {"id": 4, "name": "cyst"}]
TRUTH = {"images": IMAGES, "annotations": ANNOTATIONS, "categories": CATEGORIES}
RESULT = {"image_id": "a", "category_id": 9, "bbox": [1, 2, 3, 4], "score": 0.5}


def write(folder: Path, tree: Any, name: str = "truth.json") -> Path:
    path = folder / name
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return path


def test_truth_keeps_images_classes_crowds_and_sizes(tmp_path: Path) -> None:
    truth = read_truth(write(tmp_path, TRUTH))
    assert truth.image_ids == (7, "a", 3) and truth.patients == ("x", "y", "x")
    assert truth.has_patients and truth.categories == {4: 0, 9: 1}
    assert truth.sizes_px is not None and truth.sizes_px.tolist() == [[80, 120], [60, 50], [60, 50]]
    first, second, third = truth.truths
    assert first.boxes.tolist() == [[5, 6, 12, 14.5]] and first.classes.tolist() == [1]
    assert first.diameters_mm is not None and first.diameters_mm.tolist() == [12.5]
    assert second.boxes.tolist() == [[1, 2, 11, 32], [0, 0, 4, 4]]
    assert second.crowd.tolist() == [True, False] and second.classes.tolist() == [0, 1]
    # y is .5 and x 2 mm a pixel: 10 x 30 px are 20 x 15 mm.
    assert second.diameters_mm is not None and second.diameters_mm.tolist() == [20.0, 8.0]
    assert len(third.boxes) == 0


def test_what_a_truth_need_not_have(tmp_path: Path) -> None:
    bare = {
        "images": [{"id": 1}, {"id": 2, "patient": "p"}],
        "annotations": [{"image_id": 1, "category_id": 5, "bbox": [0, 0, 2, 2]}],
    }
    truth = read_truth(write(tmp_path, bare))
    assert truth.sizes_px is None and truth.categories == {5: 0} and not truth.has_patients
    assert truth.patients == ("image 1", "p")
    assert truth.truths[0].diameters_mm is None


def test_a_truth_without_lesions_takes_whatever_is_found_for_false(tmp_path: Path) -> None:
    truth = read_truth(write(tmp_path, {"images": [{"id": 1}], "annotations": []}))
    entry = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 2, 2], "score": 0.5}
    (found,) = read_results(write(tmp_path, [entry], "found.json"), truth)
    assert found.boxes.tolist() == [[0, 0, 2, 2]] and found.classes.tolist() == [0]


def test_results_come_in_the_order_of_the_truth(tmp_path: Path) -> None:
    truth = read_truth(write(tmp_path, TRUTH))
    rows = [
        RESULT,
        RESULT | {"image_id": 7, "category_id": 4, "score": 1},
        RESULT | {"bbox": [9, 9, 0, 0], "score": 0.75},
    ]
    first, second, third = read_results(write(tmp_path, rows, "found.json"), truth)
    assert (first.scores.tolist(), first.classes.tolist()) == ([1.0], [0])
    assert second.scores.tolist() == [0.5, 0.75] and second.classes.tolist() == [1, 1]
    np.testing.assert_array_equal(second.boxes, [[1, 2, 4, 6], [9, 9, 9, 9]])
    assert len(third.scores) == 0
    silent = read_results(write(tmp_path, [], "none.json"), truth)
    assert [len(found.scores) for found in silent] == [0, 0, 0]


def changed(place: int, **entry: Any) -> dict[str, Any]:
    rows = [dict(row) for row in ANNOTATIONS]
    rows[place] |= entry
    return TRUTH | {"annotations": rows}


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ("{", "A file is not JSON in "),
        ([], "COCO's list 'images' is missing in truth.json: found a list, wanted an object"),
        ({"images": []}, "COCO's list 'annotations' is missing in truth.json: found an object of"),
        ({"images": [], "annotations": []}, "A truth has no image in truth.json"),
        (TRUTH | {"images": IMAGES * 2}, "An id repeats in images of truth.json: found 7."),
        (TRUTH | {"images": [{"id": 1.5}]}, "An id cannot be used in images of truth.json: found"),
        (changed(1, image_id=8), "A box's image_id is not among the truth's in truth.json, annot"),
        (changed(1, category_id=5), "found 5, wanted one of 4, 9; give the truth that these boxes"),
        (changed(1, bbox=[1, 2, 0, 4]), "A bbox cannot be used in truth.json, annotation 1: found"),
        (changed(1, bbox=["1", "2", "3", "4"]), "found ['1', '2', '3', '4'], wanted [x, y, wid"),
        (changed(1, bbox=[True, 2, 3, 4]), "A bbox cannot be used in truth.json, annotation 1"),
        (changed(1, bbox=[1e6, 1e6, 1e-12, 4]), "A bbox cannot be used in truth.json, annotati"),
        (changed(1, bbox="1"), "found '1', wanted [x, y, width, height] in px"),
        (
            changed(1, size_mm=10**400),
            "size_mm cannot be used in truth.json, annotation 1",
        ),
        (changed(1, size_mm=-3), "size_mm cannot be used in truth.json, annotation 1: found -3"),
        (
            TRUTH | {"images": [IMAGES[0] | {"spacing_mm": [1]}, *IMAGES[1:]]},
            "spacing_mm cannot be used in truth.json, image 7: found [1], wanted z, y, x or y, x",
        ),
        (
            TRUTH | {"images": [IMAGES[0] | {"spacing_mm": "11"}, *IMAGES[1:]]},
            "spacing_mm cannot be used in truth.json, image 7: found '11', wanted z, y, x or y",
        ),
        # Half of a character, which no page can be written with.
        (
            TRUTH | {"images": [IMAGES[0] | {"patient": "\ud800"}, *IMAGES[1:]]},
            r"A patient cannot be used in truth.json, image 7: found '\ud800', wanted a text",
        ),
        (
            {"images": [{"id": "\ud800"}], "annotations": []},
            r"An id cannot be used in images of truth.json: found '\ud800', wanted a whole num",
        ),
    ],
)
def test_a_wrong_truth_is_one_sentence(tmp_path: Path, tree: Any, text: str) -> None:
    with pytest.raises(DataError) as error:
        read_truth(write(tmp_path, tree))
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (TRUTH, "A file is not COCO's results in found.json: found an object of images"),
        ([RESULT | {"image_id": 4}], "found 4, wanted one of 7, 'a', 3; give the truth that"),
        ([RESULT | {"image_id": [7]}], "found [7], wanted one of 7, 'a', 3"),
        ([RESULT | {"category_id": True}], "A box's category_id is not among the truth's in found"),
        ([RESULT, RESULT | {"score": "1"}], "A score cannot be used in found.json, entry 1: found"),
        ([RESULT | {"score": float("nan")}], "found nan, wanted a number, higher for surer"),
        ([RESULT | {"score": 10**400}], "A score cannot be used in found.json, entry 0: found 1"),
        ([RESULT | {"bbox": [1, 2, 3]}], "A bbox cannot be used in found.json, entry 0: found [1"),
        ([RESULT | {"bbox": [9, 9, -3, -3]}], "A bbox cannot be used in found.json, entry 0"),
        ([RESULT | {"bbox": [1, 2, 3, 1e300]}], "A bbox cannot be used in found.json, entry 0"),
        ([RESULT | {"bbox": [1, 2, 3, float("nan")]}], "A bbox cannot be used in found.json, ent"),
    ],
)
def test_wrong_results_are_one_sentence(tmp_path: Path, tree: Any, text: str) -> None:
    truth = read_truth(write(tmp_path, TRUTH))
    with pytest.raises(DataError) as error:
        read_results(write(tmp_path, tree, "found.json"), truth)
    assert text in str(error.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"A file cannot be read in .*none\.json: found No such"):
        read_truth(tmp_path / "none.json")


def test_a_category_that_is_a_list_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    entry = {"image_id": 7, "category_id": [1], "bbox": [1, 2, 3, 4]}
    path.write_text(json.dumps({"images": [{"id": 7}], "annotations": [entry]}))
    with pytest.raises(DataError, match=r"category_id is not among the truth's in truth\.json"):
        read_truth(path)


def test_sides_beyond_any_image_are_not_known(tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    image = {"id": 7, "height": 10**30, "width": 4}
    path.write_text(json.dumps({"images": [image], "annotations": []}))
    assert read_truth(path).sizes_px is None
