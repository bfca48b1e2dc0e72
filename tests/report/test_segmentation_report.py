"""The page of a segmentation run: what it shows, what it does not pretend."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from lesionkeras.config import (
    OptimizerConfig,
    PostprocessConfig,
    SegmentationDataConfig,
    SegmentationLossConfig,
    SegmentationTrainConfig,
    UNetConfig,
    UNetRecipe,
)
from lesionkeras.recipe import to_json
from lesionkeras.report.fields_in_use import is_in_use
from lesionkeras.report.segmentation_report import write_segmentation_report
from tests.report.made_segmentation import make_examples, make_log, make_metrics, make_protocol
from tests.report.test_detection_report import read_page

P5 = UNetRecipe(
    data=SegmentationDataConfig(image_size_px=128, held_out_fraction=0.2, protocol="p5"),
    model=UNetConfig(head="binary"),
    loss=SegmentationLossConfig(dice_weight=0.0, cross_entropy_weight=0.0, tversky_weight=1.0),
    optimizer=OptimizerConfig(name="adam", learning_rate=1e-4, schedule="plateau"),
    train=SegmentationTrainConfig(epochs=20, batch_size=16, cpu_budget_s=0.0),
    postprocess=PostprocessConfig(closing_mm=2.0),
)


def make_record(recipe: UNetRecipe | None = None) -> dict[str, Any]:
    environment = {"packages": {"keras": "3.15.1"}, "git_commit": "abc123"}
    environment["data_fingerprint"] = "lits-00ff"
    values = to_json(recipe or UNetRecipe())
    return {"experiment": "unet", "recipe": values, "digest": "0f0f", "environment": environment}


def write_example(run_dir: Path, **changes: Any) -> Path:
    inputs: dict[str, Any] = {
        "record": make_record(),
        "log_rows": [],
        "metrics": make_metrics(),
        "examples": [],
    }
    return write_segmentation_report(run_dir, **(inputs | changes))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("run")
    return write_example(run_dir, log_rows=make_log(30), examples=make_examples(64))


def read_section(path: Path, title: str) -> str:
    """The text of a section, up to the next heading."""
    html = path.read_text(encoding="utf-8")
    begin = html.index(f"<h2>{title}</h2>")
    end = html.find("<h2>", begin + 4)
    return re.sub("<[^>]+>", "|", html[begin : end if end > 0 else None])


def read_row(section: str, *cells: str) -> None:
    assert re.search(r"\|+".join(["", *map(re.escape, cells), ""]), section), (cells, section)


def test_every_picture_is_inside_with_an_alternative_text(written: Path) -> None:
    images = read_page(written).images
    assert len(images) == 3
    for image in images:
        kind, data = image["src"].split(",", 1)
        assert kind == "data:image/png;base64" and len(image["alt"]) > 30
        pixels = imread(io.BytesIO(base64.b64decode(data)), format="png")
        assert min(pixels.shape[:2]) > 300 and pixels[..., :3].std() > 0.02
    names = sorted(path.name for path in (written.parent / "figures").iterdir())
    assert names == ["contours.png", "curves.png", "lesion_sizes.png"]
    text = re.sub('base64,[^"]*', "", written.read_text(encoding="utf-8"))
    for forbidden in ("//", "<script", "<link", "@import", "url(", "<iframe"):
        assert forbidden not in text, forbidden


def test_scores_and_intervals_stand_on_top(written: Path) -> None:
    head = read_page(written).text.split("Best, median and worst case")[0]
    assert "3 held-out scans of 2 patients with 16 lesions" in head
    assert "Tumour Dice, mean of cases\n0.668\n(0.637 to 0.699)" in head
    assert "Tumour Dice, all voxels\n0.701\n(0.651 to 0.751)" in head
    assert "Lesion recall, any overlap\n0.750\n(0.650 to 0.850)" in head
    assert "False tumours a scan\n3.0\n9 on 3 scans" in head
    assert "1 scan without a lesion: the tumour Dice is undefined there and in no mean" in head


def test_best_median_and_worst_stand_in_this_order(written: Path) -> None:
    alt = read_page(written).images[0]["alt"]
    assert re.search("Best: case 7.*Median: case 1.*Worst: case 0", alt)


def test_undefined_is_never_zero(written: Path) -> None:
    cases = read_section(written, "Cases")
    read_row(cases, "8", "G", "0 of 0", "3", "undefined", "0.961", "undefined", "undefined")
    read_row(cases, "-0.012", "1.23")  # marked in the scan without a lesion, ml
    read_row(cases, "all", "12 of 16", "9", "0.668", "0.961", "2.345")
    read_row(cases, "Tumour Dice", "0.723", "0.612", "undefined", "0.668 (0.637 to 0.699)", "2")
    read_row(cases, "Tumour sensitivity", "0.773", "0.662", "undefined", "0.718 (0.687 to 0.749)")


def test_papers_stand_beside_slices_and_scans(written: Path) -> None:
    table = read_section(written, "Beside the papers")
    read_row(table, "P4: SegNet", "not said", "0.890", "0.980", "0.970")
    read_row(table, "P4: U-Net", "not said", "0.760", "0.960", "0.940")
    read_row(table, "P5: U-Net", "not said", "0.930", "0.920", "0.972")
    read_row(table, "P5: ResNet50-UNet", "not said", "0.940", "0.940", "0.972")
    read_row(table, "tumour", "0.812 (0.792 to 0.832)", "0.791", "0.993", "undefined")
    read_row(table, "This run, by scan, 3-D: mean of cases", "tumour", "0.668 (0.637 to 0.699)")
    assert "a slice empty in both scores 1" in table


def test_protocols_are_compared_figure_by_figure(written: Path, tmp_path: Path) -> None:
    table = read_section(written, "Where the two protocols differ")
    read_row(table, "Tumour Dice, mean of cases", "0.668", "0.778")
    read_row(table, "Lesion precision, any overlap, all cases together", "0.571", "0.461")
    read_row(table, "Tumour Dice, case 6", "0.723", "0.833")
    assert "Liver" not in table and "its RVD divides by the predicted volume" in table
    assert "takes the Dice of arrays" not in table  # it does, and that changes nothing
    assert "|51 further figures are the same under both.|" in table
    metrics = make_metrics()
    metrics["protocol"]["lits"] = make_protocol((0.7234, 0.6123, 0.5))
    metrics["protocol"]["lits"]["per_case"][0]["lesions"] = 5
    table = read_section(write_example(tmp_path, metrics=metrics), "Where the two protocols differ")
    read_row(table, "Tumour Dice, case 8", "undefined", "0.500")
    read_row(table, "Lesions, case 6", "8", "5")
    metrics["protocol"]["lits"] = metrics["protocol"]["corrected"]
    table = read_section(write_example(tmp_path, metrics=metrics), "Where the two protocols differ")
    assert "Nowhere in this run" in table and "Corrected" not in table


def test_steps_and_splits_stand_side_by_side(written: Path) -> None:
    steps = read_section(written, "Post-processing")
    read_row(steps, "none", "0.550 (0.510 to 0.590)", "0.951", "12 of 16", "41")
    read_row(steps, "+ tumour inside liver (used)", "0.660 (0.620 to 0.700)", "0.963")
    leaks = read_section(written, "What a leaking split would say")
    cells = ("1178 slices of 4 scans", "0.801 (0.791 to 0.811)", "0.811 (0.811 to 0.811)")
    read_row(leaks, "the tested slices alone", "15 slices of 6", *cells)
    cells = ("978 slices of 4 scans", "0.651 (0.641 to 0.661)")
    read_row(leaks, "all scans of the patient", "15 slices of 6", *cells)
    read_row(leaks, "Trained on", "Tumour Dice, mean of cases", "Tumour Dice, all voxels")
    assert "Liver" not in leaks  # columns in which nothing is defined
    assert "tested three times on the same slices of one scan" in leaks


def test_lesions_training_and_data_are_told(written: Path) -> None:
    assert "13 of 16 lesions found." in read_section(written, "Lesions")
    training = read_section(written, "Training")
    assert "After 30 epochs, training loss 0.228, validation loss 0.343" in training
    assert "validation tumour Dice 0.675" in training
    assert "2,400 CPU-seconds" in training and "weights of epoch 27" in training
    read_row(read_section(written, "Data"), "train", "1,178", "4", "3", "980")
    assert "lits-00ff" in read_section(written, "Data")


def test_recipe_is_held_against_both_papers(written: Path, tmp_path: Path) -> None:
    ours = read_section(written, "Recipe")
    read_row(ours, "data.normalisation", "window", "zero mean, unit variance (3.2)", "differs")
    read_row(ours, "optimizer.name", "adamw", "Adam (3.4)", "differs")
    assert "0f0f" in ours
    path = write_example(tmp_path, record=make_record(P5))
    beside_p5 = read_section(path, "Recipe").split("All ")[0]
    assert beside_p5.count("|same|") == 20  # P5's 19, and P4's binary head
    read_row(beside_p5, "postprocess.closing_mm", "2.0", "closing (3.6)", "same")
    read_row(ours, "postprocess.closing_mm", "0.0", "closing (3.6)", "differs")
    assert "|not in use so|" not in beside_p5
    assert beside_p5.count("|differs|") == 2  # P4's Dice loss and its normalisation


def test_same_is_only_what_decides_something(tmp_path: Path) -> None:
    """Ours has Tversky's .7 and .3 without a Tversky loss, and Dice with cross-entropy added."""
    ours = UNetRecipe(
        data=SegmentationDataConfig(image_size_px=128, pixel_mm=3.0, held_out=("6",)),
        loss=SegmentationLossConfig(dice_weight=1.0, cross_entropy_weight=1.0),
        train=SegmentationTrainConfig(epochs=20, cpu_budget_s=60.0),
    )
    table = read_section(write_example(tmp_path, record=make_record(ours)), "Recipe").split("All ")[
        0
    ]
    for path, value in (
        ("data.image_size_px", "128"),
        ("data.held_out_fraction", "0.2"),
        ("loss.tversky_alpha", "0.7"),
        ("loss.tversky_beta", "0.3"),
        ("train.epochs", "20"),
    ):
        line = table[table.index(f"|{path}|") :].split("\n")[0]
        assert "not in use so" in line.split(f"|{value}|", 1)[1][:200], path
    assert re.search(
        r"\|loss\.dice_weight\|+1\.0\|+Dice loss \(abstract\)\|+not in use so\|", table
    )
    assert table.count("|same|") == 5  # P5's window, rotation, two flips and gamma


def test_weights_of_p5_are_its_resnets() -> None:
    assert is_in_use({"model.backbone": "resnet50"}, "model.weights")
    assert not is_in_use({"model.backbone": "resnet34"}, "model.weights")
    assert not is_in_use({}, "model.weights")  # SegNet's VGG16


def test_scattered_slices_have_overlap_only(tmp_path: Path) -> None:
    metrics = make_metrics() | {"scattered": True, "lesions": []}
    corrected = metrics["protocol"]["corrected"]
    metrics["protocol"] = {"corrected": corrected}
    for row in (*corrected["per_case"], corrected["mean"], corrected["global"]):
        for key in [key for key in row if not key.endswith(("dice", "sensitivity", "t", "case"))]:
            del row[key]
    for row in metrics["postprocessing"]:
        del row["lesions_found"], row["lesions"], row["false_components"]
    path = write_example(tmp_path, metrics=metrics)
    page = read_page(path)
    head = page.text.split("Cases")[0]
    assert "Scattered slices: overlap only." in head and "Measured in 3-D" not in head
    assert "False tumours" not in page.text and "Lesions found" not in page.text
    cases = read_section(path, "Cases")
    assert "Scattered slices: overlap only" in cases and "3-D" not in cases
    read_row(cases, "all", "0.668", "0.961")
    assert "of each scan's slices" in read_section(path, "Beside the papers").replace("&#x27;", "'")


def test_what_the_network_does_not_know_is_not_counted(tmp_path: Path) -> None:
    """A head of the liver alone: no lesions found, and none missed either."""
    metrics = make_metrics() | {"lesions": []}
    corrected = metrics["protocol"]["corrected"]
    for row in corrected["per_case"]:
        row |= {"lesions_found": None, "false_components": None, "false_positive_mm3": None}
        row |= {"tumour_dice": None}
    path = write_example(tmp_path, metrics=metrics)
    cases = read_section(path, "Cases")
    read_row(cases, "6", "F", "undefined", "0.961")
    assert "0 of" not in cases and "False tumour, ml" not in cases
    head = read_page(path).text.split("Cases")[0]
    assert "False tumours a scan" not in head and "what was marked" not in head


def test_undefined_burdens_are_counted(tmp_path: Path) -> None:
    metrics = make_metrics()
    metrics["protocol"]["corrected"]["per_case"][1]["burden_error"] = None
    cases = read_section(write_example(tmp_path, metrics=metrics), "Cases")
    assert "Tumour burden error: undefined for 1 of 3 cases." in cases
    assert "a burden error where the truth has no liver" in cases


def test_how_to_load_the_model_is_told(written: Path) -> None:
    assert "import lesionkeras.models first" in read_section(written, "Training")


def test_a_split_that_leaks_is_called_so(written: Path, tmp_path: Path) -> None:
    assert "warning" not in read_page(written).classes
    metrics = make_metrics() | {"leak": "This split leaks: slices of one scan are on both sides."}
    page = read_page(write_example(tmp_path, metrics=metrics))
    assert page.classes.count("warning") == 1
    head = page.text.split("Measured in")[0]
    assert head.count("This split leaks") == 1 and "slices of one scan are on both sides" in head


def test_a_run_of_nothing_still_reports(tmp_path: Path) -> None:
    nothing = {"per_case": [], "mean": {"tumour_dice": None, "liver_dice": float("nan")}}
    metrics = {"protocol": {"corrected": nothing}}
    path = write_example(tmp_path, record={}, log_rows=[], metrics=metrics)
    page = read_page(path)
    assert page.images == [] and "Segmentation network on data" in page.text
    assert page.text.count("undefined") >= 4
    for title in ("Cases", "Lesions", "Post-processing", "Software", "Best, median and worst case"):
        assert f"<h2>{title}</h2>" not in path.read_text()


def test_one_patient_has_no_interval(tmp_path: Path) -> None:
    metrics = make_metrics()
    corrected = metrics["protocol"]["corrected"]
    corrected["per_case"] = corrected["per_case"][:2]
    page = read_page(write_example(tmp_path, metrics=metrics))
    assert "2 held-out scans of 1 patient" in page.text and "one patient has none" in page.text
    assert "without a lesion" not in page.text.split("Cases")[0]


def test_names_are_escaped(tmp_path: Path) -> None:
    metrics = make_metrics()
    metrics["protocol"]["corrected"]["per_case"][0]["case"] = "<script>alert(1)</script>"
    assert "<script" not in write_example(tmp_path, metrics=metrics).read_text()


def test_report_imports_neither_tensorflow_nor_matplotlib() -> None:
    code = (
        "import sys, lesionkeras.report.segmentation_report;"
        "print('tensorflow' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
