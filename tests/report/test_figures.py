"""The pictures show what they are given."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from lesionkeras.report import figures


def count_pixels(png: bytes, color: str) -> int:
    pixels = imread(io.BytesIO(png), format="png")[..., :3]
    return int((np.abs(pixels - np.array(to_rgb(color))).max(axis=-1) < 0.02).sum())


def make_example(box: list[float], score: float) -> dict:
    return {
        "image_unit": np.full((64, 64), 0.5),
        "truth": np.array([[10, 10, 30, 30], [0, 0, 0, 0]]),
        "boxes": np.array([box]),
        "scores": np.array([score]),
        "title": "",
    }


def test_training_shows_map50_in_orange_and_map50_95_in_red() -> None:
    rows = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "val_map50": 0.6}]
    without = figures.draw_training(rows[:1])
    partly = figures.draw_training(rows)
    both = figures.draw_training([*rows, {"epoch": 3, "loss": 0.5, "val_map50_95": "0.4"}])
    assert count_pixels(without, figures.ORANGE) == 0
    assert count_pixels(partly, figures.ORANGE) > 0 == count_pixels(partly, figures.RED)
    assert count_pixels(both, figures.RED) > 0


def test_predictions_below_the_threshold_are_not_drawn() -> None:
    legend_only = count_pixels(figures.draw_examples([], 0.5), figures.PREDICTION)
    below = figures.draw_examples([make_example([35, 35, 60, 60], 0.49)], 0.5)
    above = figures.draw_examples([make_example([35, 35, 60, 60], 0.50)], 0.5)
    assert legend_only > 0
    assert abs(count_pixels(below, figures.PREDICTION) - legend_only) < 40
    assert count_pixels(above, figures.PREDICTION) > legend_only + 200
    assert count_pixels(below, figures.TRUTH) > 300  # truth is always drawn


def test_middle_channel_of_a_stack_is_shown() -> None:
    flat = make_example([35, 35, 60, 60], 0.9)
    stack = np.stack([np.zeros((64, 64)), flat["image_unit"], np.ones((64, 64))], axis=-1)
    assert figures.draw_examples([flat]) == figures.draw_examples([flat | {"image_unit": stack}])


def test_bars_below_95_percent_of_anchors_are_red() -> None:
    class Recall:
        rows = (("below 10 mm", 5, 0.94), ("10 to 20 mm", 7, 0.96))

    one_red = count_pixels(figures.draw_anchor_recall(Recall), figures.RED)
    Recall.rows = (("below 10 mm", 5, 0.95), ("10 to 20 mm", 7, 0.96))
    assert one_red > 5000 and count_pixels(figures.draw_anchor_recall(Recall), figures.RED) == 0


def test_comparison_without_a_defined_score_is_drawn() -> None:
    nothing = {"value": None, "low": None, "high": None}
    some = {"value": 0.5, "low": 0.4, "high": 0.6}
    names = ("precision", "recall", "map50", "map50_95")
    empty = figures.draw_comparison(dict.fromkeys(names, nothing), "x")
    full = figures.draw_comparison(dict.fromkeys(names, some), "x")
    assert count_pixels(full, figures.BLUE) > count_pixels(empty, figures.BLUE) + 10000
    first_of_p1 = count_pixels(empty, figures.PAPER_BLUES[0])
    assert first_of_p1 > 10000 and count_pixels(full, figures.PAPER_BLUES[0]) > 10000


def test_same_input_same_bytes() -> None:
    rows = [{"label": "below 10 mm", "count": 4, "found": 3, "recall": 0.75}]
    assert figures.draw_recall_by_size(rows) == figures.draw_recall_by_size(rows)
    assert count_pixels(figures.draw_recall_by_size(rows), figures.BLUE) > 10000


def test_examples_show_the_body_and_every_box() -> None:
    body = np.zeros((100, 100))
    body[40:60, 30:70] = body[2, 2] = 0.5  # a bright pixel in the air is no body
    none = np.zeros((0, 4))
    assert figures.find_body(body, none) == (28, 28, 72, 72)
    assert figures.find_body(body, np.array([[0.0, 0, 5, 5]])) == (0, 0, 77, 77)
    assert figures.find_body(np.zeros((100, 100)), none) == (0, 0, 100, 100)
    assert figures.find_body(np.ones((50, 100)), none) == (0, 0, 100, 100)
