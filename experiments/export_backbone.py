"""Writes the ResNet of a finished run as weights that another run starts from.

    python -m experiments.export_backbone --run runs/resnet50_unet --out backbone.npz
    python -m experiments.retinanet --recipe ct --backbone resnet50 --weights backbone.npz

A network that outlines lesions teaches a detector's backbone what boxes alone take far longer to.
The file says on whom it was trained: runs that would be tested on them are refused.
"""

from __future__ import annotations

from pathlib import Path

from lesionkeras import cli
from lesionkeras.errors import RecipeError


def main(argv: list[str] | None = None) -> None:
    """Parse, load, write."""
    parser = cli.make_parser("export_backbone", __doc__)
    text = "a finished run of resnet50_unet, or of a detector"
    parser.add_argument("--run", metavar="DIR", required=True, help=text)
    parser.add_argument("--out", metavar="FILE", required=True, help="the .npz file")
    arguments = cli.read_arguments(parser, argv)
    out = Path(arguments.out).expanduser()
    if out.suffix != ".npz" or out.is_dir() or not out.absolute().parent.is_dir():
        raise RecipeError(
            "--out cannot be written",
            found=arguments.out,
            wanted="a file NAME.npz in a folder that is there",
        )
    from lesionkeras.models.trained_backbone import write_backbone

    count = write_backbone(Path(arguments.run).expanduser(), out)
    print(f"{count} arrays written to {out}; start from them with --weights {out}")


if __name__ == "__main__":
    cli.run_main(main)
