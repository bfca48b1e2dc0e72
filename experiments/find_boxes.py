"""Finds lesions as boxes with trained segmentation networks, and scores them.

    python -m experiments.find_boxes --run runs/unet --data deeplesion/liver --data-dir DEEPLESION

Every piece of the network's tumour probabilities is a box; its score is the piece's peak.  Several
--run take part together, by the mean of their probabilities.  Of a data set that a network was
trained on, only patients that all held out are used.  OUT gets boxes and truth as COCO's JSON,
tables as CSV, scores.json and report.html, as `evaluate` writes them.
--convention tight or recist_plus_5 (DeepLesion's) says what a box is; else the data set's own.
"""

from __future__ import annotations

from pathlib import Path

from lesionkeras import cli, cli_data
from lesionkeras.errors import RecipeError


def main(argv: list[str] | None = None) -> None:
    """Parse, load, find, score, write."""
    parser = cli_data.build_data_parser("find_boxes", __doc__)
    text = "a finished segmentation run; more than once for the mean of several, with --out"
    parser.add_argument("--run", metavar="DIR", action="append", required=True, help=text)
    text = "tight or recist_plus_5 (default: the data set's own)"
    parser.add_argument("--convention", metavar="X", default="", help=text)
    text = "let the networks see pixels of this size (default: as they learnt)"
    parser.add_argument("--pixel-mm", metavar="MM", default="", help=text)
    arguments = cli.read_arguments(parser, argv)
    data = cli_data.to_raw_data(arguments)
    runs = [Path(run).expanduser() for run in arguments.run]
    from lesionkeras.data.box_convention import check_convention

    check_convention(arguments.convention)
    if len(runs) > 1 and not data.out:
        raise RecipeError(
            "--out is missing", found=f"{len(runs)} --run", wanted="a folder for what they found"
        )
    from lesionkeras.report import segmenter_boxes
    from lesionkeras.report.box_evaluation import PAGE_FILE
    from lesionkeras.report.console import Counter
    from lesionkeras.report.mask_evaluation import check_folder
    from tfds_builders import open_builder

    segmenters = [segmenter_boxes.load_segmenter(run) for run in runs]
    if arguments.pixel_mm:
        pixel_mm = arguments.pixel_mm
        segmenters = [segmenter_boxes.change_pixels(each, pixel_mm) for each in segmenters]
    asked = [data.title.replace("/", "-"), arguments.convention, arguments.pixel_mm]
    out = data.out or runs[0] / "-".join(["boxes", *filter(None, asked)])
    check_folder(out)
    builder = open_builder(data.name, data.config, data.prepared_dir, data.data_dir)
    with Counter(f"Reading {data.title}") as progress:
        splits = segmenter_boxes.open_images(builder, segmenters, arguments.convention, progress)
    with Counter("Finding lesions") as progress:
        found = segmenter_boxes.detect_lesions(segmenters, splits, data.name, progress)
    lines = segmenter_boxes.score_boxes(found, splits[0], data.name, segmenters[0], out)
    for name, value, remark in lines:
        print(f"{name + ':':50}{value:>8}  {remark}".rstrip())
    print(f"Report: {out / PAGE_FILE}")


if __name__ == "__main__":
    cli.run_main(main)
