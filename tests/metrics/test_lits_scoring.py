"""The organisers' own sample: reference.zip against submission.zip, three whole volumes."""

import json
import re
import time

import pytest

from lesionkeras.ct.mask_files import list_masks, pair_files
from lesionkeras.ct.mask_pairs import find_grid, read_pair
from lesionkeras.metrics.surface import MEDPY, measure_surfaces
from lesionkeras.report.mask_evaluation import evaluate_files

pytestmark = pytest.mark.real

ORGANISERS_S = 68.0  # their program on two cores, of shared/data/README.md's machine
FASTER = 20.0


@pytest.fixture(scope="module")
def folder(real_data):
    return real_data / "lits_scoring"


@pytest.fixture(scope="module")
def scored(folder):
    """The evaluation and its CPU seconds, the least of up to three: another job may disturb one."""
    seconds = []
    while not seconds or (min(seconds) > ORGANISERS_S / FASTER and len(seconds) < 3):
        start = time.process_time()
        found = evaluate_files(folder / "reference.zip", folder / "submission.zip")
        seconds.append(time.process_time() - start)
    return found, min(seconds)


def list_figures(value, path=""):
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [row for key, item in items for row in list_figures(item, f"{path}/{key}")]
    return [(path, value)]


def test_every_figure_of_the_final_program(scored, folder):
    wanted = list_figures(json.loads((folder / "organisers_scores.json").read_text()))
    found = dict(list_figures(scored[0].evaluator.summarise("lits")))
    assert len(wanted) == 179
    assert {path: found[path] for path, _ in wanted} == pytest.approx(dict(wanted), abs=1e-9)


def test_published_scores_to_the_printed_digits(scored, folder):
    text = (folder / "published_scores.txt").read_text()
    printed = [(name, value) for name, value in re.findall(r"ISBI(\w+)Complete: (\S+)", text)]
    pairs = pair_files(list_masks(folder / "reference.zip"), list_masks(folder / "submission.zip"))
    found = []
    for case, pair in zip(scored[0].evaluator.cases, pairs, strict=True):
        (tumour,) = case.corrected.tumour_objects
        grid = find_grid(pair)
        truth, prediction = (mask == 2 for mask in read_pair(pair, grid))
        used = (truth | prediction).nonzero()
        box = tuple(slice(axis.min(), axis.max() + 1) for axis in used)
        # Their ASSD is of 18-neighbour edges over all voxels, their MSSD medpy's of 6-neighbour.
        medpy = measure_surfaces(truth[box], prediction[box], grid.spacing_mm, MEDPY)
        found += [
            ("Dice", tumour.dice),
            ("VOE", tumour.voe),
            ("RVD", tumour.rvd),
            ("ASSD", tumour.assd_mm),
            ("MSSD", medpy.msd_mm),
        ]
    assert [(name, f"{value:.6f}") for name, value in found] == printed


def test_20_times_as_fast_as_the_program(scored):
    assert scored[1] < ORGANISERS_S / FASTER, f"{scored[1]:.1f} s of CPU"
