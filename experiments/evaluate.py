"""Scores predicted masks against true ones: anybody's NIfTI files, in folders or zips.

    python -m experiments.evaluate --pred DIR --truth DIR
    python -m experiments.evaluate --pred submission.zip --truth reference.zip --protocol lits

Labels: 0 background, 1 liver, 2 tumour.  Files are paired by name, or else by the last number in
it.  OUT gets cases.csv, lesions.csv, scores.json and report.html; nothing is written on an error.
`--protocol lits` scores as the challenge organisers' program does, its faults included.
Costs: about a second a scan of 500 slices, and the memory of one case.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lesionkeras import cli

if TYPE_CHECKING:
    from lesionkeras.report.mask_evaluation import ScoringOptions

FLAGS = (
    ("--protocol", "X", "corrected", "corrected (default) or lits"),
    ("--geometry", "X", "checked", "checked: affines agree (default); stored: as arrays lie"),
    ("--spacing-mm", "Z,Y,X", None, "of truths whose own affine is refused"),
    ("--patients", "FILE", None, "CSV with case and patient (default: each case its own)"),
    ("--out", "DIR", None, "where results are written (default: below runs/)"),
)


def main(argv: list[str] | None = None) -> None:
    """Parse, pair, score, write, print."""
    arguments = cli.read_arguments(build_parser(), argv)
    from lesionkeras.report import console, evaluate_page, mask_evaluation

    options = mask_evaluation.parse_options(**vars(arguments))
    if arguments.lits:
        options = add_lits(options)
    truth, prediction = Path(arguments.truth).expanduser(), Path(arguments.pred).expanduser()
    out = Path(arguments.out or evaluate_page.name_folder(truth, prediction, options)).expanduser()
    mask_evaluation.check_folder(out)
    with console.Counter("Scoring") as progress:
        evaluation = mask_evaluation.evaluate_files(truth, prediction, options, progress)
    summary = evaluate_page.write_evaluation(out, options.protocol, evaluation)
    for name, value, remark in evaluate_page.list_headlines(summary):
        print(f"{name + ':':34}{value:>8}  {remark}".rstrip())
    print(f"Report: {out / evaluate_page.PAGE_FILE}")


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of the flags."""
    parser = cli.make_parser("evaluate", __doc__ or "")
    add = parser.add_argument
    add("--pred", metavar="DIR", required=True, help="predicted masks: a folder, a zip or a file")
    add("--truth", metavar="DIR", required=True, help="true masks: the same")
    for flag, metavar, default, meaning in FLAGS:
        add(flag, metavar=metavar, default=default, help=meaning)
    add("--lits", action="store_true", help="numbers are LiTS': patients and 28 to 47 are known")
    add("--debug", action="store_true", help="errors with their traceback")
    return parser


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
