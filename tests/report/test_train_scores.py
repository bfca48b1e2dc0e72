"""Training images measured as test images are."""

from __future__ import annotations

from typing import Any

import numpy as np

from lesionkeras.config import AugmentConfig, DataConfig, SSDRecipe
from lesionkeras.report.train_scores import choose_train_images, list_sizes_px, measure_train
from tests.data.made import HIGH_HU, LOW_HU, make_split

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
    assert len(choose_train_images(split).rows) == 50
    copies = type(split)(split.images, split.rows[split.rows[:, 1] > 0][:4])
    assert len(choose_train_images(copies).rows) == 4


def test_training_images_get_the_test_images_scores() -> None:
    scores, found = measure_train(detect, make_split(7), RECIPE, 0.5)
    assert scores["counts"]["images"] == 7 and scores["map50"]["value"] == 1.0
    assert scores["p2"]["sensitivity"]["value"] == 1.0 and scores["p2"]["box_mse"]["value"] == 0.0
    assert scores["froc"]["rows"][0]["sensitivity"][0]["value"] == 1.0
    assert len(found) == 7 and found[6]["bbox"] == [32.0, 32.0, 32.0, 16.0]  # of 128 x 64 px
    assert list_sizes_px(make_split(2)).tolist() == [[64, 128], [64, 128]]
