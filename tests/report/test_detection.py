"""The parts of a detection run that need no training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lesionkeras.config import AnchorConfig, AugmentConfig, DataConfig, SSDConfig, SSDRecipe
from lesionkeras.data.opening import Split, Splits
from lesionkeras.data.splits import PAPER_WARNING
from lesionkeras.errors import RecipeError
from lesionkeras.metrics import ImageDetections, ImageTruth
from lesionkeras.report import detection
from lesionkeras.report.figures import MAX_EXAMPLES
from tests.data.made import HIGH_HU, LOW_HU, make_split, read_numbers

RECIPE = SSDRecipe(
    data=DataConfig(image_size_px=32, window_hu=(LOW_HU, HIGH_HU)),
    augment=AugmentConfig(mode="none"),
)
NO_RECALL: Any = None


def make_run(tmp_path: Path, validation: Split | None, test: Split, warning: str = "") -> Any:
    splits = Splits(make_split(2), validation, test, warning)
    paths = {name: tmp_path / f"{name}.json" for name in ("predictions", "metrics")}
    return detection.DetectionRun(RECIPE, splits, NO_RECALL, SimpleNamespace(**paths))


def find_exactly(truth_score: float) -> Any:
    """A detector that finds every lesion of `make_split` with one score, and one box in the air."""

    def detect(image_unit: np.ndarray) -> dict[str, np.ndarray]:
        count = len(image_unit)
        boxes = np.tile(np.float32([[8, 16, 16, 24], [0, 0, 4, 4]]), (count, 1, 1))
        scores = np.tile(np.float32([truth_score, 0.25]), (count, 1))
        classes = np.zeros((count, 2), np.int32)
        return {
            "boxes": boxes,
            "scores": scores,
            "classes": classes,
            "num_detections": np.full(count, 2, np.int32),
        }

    return detect


@pytest.mark.parametrize("chosen_on", ["validation", "train", "test"])
def test_the_threshold_is_chosen_where_the_report_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen_on: str
) -> None:
    asked = []
    monkeypatch.setattr(detection, "make_detector", lambda model: find_exactly(0.75))
    whole = detection.detect_split

    def detect_split(detect: Any, split: Split, *rest: Any) -> Any:
        asked.append(split)
        return whole(detect, split, *rest)

    monkeypatch.setattr(detection, "detect_split", detect_split)
    test = make_split(6, first=8)
    validation = {"validation": make_split(4, first=4), "train": None, "test": test}[chosen_on]
    warning = PAPER_WARNING if chosen_on == "test" else ""
    run = make_run(tmp_path, validation, test, warning)
    metrics = detection.measure(run, SimpleNamespace(), best_epoch=3)
    chosen_from = validation or detection.choose_train_images(run.splits.train)
    assert asked[0].images is chosen_from.images and asked[1] is test
    np.testing.assert_array_equal(asked[0].rows, chosen_from.rows)
    assert metrics["score_threshold_chosen_on"] == chosen_on
    assert metrics["score_threshold"] == 0.75 and metrics["leak"] == warning
    assert metrics["precision"]["value"] == metrics["recall"]["value"] == 1.0
    assert metrics["counts"]["images"] == 6 and metrics["best_epoch"] == 3
    assert (tmp_path / "predictions.json").is_file() and (tmp_path / "metrics.json").is_file()


def test_examples_are_spread_with_lesions_first_and_boxes_in_their_pixels() -> None:
    split = make_split(30)
    split.images.classes[::2] = -1  # every other image has no lesion
    size = {"image_id": 5, "bbox": [16.0, 32.0, 16.0, 16.0], "score": 0.5}  # source: 128 x 64 px
    examples = detection.choose_examples(split, RECIPE, [size])
    numbers = [read_numbers(example["image_unit"][None])[0] for example in examples]
    assert len(numbers) == MAX_EXAMPLES and all(number % 2 for number in numbers)
    assert numbers == sorted(numbers)
    shown = examples[numbers.index(5)]
    assert shown["title"] == "005.png" and shown["scores"].tolist() == [0.5]
    np.testing.assert_allclose(shown["boxes"], [[4, 16, 8, 24]])
    np.testing.assert_allclose(shown["truth"], [[8, 16, 16, 24]])
    other = examples[0]
    assert other["boxes"].shape == (0, 4) and other["scores"].shape == (0,)


def test_few_lesions_are_filled_up_with_images_without() -> None:
    split = make_split(5)
    split.images.classes[:3] = -1
    examples = detection.choose_examples(split, RECIPE, [])
    assert [example["title"] for example in examples] == [f"{n:03d}.png" for n in range(5)]
    assert [len(example["truth"]) for example in examples] == [0, 0, 0, 1, 1]


def test_anchors_that_miss_are_warned_of_before_training(capsys: pytest.CaptureFixture) -> None:
    coarse = SSDConfig(anchors=AnchorConfig(strides_px=(16,), size_factor=4.0))
    reached = detection.check_anchors(make_split(4), replace(RECIPE, model=coarse))
    out = capsys.readouterr().out
    assert reached.share == 0.0
    assert "Anchors reach 0.0% of 4 training boxes at IoU 0.5\nWarning: " in out
    fitting = SSDConfig(anchors=AnchorConfig(strides_px=(8,), size_factor=1.0))  # the very boxes
    assert detection.check_anchors(make_split(4), replace(RECIPE, model=fitting)).warning == ""
    assert capsys.readouterr().out == "Anchors reach 100.0% of 4 training boxes at IoU 0.5\n"


def test_a_search_wants_validation_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_splits(builder: Any, recipe: SSDRecipe) -> Splits:
        return Splits(make_split(2), *builder)

    monkeypatch.setattr(detection, "open_splits", open_splits)
    test = make_split(2, first=8)
    detection.check_search((make_split(2, first=4), test), RECIPE)
    nothing = replace(RECIPE, data=replace(RECIPE.data, validation_split=""))
    with pytest.raises(RecipeError, match=r"data\.validation_fraction: found 0, wanted a split by"):
        detection.check_search((None, test), nothing)
    paper = replace(RECIPE, data=replace(RECIPE.data, protocol="paper"))
    with pytest.raises(RecipeError, match=r"data\.protocol: found paper.*give --split patient\."):
        detection.check_search((test, test, PAPER_WARNING), paper)
    seen = [{"name": RECIPE.data.name, "protocol": "patient"}]
    monkeypatch.setattr("lesionkeras.models.trained_backbone.find_trained_on", lambda recipe: seen)
    with pytest.raises(RecipeError, match="The weights may have seen who is tested"):
        detection.check_search((test, test), RECIPE)


def test_a_trial_leaves_its_score_and_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {name: tmp_path / name for name in ("model", "best", "last")}
    run = SimpleNamespace(directory=SimpleNamespace(**paths))

    def train(run: Any) -> tuple[None, list[dict[str, float]], int]:
        for path in (tmp_path / "best", tmp_path / "last", tmp_path / "log.csv"):
            path.touch()
        return None, [{"val_map50": 0.25}, {"val_map50": 0.75}, {"val_map50": 0.5}], 2

    monkeypatch.setattr(detection, "open_run", lambda builder, recipe, out, experiment: run)
    monkeypatch.setattr(detection, "train", train)
    scores = detection.train_and_validate(None, RECIPE, tmp_path / "run", "ssd")
    assert scores == {"val_map50": 0.75}
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_the_summary_ends_with_the_scores(capsys: pytest.CaptureFixture) -> None:
    from lesionkeras.metrics import evaluate_detections

    truth = ImageTruth(np.array([[0.0, 0, 10, 10]]))
    silent = ImageDetections(np.zeros((0, 4)), np.zeros(0))
    metrics = evaluate_detections([truth] * 2, [silent] * 2, ["a", "b"], 0.5, num_resamples=10)
    paths = {"path": "runs/a", "report": "runs/a/report.html", "export": "runs/a/export/1"}
    detection.print_summary(SimpleNamespace(directory=SimpleNamespace(**paths)), metrics)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "Run: runs/a",
        "Report: runs/a/report.html",
        "Export: runs/a/export/1",
    ]
    found = "IoU 0.5 0.000 (0.000 to 0.000), IoU 0.1 0.000 (0.000 to 0.000), IoBB 0.5 0.000"
    assert lines[3].startswith(f"Sensitivity at 1 false positive an image: {found}")
    assert lines[4].startswith("Score: mAP50 0.000 [0.000, 0.000], mAP50-95 0.000")
    assert lines[4].endswith(
        "precision undefined, recall 0.000 [0.000, 0.000] on 2 test images of 2 patients"
    )
