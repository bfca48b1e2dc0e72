"""Boxes in COCO files to scores, tables as CSV, figures as JSON and a page: anybody's detector."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lesionkeras.boxes.fusion import fuse_boxes
from lesionkeras.errors import DataError, RecipeError
from lesionkeras.files import write_json
from lesionkeras.metrics.coco_files import CocoTruth, list_results, read_results, read_truth
from lesionkeras.metrics.evaluation import evaluate_detections
from lesionkeras.metrics.froc import Froc, count_froc
from lesionkeras.metrics.froc_matching import CONVENTIONS, pool_boxes
from lesionkeras.metrics.froc_summary import CRITERIA, MAIN_CONVENTION
from lesionkeras.metrics.matches import MAX_DETECTIONS, ImageDetections
from lesionkeras.report.console import Counter
from lesionkeras.report.evaluate_page import PAGE_FILE, SCORES_FILE
from lesionkeras.report.evaluate_tables import MAX_SHOWN_ROWS, write_csv
from lesionkeras.report.figures import draw_precision_recall, draw_recall_by_size
from lesionkeras.report.froc_blocks import build_froc, build_p2_table, format_score, format_value
from lesionkeras.report.page import (
    Block,
    Paragraph,
    Picture,
    Scores,
    Section,
    Table,
    format_count,
    write_report,
)

IMAGES_FILE, LESIONS_FILE, FROC_FILE = "images.csv", "lesions.csv", "froc.csv"
FUSED_FILE = "fused.json"
# What is said first: key of the metrics, name.
HEADLINES = (
    ("map50", "mAP50"),
    ("map50_95", "mAP50-95"),
    ("precision", "Precision"),
    ("recall", "Recall"),
    ("fp_per_image", "False positives an image"),
)


@dataclass(frozen=True)
class BoxEvaluation:
    """What was scored.

    Args:
        truth: The true boxes.
        patients: Who each image is of.
        metrics: As `evaluate_detections` returns them.
        frocs: The main convention's, one a criterion.
        fused: COCO results, where several detectors were scored as one.
    """

    truth: CocoTruth
    patients: tuple[str, ...]
    metrics: Mapping[str, Any]
    frocs: tuple[Froc, ...]
    fused: Sequence[Mapping[str, Any]] | None = None


def parse_score(text: str) -> float:
    """Reads the flag --score.

    Args:
        text: As given.

    Raises:
        RecipeError: It is no finite number.

    >>> parse_score(".25")
    0.25
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise RecipeError("--score cannot be read", found=repr(text), wanted="a number, as .5")
    return value


def evaluate_boxes(
    truth_file: Path,
    detections_files: Sequence[Path],
    score_threshold: float,
    find_patient: Callable[[str], str] | None = None,
) -> BoxEvaluation:
    """Scores a COCO results file, or several detectors' as one by weighted boxes fusion.

    Args:
        truth_file: COCO's JSON of the true boxes.
        detections_files: COCO's JSON of results, one a detector.
        score_threshold: Of precision, recall, false positives and P2's figures.
        find_patient: From an image's id, as text, to its patient; else the truth's own.

    Raises:
        DataError: A file cannot be used, and what `find_patient` raises.
    """
    truth = read_truth(truth_file)
    patients = truth.patients
    if find_patient is not None:
        patients = tuple(find_patient(str(image_id)) for image_id in truth.image_ids)
    found = [read_results(file, truth) for file in detections_files]
    detections = found[0] if len(found) == 1 else _fuse(found, detections_files)
    with Counter("Scoring, per cent") as progress:
        metrics = evaluate_detections(
            truth.truths,
            detections,
            patients,
            score_threshold,
            sizes_px=truth.sizes_px,
            progress=progress,
        )
    fused = list_results(detections, truth) if len(found) > 1 else None
    return BoxEvaluation(truth, patients, metrics, _count(truth, detections), fused)


def _fuse(
    found: Sequence[Sequence[ImageDetections]], files: Sequence[Path]
) -> tuple[ImageDetections, ...]:
    for file, images in zip(files, found, strict=True):
        scores = np.concatenate([image.scores for image in images])
        wrong = scores[(scores < 0) | (scores > 1)]
        if len(wrong):
            raise DataError(
                "Scores of several detectors cannot be averaged",
                where=file.name,
                found=f"a score of {wrong[0]:g}",
                wanted="scores in 0..1",
                next_step="score this file alone, or turn its scores into probabilities",
            )
    images = []
    with Counter("Fusing") as progress:
        for of_image in zip(*found, strict=True):
            boxes, sure = [one.boxes for one in of_image], [one.scores for one in of_image]
            fused = fuse_boxes(boxes, sure, [one.classes for one in of_image])
            images.append(ImageDetections(*fused))
            progress(len(images), len(found[0]))
    return tuple(images)


def _count(truth: CocoTruth, detections: Sequence[ImageDetections]) -> tuple[Froc, ...]:
    pooled = pool_boxes(truth.truths, detections)
    convention = CONVENTIONS[MAIN_CONVENTION]
    return tuple(count_froc(pooled, convention, criterion) for criterion in CRITERIA)


def name_folder(truth: Path, detections: Sequence[Path], score: float) -> Path:
    """Names the folder of an evaluation for which none was given: the same for the same files.

    Args:
        truth: The file of true boxes.
        detections: The files of results, and the CSV of patients if there is one.
        score: From which on a box counts.
    """
    files = "\n".join(str(file.absolute()) for file in (truth, *detections))
    places = f"{files}\n{score:g}"
    return Path("runs") / f"evaluate-boxes-{hashlib.sha256(places.encode()).hexdigest()[:8]}"


def list_image_rows(evaluation: BoxEvaluation) -> list[dict[str, Any]]:
    """Lists a row an image: its lesions, and at the score threshold what is found and what wrong.

    Args:
        evaluation: From `evaluate_boxes`.
    """
    threshold = evaluation.metrics["score_threshold"]
    counts = {froc.criterion.label: froc.count_by_image(threshold) for froc in evaluation.frocs}
    rows = []
    for place, image_id in enumerate(evaluation.truth.image_ids):
        row: dict[str, Any] = {"image_id": image_id, "patient": evaluation.patients[place]}
        row["lesions"] = int(evaluation.frocs[0].count_by_image(threshold)[3, place])
        for label, (_, wrong, found, _) in counts.items():
            row[f"found, {label}"] = int(found[place])
            row[f"false positives, {label}"] = int(wrong[place])
        rows.append(row)
    return rows


def list_lesion_rows(evaluation: BoxEvaluation) -> list[dict[str, Any]]:
    """Lists a row a lesion: where it is, how large, and the score at which it is found.

    Args:
        evaluation: From `evaluate_boxes`.

    Returns:
        Column to value; a score of -inf where no box finds it.
    """
    pooled = evaluation.frocs[0].pooled
    boxes = np.concatenate([truth.boxes for truth in evaluation.truth.truths])
    rows = []
    for lesion, image in enumerate(pooled.lesion_image):
        if pooled.is_crowd[lesion]:
            continue
        x1, y1, x2, y2 = (float(value) for value in boxes[lesion])
        row = {
            "image_id": evaluation.truth.image_ids[image],
            "patient": evaluation.patients[image],
            "x_px": x1,
            "y_px": y1,
            "width_px": x2 - x1,
            "height_px": y2 - y1,
            f"size_{pooled.unit}": float(pooled.sizes[lesion]),
        }
        for froc in evaluation.frocs:
            row[f"score, {froc.criterion.label}"] = float(froc.found_scores[lesion])
        rows.append(row)
    return rows


def list_froc_rows(froc: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lists a row a convention, overlap and number of false positives.

    Args:
        froc: As `evaluate_froc` returns it.

    Returns:
        Column to value; NaN where a score is undefined.
    """
    rows = []
    for row in froc["rows"]:
        points = zip(froc["fp_per_image"], row["sensitivity"], row["score_thresholds"], strict=True)
        for fp, score, threshold in points:
            values = {key: score[key] for key in ("value", "low", "high")}
            values["score_threshold"] = threshold
            rows.append(
                {key: row[key] for key in ("convention", "overlap", "threshold")}
                | {"fp_per_image": fp}
                | {key: float("nan") if v is None else v for key, v in values.items()}
            )
    return rows


def write_evaluation(
    folder: Path, evaluation: BoxEvaluation, first: Sequence[Section] = ()
) -> None:
    """Writes froc.csv, images.csv, lesions.csv, scores.json and report.html into a folder.

    And fused.json, COCO's results, where several detectors were fused.

    Args:
        folder: Made if it is not there.
        evaluation: What was scored.
        first: Of the page, before all other sections.
    """
    metrics = evaluation.metrics
    images, lesions = list_image_rows(evaluation), list_lesion_rows(evaluation)
    froc = list_froc_rows(metrics["froc"])
    sections = [*first, *_build_sections(evaluation, lesions)]
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in ((FROC_FILE, froc), (IMAGES_FILE, images), (LESIONS_FILE, lesions)):
        write_csv(folder / name, list(rows[0]) if rows else ["image_id", "patient"], rows)
    (folder / FUSED_FILE).unlink(missing_ok=True)  # of an earlier evaluation
    if evaluation.fused is not None:
        write_json(folder / FUSED_FILE, evaluation.fused)
    write_json(folder / SCORES_FILE, metrics)
    write_report(folder / PAGE_FILE, "Boxes scored", _build_summary(evaluation), sections)


def list_headlines(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Lists the figures that a reader came for.

    Args:
        metrics: As `evaluate_detections` returns them.

    Returns:
        (name, value, remark) each.
    """
    rows = [(name, *_split(metrics[key])) for key, name in HEADLINES]
    froc = metrics["froc"]
    at_one = froc["fp_per_image"].index(1.0)
    for row in froc["rows"]:
        if row["convention"] == froc["convention"]:
            name = f"Sensitivity at 1 FP an image, {row['label']}"
            rows.append((name, *_split(row["sensitivity"][at_one])))
    return rows


def _split(score: Mapping[str, Any]) -> tuple[str, str]:
    value, _, interval = format_score(score).partition(" ")
    return value, interval


def _build_summary(evaluation: BoxEvaluation) -> list[Block]:
    metrics = evaluation.metrics
    counts = metrics["counts"]
    of_whom = f"of {format_count(counts['patients'], 'patient')} "
    if not evaluation.truth.has_patients and set(evaluation.patients) == set(
        evaluation.truth.patients
    ):
        of_whom += "(an image whose patient the truth does not name counts as one) "
    return [
        Scores(list_headlines(metrics)),
        Paragraph(
            f"{format_count(counts['images'], 'image')} {of_whom}with "
            f"{format_count(counts['lesions'], 'lesion')}. "
            + ("Boxes of several detectors were fused. " if evaluation.fused is not None else "")
            + "Precision, "
            "recall and false positives are those of boxes with a score of "
            f"{metrics['score_threshold']:g} and more at IoU {metrics['iou_threshold']:g}, the "
            f"{MAX_DETECTIONS} surest of an image and class; "
            "in brackets are 95 % intervals over patients drawn with replacement"
            + ("; one patient has none." if counts["patients"] == 1 else ".")
        ),
    ]


def _build_sections(
    evaluation: BoxEvaluation, lesion_rows: Sequence[Mapping[str, Any]]
) -> list[Section]:
    metrics = evaluation.metrics
    found = ", ".join(
        f"{row['label']} {row['found']} of {row['count']}"
        for row in metrics["recall_by_size"]
        if row["count"]
    )
    pictures = [
        Picture(
            draw_precision_recall(metrics),
            "Precision falls as recall rises; precision is "
            f"{format_score(metrics['precision'])} at the score threshold.",
            "Precision and recall at every score threshold, IoU 0.5.",
        ),
        Picture(
            draw_recall_by_size(metrics["recall_by_size"]),
            f"Recall by lesion size: {found}",
            f"Lesions found at score {metrics['score_threshold']:g}, by size, with found / all.",
        ),
    ]
    counts = metrics["counts"]
    return [
        Section("False positives and sensitivity", build_froc(metrics["froc"])),
        Section("Beside P2", [build_p2_table([("These boxes", "given", counts, metrics["p2"])])]),
        Section("Precision and recall", pictures),
        Section("COCO", [_build_coco(metrics)]),
        Section("Each lesion", [_build_lesions(lesion_rows)] if lesion_rows else []),
    ]


def _build_coco(metrics: Mapping[str, Any]) -> Table:
    rows = [[name, format_value(value)] for name, value in metrics["coco"].items()]
    return Table(["Figure", "Value"], rows, "As pycocotools computes them.", [1])


def _build_lesions(rows: Sequence[Mapping[str, Any]]) -> Table:
    header = list(rows[0])
    shown = [[_format_cell(value) for value in row.values()] for row in rows[:MAX_SHOWN_ROWS]]
    caption = f"The first {len(shown)} of {len(rows)}; all are in {LESIONS_FILE}."
    names = [name.replace("_", " ") for name in header]
    return Table(names, shown, caption, range(2, len(header)), folded=f"{len(rows)} lesions")


def _format_cell(value: Any) -> str:
    """Format a cell.

    >>> _format_cell(float("-inf")), _format_cell(12.5), _format_cell(7)
    ('not found', '12.5', '7')
    """
    if isinstance(value, float):
        return "not found" if value == -np.inf else f"{value:.4g}"
    return str(value)
