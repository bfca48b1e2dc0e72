"""The report of detectors other than P1's: their names, P2's figures, no table of P1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lesionkeras.config import BaselineCNNRecipe, RetinaNetRecipe
from lesionkeras.recipe import to_json
from tests.report.test_detection_report import (
    make_log,
    make_metrics,
    make_recipe_json,
    read_page,
    write_example,
)


def write(folder: Path, experiment: str, recipe: Any, **changes: Any) -> Any:
    record = make_recipe_json(recipe) | {"experiment": experiment}
    log = [row | {"val_loss": row["loss"] + 1} for row in make_log(9)]
    page = read_page(write_example(folder, recipe_json=record, log_rows=log, **changes))
    return page, sorted(path.stem for path in (folder / "figures").iterdir())


def test_a_retinanet_is_no_ssd(tmp_path: Path) -> None:
    page, figures = write(tmp_path, "retinanet", RetinaNetRecipe())
    assert "LesionKeras: resnet50 RetinaNet on liver_phantom" in page.text
    assert "Beside the paper" not in page.text and "P1: SSD" not in page.text
    assert "p2_figure6" in figures and "figure7" not in figures
    assert "differs" not in page.text and "model.head_convs" in page.text
    assert "P2: baseline" in page.text and "Sensitivity at 1 FP" not in page.text


@pytest.mark.parametrize(("epochs", "said"), [(150, True), (70, False)])
def test_a_one_box_network_is_held_against_p2(tmp_path: Path, epochs: int, said: bool) -> None:
    recipe = to_json(BaselineCNNRecipe())
    recipe["train"]["epochs"] = epochs
    record = {"recipe": recipe, "experiment": "baseline_cnn"}
    page = read_page(write_example(tmp_path, recipe_json=record, anchor_recall=None, examples=[]))
    assert "LesionKeras: one-box CNN on" in page.text and "\nAnchors\n" not in page.text
    differing = page.text.split("\nRecipe\n")[1].split("All ")[0]
    assert ("150 (P2, 5.1.3)" not in differing) is said
    assert "optimizer.name\nadamw\nAdam (P2, 4.1.1)" in differing


def test_training_images_stand_beside_test_images(tmp_path: Path) -> None:
    metrics, _ = make_metrics(20)
    train = {key: metrics[key] for key in ("counts", "map50", "p2", "froc")}
    further = {"deeplesion/liver": {"recist_plus_5": train}}
    told = metrics | {"train": train, "test_sets": further}
    page, _ = write(tmp_path, "retinanet", RetinaNetRecipe(), metrics=told)
    part = page.text.split("Training and test images")[1].split("\nTraining\n")[0]
    assert "This run\ntrain" in part and "This run\ntest" in part
    assert "0.000 less" in part and "Sensitivity at 1 FP, IoU 0.1" in part
    assert "deeplesion/liver\nrecist plus 5" in part
