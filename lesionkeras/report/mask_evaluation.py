"""Masks in files to scores: every pair is checked by its headers, then read and scored in turn."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lesionkeras.ct.mask_files import FilePair, list_masks, pair_files
from lesionkeras.ct.mask_pairs import GEOMETRIES, FindSpacing, Grid, find_grid, read_pair
from lesionkeras.errors import DataError, RecipeError, RunError
from lesionkeras.metrics.volumes import VolumeEvaluator, check_protocol

# Called with cases scored and cases in all.
Progress = Callable[[int, int], None]


# What an evaluation of masks or boxes writes.
TABLES = ("cases.csv", "images.csv", "lesions.csv", "froc.csv")
RESULTS = (*TABLES, "fused.json", "scores.json", "report.html")


@dataclass(frozen=True)
class ScoringOptions:
    """How to score, and what is known of masks beside their files.

    Attributes:
        protocol: "corrected" or "lits".
        geometry: See `find_grid`.
        find_spacing: See `find_grid`.
        find_patient: Gives a case's patient; None makes each case a patient of its own.
        cases: Names or numbers of the cases that are scored; () is all.
        given: What was asked for, by name, for the record of the results.
    """

    protocol: str = "corrected"
    geometry: str = "checked"
    find_spacing: FindSpacing | None = None
    find_patient: Callable[[str], str] | None = None
    cases: tuple[str, ...] = ()
    given: Mapping[str, str] = field(default_factory=dict)


DEFAULTS = ScoringOptions()


@dataclass(frozen=True)
class Evaluation:
    """What was scored, and of what.

    Attributes:
        evaluator: Holds the cases.
        notes: Case to what was not taken from its files.
        knows_patients: Whether somebody said whose the cases are; else each is taken for its own
            patient's.
        predictions: Case to the name of the mask that it was paired with.
        given: What was asked for, by name.
    """

    evaluator: VolumeEvaluator
    notes: Mapping[str, str]
    knows_patients: bool = True
    predictions: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)


def evaluate_files(
    truth: Path,
    prediction: Path,
    options: ScoringOptions = DEFAULTS,
    progress: Progress | None = None,
) -> Evaluation:
    """Scores predicted masks; one case is in memory at a time.

    Args:
        truth: Folder, zip or file of the true masks.
        prediction: The same of the predicted ones.
        options: What is known beside the files.
        progress: Called after each case.

    Returns:
        The scored cases.

    Raises:
        CtError: Files that cannot be paired or read, or do not lie in one place.
        DataError: Labels other than 0, 1 and 2, and what `find_patient` raises.
    """
    pairs = pair_files(list_masks(truth), list_masks(prediction), options.cases)
    grids = [find_grid(pair, options.geometry, options.find_spacing) for pair in pairs]
    find_patient = options.find_patient or str
    whose = {pair.case: find_patient(pair.case) for pair in pairs}
    evaluator = VolumeEvaluator()
    for done, (pair, grid) in enumerate(zip(pairs, grids, strict=True), start=1):
        _score(evaluator, pair, grid, whose[pair.case])
        if progress is not None:
            progress(done, len(pairs))
    notes = {pair.case: grid.note for pair, grid in zip(pairs, grids, strict=True) if grid.note}
    paired = {pair.case: pair.prediction.name for pair in pairs}
    return Evaluation(evaluator, notes, options.find_patient is not None, paired, options.given)


def _score(evaluator: VolumeEvaluator, pair: FilePair, grid: Grid, patient: str) -> None:
    """Score a pair; its masks are let go on leaving."""
    truth, prediction = read_pair(pair, grid)
    evaluator.add(pair.case, patient, truth, prediction, grid.spacing_mm)


def check_folder(folder: Path, inputs: Sequence[str | None] = ()) -> None:
    """Raises, before anything is scored, where results cannot be written.

    Args:
        folder: That results are to be written to; it may be missing, or hold earlier ones.
        inputs: Files that are read, as given; none may be one that is written.

    Raises:
        RunError: It is a run's or a file, lies where no folder can be made, or holds an input
            where a result would be written.
    """
    written = {(folder / name).resolve() for name in RESULTS}
    for given in filter(None, inputs):
        if Path(given).expanduser().resolve() in written:
            raise RunError(
                "Results would replace a file that they are computed from",
                where=given,
                wanted="another folder",
                next_step="name another --out",
            )
    if (folder / "recipe.json").exists():
        raise RunError(
            "Results would replace a run's report",
            where=str(folder),
            found="recipe.json",
            wanted="another folder",
            next_step="name another --out",
        )
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    is_folder = there.is_dir()
    if is_folder and os.access(there, os.W_OK | os.X_OK):
        return
    raise RunError(
        "Results need a folder that can be written",
        where=str(folder),
        found=f"{'a folder without leave to write' if is_folder else 'a file'}"
        + (f", {there}" if there != folder.absolute() else ""),
        next_step="name another --out",
    )


def parse_options(
    protocol: str,
    geometry: str,
    spacing_mm: str | None,
    patients: str | None,
    cases: str | None = None,
    **others: object,
) -> ScoringOptions:
    """Turns flags into options.

    Args:
        protocol: "corrected" or "lits".
        geometry: "checked" or "stored".
        spacing_mm: "Z,Y,X" in mm, for truths whose own affine is refused.
        patients: Path of a CSV, see `read_patients`.
        cases: "NAME,NAME" or numbers of the cases to score.
        others: Flags that are not options of scoring.

    Raises:
        RecipeError: A value cannot be read.
        DataError: What `read_patients` raises.

    >>> parse_options("lits", "stored", "5,.7,.7", None).find_spacing("case", 75)
    (5.0, 0.7, 0.7)
    """
    check_protocol(protocol)
    if geometry not in GEOMETRIES:
        raise RecipeError(
            "--geometry cannot be read", found=repr(geometry), wanted=" or ".join(GEOMETRIES)
        )
    find_spacing = None
    if spacing_mm is not None:
        z_mm, y_mm, x_mm = _parse_spacing(spacing_mm)

        def find_spacing(case: str, num_slices: int) -> tuple[float, float, float]:
            return z_mm, y_mm, x_mm

    find_patient = read_patients(Path(patients).expanduser()) if patients else None
    given = {"protocol": protocol, "geometry": geometry}
    given |= {"spacing_mm": spacing_mm} if spacing_mm else {}
    chosen = tuple(case.strip() for case in (cases or "").split(",") if case.strip())
    if cases is not None and not chosen:
        raise RecipeError(
            "--cases names no case", found=repr(cases), wanted="names or numbers, as 6,7"
        )
    given |= {"cases": ",".join(chosen)} if chosen else {}
    given |= {"patients": Path(patients).name} if patients else {}
    given |= {"lits": "numbers"} if others.get("lits") else {}
    return ScoringOptions(protocol, geometry, find_spacing, find_patient, chosen, given)


def _parse_spacing(text: str) -> tuple[float, float, float]:
    try:
        z_mm, y_mm, x_mm = (float(part) for part in text.split(","))
    except ValueError:
        z_mm = y_mm = x_mm = math.nan
    if not all(0 < side < math.inf for side in (z_mm, y_mm, x_mm)):
        raise RecipeError(
            "--spacing-mm cannot be read",
            found=repr(text),
            wanted="three numbers above 0, of z, y and x (5,0.7,0.7)",
        )
    return z_mm, y_mm, x_mm


def read_patients(path: Path) -> Callable[[str], str]:
    """Reads whose each case is.

    Args:
        path: CSV with the columns case and patient.

    Returns:
        A function from case to patient, which raises DataError for a case that is not there.

    Raises:
        DataError: It cannot be read, or lacks a column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            "A table of patients cannot be read",
            where=str(path),
            found=getattr(error, "strerror", None) or "no CSV in UTF-8",
            wanted="CSV with the columns case and patient",
            next_step="correct --patients",
        ) from error
    if not rows or not {"case", "patient"} <= rows[0].keys():
        raise DataError(
            "A table of patients lacks a column or rows",
            where=str(path),
            found=", ".join(rows[0]) if rows else "no row",
            wanted="case, patient",
            next_step="add what is missing",
        )
    patients: dict[str, str] = {}
    for row in rows:
        case, patient = ((row[name] or "").strip() for name in ("case", "patient"))
        if patients.setdefault(case, patient) != patient:
            raise DataError(
                "A table of patients gives a case to two patients",
                where=str(path),
                found=f"rows of {case} that differ",
                wanted="one patient a case",
                next_step="leave the wrong row out",
            )

    def find_patient(case: str) -> str:
        if not patients.get(case):
            raise DataError(
                "A table of patients lacks a case",
                where=str(path),
                found=f"no patient of {case}",
                next_step="add its row",
            )
        return patients[case]

    return find_patient
