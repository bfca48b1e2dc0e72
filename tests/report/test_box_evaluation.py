"""Anybody's boxes scored: tables, figures and a page from two COCO files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from lesionkeras.errors import DataError, RecipeError
from lesionkeras.report import box_evaluation
from tests.report.test_detection_report import read_page

A, B, NOWHERE = [10, 10, 20, 20], [60, 60, 30, 10], [200, 200, 9, 9]
IMAGES = [
    {"id": i, "height": 300, "width": 300, "patient": f"<p{i // 2}>", "spacing_mm": [5, 1, 0.5]}
    for i in range(4)
]
ANNOTATIONS = [
    {"image_id": 0, "category_id": 1, "bbox": A},
    {"image_id": 0, "category_id": 1, "bbox": B},
    {"image_id": 2, "category_id": 1, "bbox": A},
]
SHIFTED = [18, 10, 20, 20]  # IoU 240 / 560, IoBB .6


def find(image_id: int, bbox: list[int], score: float) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": 1, "bbox": bbox, "score": score}


FOUND = [find(0, A, 0.9), find(0, NOWHERE, 0.6), find(2, SHIFTED, 0.7), find(3, A, 0.2)]


def write(folder: Path, found: Any = FOUND, images: Any = IMAGES) -> tuple[Path, list[Path]]:
    truth, detections = folder / "truth.json", folder / "found.json"
    truth.write_text(json.dumps({"images": images, "annotations": ANNOTATIONS}))
    detections.write_text(json.dumps(found))
    return truth, [detections]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boxes")
    evaluation = box_evaluation.evaluate_boxes(*write(folder), 0.5)
    box_evaluation.write_evaluation(folder / "new" / "out", evaluation)
    return folder / "new" / "out"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_tables_have_a_row_an_image_a_lesion_and_a_point(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == [
        "froc.csv", "images.csv", "lesions.csv", "report.html", "scores.json",
    ]  # fmt: skip
    images = read(written / "images.csv")
    assert [row["lesions"] for row in images] == ["2", "0", "1", "0"]
    assert [row["found, IoU 0.5"] for row in images] == ["1", "0", "0", "0"]
    assert [row["found, IoBB 0.5"] for row in images] == ["1", "0", "1", "0"]
    assert [row["false positives, IoU 0.5"] for row in images] == ["1", "0", "1", "0"]
    lesions = read(written / "lesions.csv")
    assert [row["score, IoU 0.5"] for row in lesions] == ["0.9", "", ""]
    assert [row["score, IoU 0.1"] for row in lesions] == ["0.9", "", "0.7"]
    # 20 x 20 px are 10 x 20 mm, 30 x 10 px are 15 x 10 mm.
    assert [row["size_mm"] for row in lesions] == ["20.0", "15.0", "20.0"]
    assert (lesions[1]["x_px"], lesions[1]["width_px"]) == ("60.0", "30.0")
    froc = read(written / "froc.csv")
    assert len(froc) == 3 * 3 * 8
    row = next(r for r in froc if r["convention"] == "p2" and r["threshold"] == "0.1")
    assert (row["fp_per_image"], row["score_threshold"]) == ("0.125", "0.7")
    assert float(row["value"]) == pytest.approx(2 / 3)


def test_figures_are_json_and_the_page_has_them(written: Path) -> None:
    scores = json.loads((written / "scores.json").read_text())
    assert scores["counts"]["patients"] == 2 and scores["recall"]["value"] == pytest.approx(1 / 3)
    page = read_page(written / "report.html")
    assert len(page.images) == 3
    assert "4 images of 2 patients with 3 lesions" in page.text
    for name in ("IoU 0.5", "IoBB 0.5", "nnDetection", "P2: Faster R-CNN", "mean of 0.5, 1, 2, 4"):
        assert name in page.text
    assert "not found" in page.text and "<p1>" in page.text
    value = scores["froc"]["rows"][1]["sensitivity"][3]["value"]
    assert f"{value:.3f}" in page.text


def test_patients_of_a_table_and_none_at_all(tmp_path: Path) -> None:
    bare = [{"id": image["id"]} for image in IMAGES]
    files = write(tmp_path, images=bare)
    alone = box_evaluation.evaluate_boxes(*files, 0.5)
    assert alone.metrics["counts"]["patients"] == 4
    box_evaluation.write_evaluation(tmp_path / "out", alone)
    assert (
        "whose patient the truth does not name" in read_page(tmp_path / "out" / "report.html").text
    )
    given = box_evaluation.evaluate_boxes(*files, 0.5, lambda case: f"p{int(case) // 2}")
    assert given.patients == ("p0", "p0", "p1", "p1")
    assert given.metrics["counts"]["patients"] == 2


def test_nothing_found_and_no_lesion_still_make_a_page(tmp_path: Path) -> None:
    truth, (found,) = write(tmp_path, found=[])
    silent = box_evaluation.evaluate_boxes(truth, [found], 0.5)
    box_evaluation.write_evaluation(tmp_path / "silent", silent)
    assert "undefined" in read_page(tmp_path / "silent" / "report.html").text
    tree = {"images": IMAGES, "annotations": [], "categories": [{"id": 1}]}
    truth.write_text(json.dumps(tree))
    found.write_text(json.dumps(FOUND))
    healthy = box_evaluation.evaluate_boxes(truth, [found], 0.5)
    box_evaluation.write_evaluation(tmp_path / "healthy", healthy)
    assert read(tmp_path / "healthy" / "lesions.csv") == []
    assert "Sensitivity at 1 FP" in read_page(tmp_path / "healthy" / "report.html").text


def test_several_detectors_are_scored_as_one(tmp_path: Path) -> None:
    """Both find A, the second B alone: half of their scores' sum, and what is found is kept."""
    truth, (first,) = write(tmp_path)
    second = tmp_path / "second.json"
    second.write_text(json.dumps([find(0, A, 0.5), find(0, B, 0.8)]))
    fused = box_evaluation.evaluate_boxes(truth, [first, second], 0.35)
    box_evaluation.write_evaluation(tmp_path / "out", fused)
    lesions = read(tmp_path / "out" / "lesions.csv")
    assert [row["score, IoU 0.5"] for row in lesions] == ["0.7", "0.4", ""]
    assert "Boxes of several detectors were fused" in read_page(tmp_path / "out/report.html").text
    again = box_evaluation.evaluate_boxes(truth, [tmp_path / "out" / "fused.json"], 0.35)
    assert again.metrics == fused.metrics
    box_evaluation.write_evaluation(tmp_path / "out", again)
    assert not (tmp_path / "out" / "fused.json").exists()
    assert not again.fused


def test_scores_that_cannot_be_averaged_are_named(tmp_path: Path) -> None:
    truth, (first,) = write(tmp_path)
    logits = tmp_path / "logits.json"
    logits.write_text(json.dumps([find(0, A, 2.5)]))
    with pytest.raises(DataError, match=r"cannot be averaged in logits\.json: found a score"):
        box_evaluation.evaluate_boxes(truth, [first, logits], 0.5)


def test_the_folder_is_named_by_the_files(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    first = box_evaluation.name_folder(a, [b], 0.5)
    assert first == box_evaluation.name_folder(a, [b], 0.5)
    others = (b, [a], 0.5), (a, [b], 0.4), (a, [b, b], 0.5)
    assert first not in [box_evaluation.name_folder(*other) for other in others]
    assert first.parent.name == "runs" and first.name.startswith("evaluate-boxes-")


def test_mistakes_are_said() -> None:
    with pytest.raises(RecipeError, match="--score cannot be read: found 'high', wanted a number"):
        box_evaluation.parse_score("high")
    with pytest.raises(RecipeError, match="--score cannot be read: found 'nan'"):
        box_evaluation.parse_score("nan")
    with pytest.raises(DataError, match="A file cannot be read"):
        box_evaluation.evaluate_boxes(Path("none.json"), [Path("none.json")], 0.5)
