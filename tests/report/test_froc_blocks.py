"""FROC on a page: figures and tables say what the numbers are."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.image import imread

from lesionkeras.metrics.froc_summary import evaluate_froc
from lesionkeras.metrics.matches import ImageDetections, ImageTruth
from lesionkeras.metrics.p2_protocol import evaluate_p2
from lesionkeras.report.froc_blocks import build_froc, build_p2_table, describe_gap
from lesionkeras.report.froc_figures import draw_froc, draw_losses
from lesionkeras.report.page import Picture, Table
from lesionkeras.report.paper_blocks import compare_data_sets, compare_train_and_test

BLUE, GREEN = np.array([[0x00, 0x72, 0xB2], [0x00, 0x9E, 0x73]]) / 255


def make_froc(scores: tuple[float, ...] = (0.9, 0.4)) -> dict[str, Any]:
    """Two images of one lesion, the first found, and a false box on each."""
    truth = ImageTruth(np.array([[0.0, 0, 9, 9]]), diameters_mm=np.array([14.0]))
    boxes = np.array([[0.0, 0, 9, 9], [50, 50, 60, 60]])
    found = [ImageDetections(boxes, np.array(scores)), ImageDetections(boxes[1:], np.array([0.2]))]
    return evaluate_froc([truth, truth], found, ["a", "b"], num_resamples=20)


def read_pixels(png: bytes) -> np.ndarray:
    return imread(io.BytesIO(png), format="png")[..., :3]


def test_tables_have_every_figure() -> None:
    froc = make_froc()
    picture, main, ways, sizes = build_froc(froc)
    assert isinstance(picture, Picture) and "at 1 an image: IoU 0.5 0.500" in picture.alt
    assert isinstance(main, Table) and isinstance(ways, Table) and isinstance(sizes, Table)
    assert main.header == ["False positives an image", "IoU 0.5", "IoU 0.1", "IoBB 0.5"]
    assert [row[0] for row in main.rows] == [
        "0.125", "0.25", "0.5", "1", "2", "4", "8", "16", "mean of 0.5, 1, 2, 4",
    ]  # fmt: skip
    assert main.rows[0][1] == "0.500 (0.000 to 1.000)"
    assert [tuple(row[:2]) for row in ways.rows] == [
        (name, label)
        for name, sign in (("DeepLesion", ""), ("nnDetection", ""), ("P2", "above "))
        for label in (f"IoU {sign}0.5", f"IoU {sign}0.1", f"IoBB {sign}0.5")
    ]
    assert ways.rows[3][2:] == ["0.500"] * 9 and ways.rows[-1][-1] == ""
    assert [row[:3] for row in sizes.rows] == [
        [label, "10 to 20 mm", "2"] for label in ("IoU 0.5", "IoU 0.1", "IoBB 0.5")
    ]


def test_the_curve_is_where_the_sensitivity_is() -> None:
    """Of equal curves the last, green, lies on top: in the middle at .5, at the bottom at 0."""

    def find_rows(png: bytes) -> np.ndarray:
        pixels = read_pixels(png)[:, : 4 * 110]
        is_green = (np.abs(pixels - GREEN) < 0.02).all(axis=-1).sum(axis=1)
        return np.flatnonzero(is_green > 100)

    found, missed = make_froc(), make_froc()
    for curve in missed["curves"].values():
        curve["sensitivity"] = [0.0] * len(curve["sensitivity"])
    for row in missed["rows"]:
        row["sensitivity"] = [score | {"value": 0.0} for score in row["sensitivity"]]
    upper, lower = find_rows(draw_froc(found)), find_rows(draw_froc(missed))
    assert len(upper) and len(lower) and upper.mean() < lower.mean() - 100


def test_a_curve_of_nothing_is_drawn() -> None:
    empty = ImageTruth(np.zeros((0, 4)))
    silent = ImageDetections(np.zeros((0, 4)), np.zeros(0))
    froc = evaluate_froc([empty], [silent], ["a"], num_resamples=3)
    picture, main, *_ = build_froc(froc)
    assert isinstance(main, Table) and main.rows[3][1] == "undefined"
    assert isinstance(picture, Picture) and read_pixels(picture.png).std() > 0.02


def test_losses_are_drawn_by_part_and_by_split() -> None:
    rows = [
        {"epoch": e, "loss": 3 / e, "rpn_box_loss": 1 / e, "class_loss": 2 / e, "seconds": 1.0}
        for e in range(1, 9)
    ]
    train_only = read_pixels(draw_losses(rows))
    both = read_pixels(draw_losses([row | {"val_loss": 4 / row["epoch"]} for row in rows]))
    assert both.shape[1] > 1.9 * train_only.shape[1]
    assert (np.abs(train_only - BLUE) < 0.02).all(axis=-1).sum() > 200
    assert read_pixels(draw_losses([])).std() > 0.01


def make_scores(sensitivity: float) -> dict[str, Any]:
    truth = ImageTruth(np.array([[0.0, 0, 9, 9]]))
    boxes = np.array([[0.0, 0, 9, 9]])
    hits = round(10 * sensitivity)
    found = [ImageDetections(boxes + 50 * (i >= hits), np.ones(1)) for i in range(10)]
    names = list("abcdefghij")
    froc = evaluate_froc([truth] * 10, found, names, num_resamples=5)
    p2 = evaluate_p2([truth] * 10, found, names, np.full((10, 2), 100), 0.5, num_resamples=5)
    counts = {"images": 10, "patients": 10, "lesions": 10}
    score = {"value": sensitivity, "low": 0.1, "high": 0.9}
    return {"froc": froc, "p2": p2, "counts": counts, "map50": score}


def test_train_stands_beside_test_and_p2s() -> None:
    train, test = make_scores(0.9), make_scores(0.3)
    gap, p2, both = compare_train_and_test(test | {"train": train})
    text = gap.to_html()
    assert "0.900 on training and 0.300 on test images, 0.600 less: like P2" in text
    assert isinstance(p2, Table) and isinstance(both, Table)
    assert [row[:2] for row in p2.rows[-2:]] == [["This run", "train"], ["This run", "test"]]
    assert p2.rows[0] == ["P2: baseline", "train", "", "0.96", "", "", "0.00077"]
    assert p2.rows[-1][3].startswith("0.30 (") and p2.rows[-1][4].startswith("0.70 (")
    # Of ten boxes seven are 50 px off in each of four coordinates of a 100 px image.
    assert p2.rows[-1][6] == "0.17500" and p2.rows[-2][6] == "0.02500"
    assert [row[0] for row in both.rows] == ["train", "test"]
    assert both.rows[0][3].startswith("0.900") and both.rows[1][3].startswith("0.300")
    assert "like P2" not in describe_gap(train["p2"], make_scores(0.8)["p2"]).text
    (alone,) = compare_train_and_test(test)
    assert isinstance(alone, Table) and alone.rows[-1][1] == "test"


def test_a_gap_of_nothing_is_undefined() -> None:
    none = {"sensitivity": {"value": None}}
    assert "undefined" in describe_gap(none, none).text
    scores: dict[str, Any] = {
        key: {"value": None, "low": None} for key in ("sensitivity", "false_share")
    }
    scores["fp_per_image"] = {"value": 1.0, "low": None}
    table = build_p2_table([("This run", "test", None, scores)])
    assert table.rows[-1][3:] == ["undefined", "undefined", "1.00", ""]


def test_other_data_sets_stand_beside_each_other() -> None:
    own, there = make_scores(0.5), make_scores(0.2)
    assert compare_data_sets(own) == []
    more = {"box_conventions": {"tight": own}, "test_sets": {"deeplesion/liver": {"tight": there}}}
    (table,) = compare_data_sets(own | more)
    assert isinstance(table, Table)
    assert [row[:3] for row in table.rows] == [
        ["its own test split", "tight", "10"],
        ["deeplesion/liver", "tight", "10"],
    ]
    assert table.rows[1][4].startswith("0.200")
