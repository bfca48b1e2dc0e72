"""Finds lesions as boxes with a trained segmentation network, and scores them.

    python -m experiments.find_boxes --run runs/unet --data deeplesion/liver --data-dir DEEPLESION

Every piece of the network's tumour probabilities is a box; its score is the piece's peak.  Of a
data set that the network was trained on, only patients that it held out are used.  OUT gets boxes
and truth as COCO's JSON, tables as CSV, scores.json and report.html, as `evaluate` writes them.
--convention tight or recist_plus_5 (DeepLesion's) says what a box is; else the data set's own.
"""

from __future__ import annotations

from pathlib import Path

from lesionkeras import cli, cli_data


def main(argv: list[str] | None = None) -> None:
    """Parse, load, find, score, write."""
    parser = cli_data.build_data_parser("find_boxes", __doc__)
    parser.add_argument("--run", metavar="DIR", required=True, help="a finished segmentation run")
    text = "tight or recist_plus_5 (default: the data set's own)"
    parser.add_argument("--convention", metavar="X", default="", help=text)
    arguments = cli.read_arguments(parser, argv)
    data, run = cli_data.to_raw_data(arguments), Path(arguments.run).expanduser()
    from lesionkeras.report import segmenter_boxes
    from lesionkeras.report.box_evaluation import PAGE_FILE
    from lesionkeras.report.console import Counter
    from lesionkeras.report.mask_evaluation import check_folder
    from tfds_builders import open_builder

    segmenter = segmenter_boxes.load_segmenter(run)
    out = data.out or run / f"boxes-{data.title.replace('/', '-')}"
    check_folder(out)
    builder = open_builder(data.name, data.config, data.prepared_dir, data.data_dir)
    with Counter(f"Reading {data.title}") as progress:
        split = segmenter_boxes.open_images(builder, segmenter, arguments.convention, progress)
    with Counter("Finding lesions") as progress:
        found = segmenter_boxes.detect_lesions(segmenter, split, progress)
    for name, value, remark in segmenter_boxes.score_boxes(found, split, segmenter, out):
        print(f"{name + ':':50}{value:>8}  {remark}".rstrip())
    print(f"Report: {out / PAGE_FILE}")


if __name__ == "__main__":
    cli.run_main(main)
