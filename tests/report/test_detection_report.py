"""The report: one file that opens offline, with every number and picture in it."""

from __future__ import annotations

import base64
import functools
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from lesionkeras.config import DataConfig, SSDRecipe
from lesionkeras.metrics.evaluation import evaluate_detections
from lesionkeras.metrics.matches import ImageDetections, ImageTruth
from lesionkeras.recipe import override, to_json
from lesionkeras.report.detection_report import write_detection_report
from lesionkeras.report.tables import P1_TABLE_1

VOID = {"meta", "img", "br", "link", "input", "hr"}
FIGURES = [
    "anchor_recall.png",
    "figure5.png",
    "figure6.png",
    "figure7.png",
    "froc.png",
    "p2_figure4.png",
    "precision_recall.png",
    "recall_by_size.png",
]


class Reader(HTMLParser):
    """Reads a page, and fails where a tag is closed that is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, Any]] = []
        self.classes: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.classes.append(found.get("class") or "")
        if tag == "img":
            self.images.append(found)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data + "\n"


def read_page(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


def draw_disc(image: np.ndarray, centre: np.ndarray, radius: float, value: float) -> None:
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    image[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2] += value


def make_results(count: int) -> tuple[list[ImageTruth], list[ImageDetections], list[dict]]:
    rng = np.random.default_rng(4)
    truths, found, examples = [], [], []
    for i in range(count):
        n = int(rng.integers(0, 4))
        centre, radius = rng.uniform(40, 216, size=(n, 2)), rng.uniform(5, 24, size=(n, 1))
        boxes = np.concatenate([centre - radius, centre + radius], axis=1)
        image = rng.normal(0.35, 0.05, size=(256, 256))
        draw_disc(image, np.array([128.0, 128.0]), 110, 0.2)
        for spot, size in zip(centre, radius, strict=True):
            draw_disc(image, spot, float(size[0]), -0.2)
        seen = rng.random(n) < 0.85
        wrong = rng.uniform(0, 200, size=(4, 2))
        guesses = np.concatenate(
            [boxes[seen] + rng.normal(0, 2, size=(seen.sum(), 4)), np.hstack([wrong, wrong + 30])]
        )
        scores = np.concatenate([rng.beta(6, 2, size=seen.sum()), rng.beta(1, 5, size=4)])
        truths.append(ImageTruth(boxes=boxes, diameters_mm=2.2 * radius[:, 0]))
        found.append(ImageDetections(boxes=guesses, scores=scores))
        examples.append(
            {
                "image_unit": np.repeat(np.clip(image, 0, 1)[..., None], 3, axis=-1),
                "truth": np.concatenate([boxes, np.zeros((2, 4))]),  # with padding
                "boxes": guesses,
                "scores": scores,
                "title": f"patient {i // 2} <{i}>",
            }
        )
    return truths, found, examples


def make_log(epochs: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        box, of_class = 0.9 * np.exp(-epoch / 12) + 0.05, 2.1 * np.exp(-epoch / 9) + 0.08
        row = {"epoch": epoch, "loss": box + of_class, "class_loss": of_class, "box_loss": box}
        row |= {"learning_rate": 1e-3, "seconds": 12.5}
        if epoch % 5 == 0:
            row["val_map50"] = 0.86 * (1 - np.exp(-epoch / 15))
            row["val_map50_95"] = 0.52 * (1 - np.exp(-epoch / 20))
        rows.append(row)
    return rows


def make_anchor_recall(share: float = 0.98, warning: str = "") -> SimpleNamespace:
    rows = (("below 10 mm", 41, share - 0.1), ("10 to 20 mm", 118, 0.992), ("20 to 40 mm", 77, 1.0))
    return SimpleNamespace(rows=rows, share=share, warning=warning)


@functools.cache
def make_metrics(count: int) -> tuple[dict[str, Any], list[dict]]:
    truths, found, examples = make_results(count)
    patients = [f"{i // 2}" for i in range(count)]
    metrics = evaluate_detections(truths, found, patients, 0.45, num_resamples=200)
    metrics["splits"] = {"train": {"images": 1234, "patients": 60, "lesions": 236}}
    return metrics | {"best_epoch": 70}, examples


def make_recipe_json(recipe: SSDRecipe) -> dict[str, Any]:
    environment = {"packages": {"keras": "3.15.1", "tensorflow": "2.21.0"}, "git_commit": "abc123"}
    return {"recipe": to_json(recipe), "digest": "00ff00ff00ff00ff", "environment": environment}


def write_example(run_dir: Path, num_examples: int = 2, **changes: Any) -> Path:
    metrics, examples = make_metrics(20)
    inputs: dict[str, Any] = {
        "recipe_json": make_recipe_json(SSDRecipe()),
        "log_rows": make_log(75),
        "metrics": metrics,
        "anchor_recall": make_anchor_recall(),
        "examples": examples[:num_examples],
        "train_examples": examples[-num_examples:] if num_examples else [],
    }
    return write_detection_report(run_dir, **(inputs | changes))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_example(tmp_path_factory.mktemp("run"), num_examples=8)


def test_every_picture_is_inside_with_an_alternative_text(written: Path) -> None:
    images = read_page(written).images
    assert len(images) == len(FIGURES)
    for image in images:
        kind, data = image["src"].split(",", 1)
        assert kind == "data:image/png;base64" and len(image["alt"]) > 30
        pixels = imread(io.BytesIO(base64.b64decode(data)), format="png")
        assert min(pixels.shape[:2]) > 300
        assert pixels[..., :3].std() > 0.02  # not an empty page
    assert sorted(path.name for path in (written.parent / "figures").iterdir()) == FIGURES
    saved = {path.read_bytes() for path in (written.parent / "figures").iterdir()}
    assert saved == {base64.b64decode(image["src"].split(",", 1)[1]) for image in images}


def test_nothing_is_fetched(written: Path) -> None:
    text = re.sub('base64,[^"]*', "", written.read_text(encoding="utf-8"))
    assert len(text) > 5000
    for forbidden in ("//", "<script", "<link", "@import", "url(", "<iframe"):
        assert forbidden not in text, forbidden


def test_scores_and_intervals_stand_on_top(written: Path) -> None:
    metrics, _ = make_metrics(20)
    head = read_page(written).text.split("Beside the paper")[0]
    for name in ("precision", "recall", "map50", "map50_95", "fp_per_image"):
        score = metrics[name]
        assert f"{score['value']:.3f}" in head, name
        assert f"({score['low']:.3f} to {score['high']:.3f})" in head, name
    assert "20 test images of 10 patients" in head
    assert "liver_phantom" in head and "1,234" in head and "by patient" in head


def test_table_1_stands_beside_this_run(written: Path) -> None:
    text = read_page(written).text
    table = text.split("Beside the paper")[1].split("Training")[0]
    for model in P1_TABLE_1:
        assert f"P1: {model.name}" in table
        for value in (model.precision, model.recall, model.map50, model.map50_95):
            assert f"{value:.3f}" in table
    assert "This run" in table and "Table 1" in table
    loss = make_log(75)[-1]["loss"]
    assert f"{loss:.3f}" in table
    assert "15.6 minutes" in text and "weights of epoch 70" in text


def test_recipe_is_held_against_the_paper(written: Path) -> None:
    text = read_page(written).text
    recipe = text.split("\nRecipe\n")[1]
    differing = recipe.split("All ")[0]
    assert "optimizer.name\nadamw\nSGD (P1, 4, Hyper parameters)" in differing
    assert "match.positive_iou" not in differing and "model.head_channels" not in differing
    assert "augment.gamma\n0.8,1.25\n0.5 to 2.0 (P1, 3.2.2)" in differing
    assert "match.negative_iou\n0.35\notherwise negative (P1, 4.2)" in differing
    assert "model.extra_channels\n256\nfour extra layers; 256 7x7 maps (P1, 3.3.1" in differing
    assert "train.epochs\n75\n" in recipe and "\nsame" in recipe
    assert "tensorflow\n2.21.0" in recipe and "abc123" in recipe and "00ff00ff00ff00ff" in recipe


def test_the_papers_recipe_agrees_with_the_paper(tmp_path: Path) -> None:
    from experiments.ssd import PAPER

    recipe = override(PAPER, {"data.protocol": "paper"})
    page = read_page(write_example(tmp_path, recipe_json=make_recipe_json(recipe)))
    assert "All that P1 states of the fields below is used as stated." in page.text
    assert "\ndiffers" not in page.text


def test_the_title_names_data_set_and_config(tmp_path: Path) -> None:
    recipe = SSDRecipe(data=DataConfig(name="deeplesion", config="liver"))
    page = read_page(write_example(tmp_path, recipe_json=make_recipe_json(recipe)))
    assert page.text.count("LesionKeras: resnet34 SSD on deeplesion/liver\n") == 2


def test_no_warning_where_all_is_well(written: Path) -> None:
    assert "warning" not in read_page(written).classes


def test_a_split_that_leaks_is_called_so(tmp_path: Path) -> None:
    recipe = SSDRecipe(data=DataConfig(protocol="paper"))
    page = read_page(write_example(tmp_path, recipe_json=make_recipe_json(recipe)))
    assert page.classes.count("warning") == 1
    assert "This split leaks." in page.text.split("Measured on")[0]
    assert "by patient" not in page.text.split("Beside the paper")[0]


def test_another_leak_is_told_in_its_own_words(tmp_path: Path) -> None:
    metrics, _ = make_metrics(20)
    told = {"leak": "Patient 7 is in two splits.", "score_threshold_chosen_on": "validation"}
    metrics = metrics | told
    page = read_page(write_example(tmp_path, metrics=metrics, examples=[]))
    assert page.classes.count("warning") == 1
    assert "Patient 7 is in two splits." in page.text.split("Measured on")[0]
    assert "greatest F1 on the validation split" in page.text


def test_anchors_that_miss_lesions_are_called_so(tmp_path: Path) -> None:
    recall = make_anchor_recall(share=0.79, warning="Lesions below 10 mm are missed & lost.")
    page = read_page(write_example(tmp_path, anchor_recall=recall))
    assert page.classes.count("warning") == 1
    assert "Only 79.0% of the training boxes" in page.text
    assert "Lesions below 10 mm are missed & lost." in page.text


def test_a_run_of_nothing_still_reports(tmp_path: Path) -> None:
    empty = ImageTruth(boxes=np.zeros((0, 4)))
    silent = ImageDetections(boxes=np.zeros((0, 4)), scores=np.zeros(0))
    metrics = evaluate_detections([empty], [silent], ["a"], 1.0, num_resamples=10)
    path = write_detection_report(tmp_path, {"recipe": to_json(SSDRecipe())}, [], metrics, None, [])
    page = read_page(path)
    assert "undefined" in page.text and len(page.images) == 5


def test_cells_of_a_csv_are_read_as_they_are(tmp_path: Path) -> None:
    log = [{name: str(cell) for name, cell in row.items()} for row in make_log(6)]
    log = [{"val_map50": "", "val_map50_95": ""} | row for row in log]
    page = read_page(write_example(tmp_path, log_rows=log))
    assert f"validation mAP50 {make_log(6)[4]['val_map50']:.3f}" in page.text


def test_report_imports_neither_tensorflow_nor_matplotlib() -> None:
    code = (
        "import sys, lesionkeras.report.detection_report;"
        "print('tensorflow' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
