"""Writes a detection data set as images with COCO's JSON or Pascal VOC's XML; both come back.

    python -m experiments.export_boxes --data deeplesion/liver --data-dir DIR --to voc --out OUT
    python -m experiments.ssd --data folder/boxes --data-dir OUT

The images are the 16-bit PNG files of the data set, untouched, each with its neighbours; splits,
patients and spacing stand beside the boxes.  P1 trained from Pascal VOC.
"""

from __future__ import annotations

from pathlib import Path

from lesionkeras import cli, cli_data
from lesionkeras.errors import RecipeError

FORMS = ("coco", "voc")


def main(argv: list[str] | None = None) -> None:
    """Parse, open, write."""
    parser = cli_data.build_data_parser("export_boxes", __doc__)
    parser.add_argument("--to", metavar="FORM", default="coco", help="coco (default) or voc")
    arguments = cli.read_arguments(parser, argv)
    data = cli_data.to_raw_data(arguments)
    if arguments.to not in FORMS:
        raise RecipeError("--to cannot be read", found=arguments.to, wanted=" or ".join(FORMS))
    out = data.out or Path("runs") / f"{data.title.replace('/', '-')}-{arguments.to}"
    from tfds_builders import open_builder
    from tfds_builders.folder.export import export_boxes

    builder = open_builder(data.name, data.config, data.prepared_dir, data.data_dir)
    count = export_boxes(builder, arguments.to, out)
    print(f"{count} images written to {out}; train on them with --data folder/boxes")


if __name__ == "__main__":
    cli.run_main(main)
