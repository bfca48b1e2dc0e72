"""The command line of `evaluate`, which scores masks or boxes."""

from __future__ import annotations

import argparse
from pathlib import Path

from lesionkeras.cli import make_parser, read_arguments
from lesionkeras.errors import RecipeError

# flag, its value's name, default, what it means, what it is for ("" both)
FLAGS = (
    ("--pred", "DIR", None, "predicted masks: a folder, a zip or a file", ""),
    ("--detections", "FILE", None, "boxes instead: COCO results; several are fused", ""),
    ("--truth", "PATH", None, "true masks like --pred, or true boxes as COCO's JSON", ""),
    ("--protocol", "X", "corrected", "masks: corrected (default) or lits", "masks"),
    ("--geometry", "X", "checked", "masks: checked (default), or stored as arrays lie", "masks"),
    ("--spacing-mm", "Z,Y,X", None, "masks: of truths whose own affine is refused", "masks"),
    ("--cases", "A,B", None, "masks: score these truths alone, by name or number", "masks"),
    ("--score", "X", "0.5", "boxes: from which score on one counts in precision", "boxes"),
    ("--patients", "FILE", None, "CSV with case (for boxes the image id) and patient", ""),
    ("--out", "DIR", None, "where results are written (default: below runs/)", ""),
)


def parse(doc: str, argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the flags; either pred or detections is given, and truth.

    Args:
        doc: The text above the flags in `--help`.
        argv: Words of the command line; None takes the program's.

    Raises:
        RecipeError: A flag is missing, or does not go with what is scored.
    """
    arguments = read_arguments(build_parser(doc), argv)
    missing = []
    if not arguments.pred and not arguments.detections:
        missing.append("--pred, or --detections for boxes")
    if not arguments.truth:
        missing.append("--truth")
    if missing:
        raise RecipeError(
            "The command line cannot be read",
            found=f"the following arguments are required: {' and '.join(missing)}",
            next_step="see --help",
        )
    scored, other = ("boxes", "masks") if arguments.detections else ("masks", "boxes")
    wrong = [
        flag
        for flag, _, default, _, is_for in FLAGS
        if is_for == other and getattr(arguments, flag[2:].replace("-", "_")) != default
    ]
    wrong += ["--pred"] * bool(arguments.pred and arguments.detections)
    wrong += ["--lits"] * (arguments.lits and scored == "boxes")
    if wrong:
        raise RecipeError(
            "A flag does not go with what is scored",
            found=f"{wrong[0]} with {'--detections' if scored == 'boxes' else '--pred'}",
            next_step=f"leave {wrong[0]} out",
        )
    if arguments.detections:
        arguments.detections = [Path(file).expanduser() for file in arguments.detections]
    return arguments


def build_parser(doc: str) -> argparse.ArgumentParser:
    """Builds the parser of the flags.

    Args:
        doc: The text above the flags in `--help`.
    """
    parser = make_parser("evaluate", doc)
    for flag, metavar, default, meaning, _ in FLAGS:
        action = "append" if flag == "--detections" else "store"
        parser.add_argument(flag, metavar=metavar, default=default, help=meaning, action=action)
    parser.add_argument(
        "--lits", action="store_true", help="numbers are LiTS': patients and 28 to 47 are known"
    )
    parser.add_argument("--debug", action="store_true", help="errors with their traceback")
    return parser
