"""Scores predicted masks or boxes against true ones: anybody's files.

    python -m experiments.evaluate --pred DIR --truth DIR
    python -m experiments.evaluate --pred submission.zip --truth reference.zip --protocol lits
    python -m experiments.evaluate --detections FILE.json --truth FILE.json

Masks are NIfTI with 0 background, 1 liver, 2 tumour, paired by name or by the last number in it;
boxes are COCO results (several files are fused) and COCO's truth.  OUT gets tables as CSV,
scores.json and report.html, on an error nothing.  `--protocol lits` is the organisers' program.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lesionkeras import cli, cli_evaluate

if TYPE_CHECKING:
    from lesionkeras.report.mask_evaluation import ScoringOptions

Headlines = list[tuple[str, str, str]]


def main(argv: list[str] | None = None) -> None:
    """Parse, score, write, print."""
    arguments = cli_evaluate.parse(__doc__ or "", argv)
    score = score_boxes if arguments.detections else score_masks
    headlines, page = score(arguments, Path(arguments.truth).expanduser())
    for name, value, remark in headlines:
        print(f"{name + ':':40}{value:>8}  {remark}".rstrip())
    print(f"Report: {page}")


def score_masks(arguments: argparse.Namespace, truth: Path) -> tuple[Headlines, Path]:
    """Score masks, and say what to print and where the page is."""
    from lesionkeras.report import console, evaluate_page, mask_evaluation

    options = mask_evaluation.parse_options(**vars(arguments))
    options = add_lits(options) if arguments.lits else options
    prediction = Path(arguments.pred).expanduser()
    out = Path(arguments.out or evaluate_page.name_folder(truth, prediction, options)).expanduser()
    mask_evaluation.check_folder(out, [arguments.patients])
    with console.Counter("Scoring") as progress:
        evaluation = mask_evaluation.evaluate_files(truth, prediction, options, progress)
    summary = evaluate_page.write_evaluation(out, options.protocol, evaluation)
    return evaluate_page.list_headlines(summary), out / evaluate_page.PAGE_FILE


def score_boxes(arguments: argparse.Namespace, truth: Path) -> tuple[Headlines, Path]:
    """Score boxes, and say what to print and where the page is."""
    from lesionkeras.report import box_evaluation as boxes
    from lesionkeras.report.mask_evaluation import check_folder, read_patients

    score, found = boxes.parse_score(arguments.score), arguments.detections
    csv = [Path(arguments.patients).expanduser()] if arguments.patients else []
    out = Path(arguments.out or boxes.name_folder(truth, [*found, *csv], score)).expanduser()
    check_folder(out, [arguments.truth, *found, arguments.patients])
    evaluation = boxes.evaluate_boxes(truth, found, score, *map(read_patients, csv))
    boxes.write_evaluation(out, evaluation)
    return boxes.list_headlines(evaluation.metrics), out / boxes.PAGE_FILE


def add_lits(options: ScoringOptions) -> ScoringOptions:
    """Adds what is known of LiTS' volumes by their numbers: whose they are, and true spacing."""
    from lesionkeras.ct.mask_files import find_number
    from tfds_builders.lits import ircadb, patients

    given = options.find_spacing or (lambda case, slices: None)
    return replace(
        options,
        find_spacing=lambda c, n: ircadb.find_spacing_mm(find_number(c), n) or given(c, n),
        find_patient=options.find_patient or patients.find_patient_of_case,
    )


if __name__ == "__main__":
    cli.run_main(main)
