"""Training images measured as test images are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from lesionkeras.config import AugmentConfig, DataConfig, SSDRecipe
from lesionkeras.inference.detect import Findings
from lesionkeras.metrics.coco_files import read_results, read_truth
from lesionkeras.report.train_scores import choose_train_images, measure_train
from tests.data.made import HIGH_HU, LOW_HU, make_split

NOTHING: Any = dict.fromkeys(("counts", "map50", "p2", "froc"))
RECIPE = SSDRecipe(
    data=DataConfig(image_size_px=32, window_hu=(LOW_HU, HIGH_HU)),
    augment=AugmentConfig(mode="none"),
)


def detect(image_unit: Any) -> dict[str, np.ndarray]:
    count = len(image_unit)
    return {
        "boxes": np.tile(np.float32([[[8, 16, 16, 24]]]), (count, 1, 1)),
        "scores": np.full((count, 1), 0.75, np.float32),
        "classes": np.zeros((count, 1), np.int32),
        "num_detections": np.ones(count, np.int32),
    }


def test_originals_are_spread_evenly() -> None:
    split = make_split(50, copies=3)
    chosen = choose_train_images(split, 6)
    assert chosen.rows.tolist() == [[0, 0], [10, 0], [20, 0], [29, 0], [39, 0], [49, 0]]
    assert choose_train_images(split).rows.tolist() == [[i, 0] for i in range(50)]
    copies = type(split)(split.images, split.rows[split.rows[:, 1] > 0][:4])
    assert len(choose_train_images(copies).rows) == 4


def test_training_images_get_the_test_images_scores() -> None:
    seen: list[Findings] = []

    def evaluate(found: Findings) -> dict[str, Any]:
        seen.append(found)
        return {"counts": 1, "map50": 2, "p2": 3, "froc": 4, "coco": 5}

    scores, results = measure_train(detect, make_split(7, copies=1), RECIPE, evaluate)
    assert scores == {"counts": 1, "map50": 2, "p2": 3, "froc": 4}
    (found,) = seen
    assert len(found.truths) == 7 and found.sizes_px == ((64, 128),) * 7
    assert len(results) == 7 and results[6]["bbox"] == [32.0, 32.0, 32.0, 16.0]  # of 128 x 64 px


def test_truth_of_a_run_is_read_again(tmp_path: Path) -> None:
    seen: list[Findings] = []
    measure_train(detect, make_split(4), RECIPE, lambda found: seen.append(found) or NOTHING)
    for name, tree in (("truth", seen[0].to_coco_truth()), ("found", seen[0].to_coco())):
        (tmp_path / f"{name}.json").write_text(json.dumps(tree))
    truth = read_truth(tmp_path / "truth.json")
    found = read_results(tmp_path / "found.json", truth)
    assert truth.patients == ("patient 0", "patient 0", "patient 1", "patient 1")
    assert truth.sizes_px is not None and truth.sizes_px.tolist() == [[64, 128]] * 4
    for place, (ours, theirs) in enumerate(zip(seen[0].truths, truth.truths, strict=True)):
        assert theirs.boxes.tolist() == ours.boxes.tolist()
        assert theirs.diameters_mm is not None and ours.diameters_mm is not None
        assert theirs.diameters_mm.tolist() == ours.diameters_mm.tolist()
        assert found[place].boxes.tolist() == seen[0].detections[place].boxes.tolist()
        assert found[place].scores.tolist() == [0.75]
