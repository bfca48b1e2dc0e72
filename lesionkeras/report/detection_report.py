"""The report of a detector: scores beside the papers', what it saw, where it errs, its making."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lesionkeras.files import write_bytes
from lesionkeras.recipe import flatten_tree
from lesionkeras.report import figures
from lesionkeras.report.froc_blocks import build_froc, format_value
from lesionkeras.report.froc_figures import draw_losses
from lesionkeras.report.page import (
    Block,
    Notice,
    Paragraph,
    Picture,
    Scores,
    Section,
    Table,
    format_count,
    write_report,
)
from lesionkeras.report.paper_blocks import (
    compare_data_sets,
    compare_train_and_test,
    compare_with_p1,
    describe_recipe,
)
from lesionkeras.report.tables import SCORES

NAMES = {
    "ssd": "SSD",
    "retinanet": "RetinaNet",
    "faster_rcnn": "Faster R-CNN",
    "baseline_cnn": "one-box CNN",
}
LEAK_TITLE = "This split leaks."
LEAK_TEXT = (
    "Images were split after augmentation, as P1 did, so that copies of one image lie among the "
    "training and the test images: the scores say how well images are remembered, not how well "
    "lesions of new patients are found. Use --split patient for that."
)


def write_detection_report(
    run_dir: Path,
    recipe_json: Mapping[str, Any],
    log_rows: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    anchor_recall: Any,
    examples: Sequence[Mapping[str, Any]],
    train_examples: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Writes `report.html` and `figures/` into a run directory.

    Args:
        run_dir: Exists.
        recipe_json: The run's recipe.json: "experiment" (SSD's where it is not there), "recipe",
            "digest" and "environment" (with "packages", "python", "machine", "git_commit",
            "data_fingerprint").
        log_rows: Rows of log.csv: epoch, loss, class_loss, box_loss, learning_rate, seconds,
            val_map50, val_map50_95; empty where an epoch was not validated.
        metrics: As `lesionkeras.metrics.evaluate_detections` returns them, of test images; "splits"
            (name -> {"images", "patients", "lesions"}), "best_epoch", "leak" (a sentence),
            "score_threshold_chosen_on" (a split), "train" (the same scores of training images),
            "box_conventions" and "test_sets" are told where they are there.
        anchor_recall: With `rows` of (label, count, share), `share` and `warning`; or None.
        examples: Test images as `figures.draw_examples` takes them.
        train_examples: The same of training images, for P2's Figure 4.

    Returns:
        The path of report.html.
    """
    recipe = recipe_json.get("recipe", recipe_json)
    experiment = recipe_json.get("experiment", "ssd")
    values = flatten_tree(recipe)
    pictures = _draw(values, log_rows, metrics, anchor_recall, examples)
    pictures |= _draw_papers(experiment, values, log_rows, metrics, train_examples)
    froc = build_froc(metrics["froc"])
    pictures["froc"] = next(block for block in froc if isinstance(block, Picture))
    _save(run_dir / "figures", pictures)
    p1: list[Block] = []
    if experiment == "ssd":
        p1 = [compare_with_p1(metrics, log_rows), pictures["figure7"]]
    shown = [pictures[name] for name in ("figure6", "p2_figure4") if name in pictures]
    sections = [
        Section("Data", _describe_data(recipe_json, values, metrics)),
        Section("Beside the paper", p1),
        Section("False positives and sensitivity", froc),
        Section("Training and test images", compare_train_and_test(metrics)),
        Section("Other data sets and boxes", compare_data_sets(metrics)),
        Section("Training", _describe_training(log_rows, metrics, pictures)),
        Section("Predictions", shown),
        Section("Where it errs", _describe_errors(metrics, pictures)),
        Section("Anchors", _describe_anchors(anchor_recall, pictures)),
        Section("Recipe", describe_recipe(recipe_json, values, experiment)),
        Section("Software", describe_software(recipe_json)),
    ]
    network = f"{values.get('model.backbone', '')} {NAMES.get(experiment, experiment)}".strip()
    summary = _summarize(values, metrics, anchor_recall)
    title = f"LesionKeras: {network} on {_name_data(values)}"
    return write_report(run_dir / "report.html", title, summary, sections)


def _draw(
    values: Mapping[str, Any],
    log_rows: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    anchor_recall: Any,
    examples: Sequence[Mapping[str, Any]],
) -> dict[str, Picture]:
    """Draws every picture that there is something for, and says what is on it."""
    pictures = _draw_scores(log_rows, metrics)
    threshold = metrics["score_threshold"]
    low, high = values.get("data.window_hu", (None, None))
    window = "" if low is None else f" Window {low:g} to {high:g} HU."
    if examples:
        shown = min(len(examples), figures.MAX_EXAMPLES)
        pictures["figure6"] = Picture(
            figures.draw_examples(examples, threshold),
            f"{shown} test images with true boxes (solid) and predicted boxes (dashed, score).",
            f"As P1's Figure 6: test images with truth (solid) and predictions of score "
            f"{threshold:.2f} and more (dashed).{window}",
        )
    if anchor_recall is not None and anchor_recall.rows:
        pictures["anchor_recall"] = Picture(
            figures.draw_anchor_recall(anchor_recall),
            "Share of training boxes reached by an anchor: "
            + ", ".join(f"{label} {share:.1%}" for label, _, share in anchor_recall.rows),
            "Training boxes that some anchor meets at IoU 0.5, by size; what no anchor meets is "
            "learnt from its best anchor alone.",
        )
    return pictures


def _draw_papers(
    experiment: str,
    values: Mapping[str, Any],
    log_rows: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    train_examples: Sequence[Mapping[str, Any]],
) -> dict[str, Picture]:
    """Draws the papers' figures: P1's 7 for its own SSD, P2's 6 for others, P2's 4 for all."""
    pictures = {}
    if experiment == "ssd":
        run_name = f"{values.get('model.backbone', 'SSD')}, {len(log_rows)} epochs"
        pictures["figure7"] = Picture(
            figures.draw_comparison(metrics, run_name),
            "Bars of precision, recall, mAP50 and mAP50-95 of P1's four models and this run; "
            "the table above has the numbers.",
            "As P1's Figure 7, with this run; lines are 95 % intervals over patients.",
        )
    else:
        pictures["p2_figure6"] = Picture(
            draw_losses(log_rows),
            f"Parts of the loss by epoch, training and validation: {_describe_last(log_rows)}",
            "As P2's Figure 6: the parts of the loss, on training (left) and validation images "
            "(right), by epoch.",
        )
    if train_examples:
        threshold = metrics["score_threshold"]
        pictures["p2_figure4"] = Picture(
            figures.draw_examples(train_examples, threshold),
            f"{len(train_examples)} training images with true boxes (solid) and predicted boxes "
            "(dashed, score).",
            "As P2's Figure 4, which shows images of the training set beside those of the test "
            "set: training images here, test images above.",
        )
    return pictures


def _draw_scores(
    log_rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]
) -> dict[str, Picture]:
    """Draws the pictures that every run has."""
    threshold = metrics["score_threshold"]
    return {
        "figure5": Picture(
            figures.draw_training(log_rows),
            f"Two curves by epoch: {_describe_last(log_rows)}",
            "As P1's Figure 5: training loss (left), mAP50 (orange) and mAP50-95 (red) on "
            "validation images (right), by epoch.",
        ),
        "precision_recall": Picture(
            figures.draw_precision_recall(metrics),
            f"Precision falls as recall rises; at score {threshold:.2f} precision is "
            f"{_format(metrics['precision'])} and recall {_format(metrics['recall'])}.",
            "Precision and recall at every score threshold; the dot is the one that is reported.",
        ),
        "recall_by_size": Picture(
            figures.draw_recall_by_size(metrics["recall_by_size"]),
            "Recall by lesion size: " + _list_recall(metrics["recall_by_size"]),
            f"Lesions found at score {threshold:.2f}, by size, with found / all.",
        ),
    }


def _save(folder: Path, pictures: Mapping[str, Picture]) -> None:
    folder.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        write_bytes(folder / f"{name}.png", picture.png)


def _summarize(
    values: Mapping[str, Any], metrics: Mapping[str, Any], anchor_recall: Any
) -> list[Block]:
    counts, bootstrap = metrics["counts"], metrics["bootstrap"]
    names = {**dict(SCORES), "fp_per_image": "False positives an image"}
    order = ("map50", "map50_95", "precision", "recall", "fp_per_image")
    chosen_on = metrics.get("score_threshold_chosen_on")
    chosen = f" (of the greatest F1 on the {chosen_on} split)" if chosen_on else ""
    none = "; one patient has none" if counts["patients"] == 1 else ""
    blocks: list[Block] = [
        Paragraph(
            f"Measured on {format_count(counts['images'], 'test image')} of "
            f"{format_count(counts['patients'], 'patient')} with "
            f"{format_count(counts['lesions'], 'lesion')}. In brackets are 95 % intervals "
            f"over patients ({bootstrap['num_resamples']} resamples{none}); a box is right from "
            f"IoU {metrics['iou_threshold']:g} on, and precision, recall and false positives are "
            f"those of detections with a score of {metrics['score_threshold']:.3f} and more"
            f"{chosen}."
        ),
        Scores(
            [(names[key], _format(metrics[key]), _format_interval(metrics[key])) for key in order]
        ),
    ]
    is_paper = values.get("data.protocol") == "paper"
    if is_paper or metrics.get("leak"):
        blocks.insert(0, Notice(LEAK_TITLE, LEAK_TEXT if is_paper else metrics["leak"]))
    if anchor_recall is not None and (
        anchor_recall.warning or anchor_recall.share < figures.WANTED_ANCHOR_SHARE
    ):
        reached = f"Only {anchor_recall.share:.1%} of the training boxes meet an anchor at IoU 0.5."
        text = anchor_recall.warning or "Smaller anchors or larger images reach more."
        blocks.append(Notice(reached, text))
    return blocks


def _describe_data(
    recipe_json: Mapping[str, Any], values: Mapping[str, Any], metrics: Mapping[str, Any]
) -> list[Block]:
    counts = {key: metrics["counts"][key] for key in ("images", "patients", "lesions")}
    splits: dict[str, Mapping[str, Any]] = {**metrics.get("splits", {}), "test": counts}
    fingerprint = recipe_json.get("environment", {}).get("data_fingerprint")
    papers = {"paper": "as P1's (leaks)", "p2": "as P2's list"}
    protocol = papers.get(values.get("data.protocol", ""), "by patient")
    rows = [
        [split, *(_count(row.get(key)) for key in ("images", "patients", "lesions"))]
        for split, row in splits.items()
    ]
    size, pixel_mm = values.get("data.image_size_px"), values.get("data.pixel_mm")
    placed = f"at {pixel_mm:g} mm a pixel on" if pixel_mm else "resized to"
    return [
        Table(
            ["Split", "Images", "Patients", "Lesions"],
            rows,
            f"Data set {_name_data(values)}, split {protocol}"
            + (f", {placed} {size} x {size} px" if size else "")
            + (f", fingerprint {fingerprint}." if fingerprint else "."),
            numbers=(1, 2, 3),
        )
    ]


def _name_data(values: Mapping[str, Any]) -> str:
    parts = [str(values[key]) for key in ("data.name", "data.config") if values.get(key)]
    return "/".join(parts) or "data"


def _describe_training(
    log_rows: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    pictures: Mapping[str, Picture],
) -> list[Block]:
    seconds = [float(row["seconds"]) for row in log_rows if row.get("seconds") not in (None, "")]
    took = f" Training took {sum(seconds) / 60:.1f} minutes." if seconds else ""
    best = metrics.get("best_epoch")
    measured = f" Measured are the weights of epoch {best}." if best else ""
    drawn = [pictures[name] for name in ("figure5", "p2_figure6") if name in pictures]
    return [Paragraph(f"{_describe_last(log_rows)}{took}{measured}"), *drawn]


def _describe_errors(metrics: Mapping[str, Any], pictures: Mapping[str, Picture]) -> list[Block]:
    counts, coco = metrics["counts"], metrics["coco"]
    names = {"ap75": "AP at IoU 0.75", "ap_small": "AP, below 32 x 32 px"}
    names |= {"ap_medium": "AP, up to 96 x 96 px", "ap_large": "AP, from 96 x 96 px"}
    names |= {"ar_1": "Recall of the best box", "ar_10": "Recall of the best 10"}
    names |= {"ar_100": "Recall of the best 100"}
    rows = [[name, format_value(coco.get(key))] for key, name in names.items()]
    return [
        Paragraph(
            f"{counts['true_positives']} lesions found, {counts['misses']} missed, "
            f"{counts['false_positives']} false positives on {counts['images']} images."
        ),
        pictures["precision_recall"],
        pictures["recall_by_size"],
        Table(
            ["COCO figure", "Value"],
            rows,
            "As pycocotools computes them; recall is the mean over IoU 0.50 to 0.95.",
            numbers=(1,),
            folded="More COCO figures",
        ),
    ]


def _describe_anchors(anchor_recall: Any, pictures: Mapping[str, Picture]) -> list[Block]:
    if anchor_recall is None:
        return []
    rows = [[label, _count(count), f"{share:.1%}"] for label, count, share in anchor_recall.rows]
    total = sum(int(count) for _, count, _ in anchor_recall.rows)
    table = Table(
        ["Size", "Training boxes", "Reached"],
        [*rows, ["all", _count(total), f"{anchor_recall.share:.1%}"]],
        "Boxes that some anchor meets at IoU 0.5, counted before training.",
        numbers=(1, 2),
        strong=(len(rows),),
    )
    return [table, pictures["anchor_recall"]] if "anchor_recall" in pictures else [table]


def describe_software(recipe_json: Mapping[str, Any]) -> list[Block]:
    """Returns the table of packages and machine of a recipe.json, or nothing."""
    environment = recipe_json.get("environment", {})
    rows = [[name, str(version)] for name, version in environment.get("packages", {}).items()]
    rows += [
        [name, str(environment[name])] for name in ("python", "machine") if name in environment
    ]
    commit = environment.get("git_commit")
    return [Table(["Package", "Version"], rows, f"Commit {commit}." if commit else "")] * bool(rows)


def _describe_last(log_rows: Sequence[Mapping[str, Any]]) -> str:
    parts = [f"After {len(log_rows)} epochs"]
    for key, name in (
        ("loss", "training loss"),
        ("val_map50", "mAP50"),
        ("val_map50_95", "mAP50-95"),
    ):
        value = _last(log_rows, key)
        if value is not None:
            parts.append(f"{name if key == 'loss' else f'validation {name}'} {value:.3f}")
    return ", ".join(parts) + "."


def _last(log_rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    filled = [row[key] for row in log_rows if row.get(key) not in (None, "")]
    return float(filled[-1]) if filled else None


def _list_recall(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"{row['label']} {row['found']} of {row['count']}" for row in rows if row["count"]
    )


def _format(score: Mapping[str, Any]) -> str:
    return format_value(score["value"])


def _format_interval(score: Mapping[str, Any]) -> str:
    return "" if score["low"] is None else f"({score['low']:.3f} to {score['high']:.3f})"


def _count(value: Any) -> str:
    return "" if value is None else f"{int(value):,}"
