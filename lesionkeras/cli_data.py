"""The command line of commands on raw data, which have no recipe: verify, prepare, export_boxes."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from lesionkeras.cli import add_prepared_dir, get_prepared_dir, make_parser


@dataclass(frozen=True)
class RawData:
    """Which raw data set a command is about, and where."""

    name: str
    config: str  # "" is the first of the data set's
    data_dir: Path | None
    prepared_dir: Path
    out: Path | None  # None: the command chooses

    @property
    def title(self) -> str:
        """NAME/CONFIG, or NAME."""
        return f"{self.name}/{self.config}" if self.config else self.name


def build_data_parser(command: str, doc: str) -> argparse.ArgumentParser:
    """Builds the parser of a command on a raw data set, without a recipe; it may add flags.

    Args:
        command: Module of `experiments` that is run ("verify").
        doc: The text above the flags in `--help`.

    Returns:
        A parser for `read_arguments` and `to_raw_data`.
    """
    parser = make_parser(command, doc)
    add = parser.add_argument
    add("--data", metavar="NAME", required=True, help="data set, or data set/config")
    add("--data-dir", metavar="DIR", help="raw files of the data set")
    add_prepared_dir(parser)
    add("--out", metavar="DIR", help="where results are written (default: below runs/)")
    add("--debug", action="store_true", help="errors with their traceback")
    return parser


def to_raw_data(arguments: argparse.Namespace) -> RawData:
    """Turns the arguments of a `build_data_parser` into what they mean.

    Args:
        arguments: What `read_arguments` gave.
    """
    name, _, config = arguments.data.partition("/")
    return RawData(
        name=name,
        config=config,
        data_dir=Path(arguments.data_dir).expanduser() if arguments.data_dir else None,
        prepared_dir=Path(arguments.prepared_dir or get_prepared_dir()).expanduser(),
        out=Path(arguments.out).expanduser() if arguments.out else None,
    )
