"""Every class of defect is refused by its name, or read as what is true; nothing clean is refused.

20 instances of each class (4 where a decoder's process is started) and 300 clean variations here,
two minutes of one core; all 100 and 1,000 with `-m slow`.  `python -m tests.ct.defects.bench`
prints the table with SimpleITK's and nibabel's outcomes beside ours.
"""

import os

import numpy as np
import pytest

from lesionkeras.ct.findings import CORRECTIONS, ERRORS
from tests.ct.defects import bench, nifti_files, scans
from tests.ct.defects.cases import RIGHT, accept, make_rng
from tests.ct.defects.clean import CLEAN
from tests.ct.defects.outcomes import Outcome, judge, made, read
from tests.ct.defects.table import DEFECTS, GROUPS

# Defects that pydicom, which writes them, warns of.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Invalid value for VR CS:UserWarning"),
    pytest.mark.filterwarnings("ignore:The value length .* exceeds the maximum:UserWarning"),
]

NUM_FAST, NUM_ALL = 20, 100
# Each takes half a second for a decoder's process.
COMPRESSED = ("RLE", "JPEG lossless", "JPEG 2000 lossless", "JPEG-LS", "compressed stream cut")
NUM_FAST_COMPRESSED = 4
NUM_CLEAN_FAST, NUM_CLEAN = 300, 1000


def find_faults(name, defect, seeds):
    faults = ((seed, judge(defect, read("ours", defect, name, seed))) for seed in seeds)
    return [f"seed {seed}: {fault}" for seed, fault in faults if fault]


def count_fast(name):
    return NUM_FAST_COMPRESSED if name in COMPRESSED else NUM_FAST


@pytest.mark.parametrize("name", DEFECTS)
def test_defect_is_named_or_read_right(name):
    assert find_faults(name, DEFECTS[name], range(count_fast(name))) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", DEFECTS)
def test_defect_is_named_or_read_right_in_all_instances(name):
    assert find_faults(name, DEFECTS[name], range(count_fast(name), NUM_ALL)) == []


def find_alarms(seeds):
    alarms = []
    for seed in seeds:
        outcome = read("ours", CLEAN, "clean", seed)
        if outcome.kind != "right":
            alarms.append(f"seed {seed}: {outcome}")
    return alarms


def test_nothing_clean_is_refused():
    assert find_alarms(range(NUM_CLEAN_FAST)) == []


@pytest.mark.slow
def test_nothing_clean_is_refused_in_a_thousand():
    assert find_alarms(range(NUM_CLEAN_FAST, NUM_CLEAN)) == []


def test_there_are_classes_enough_and_their_outcomes_exist():
    assert len(DEFECTS) >= 40
    for name, defect in DEFECTS.items():
        if name not in GROUPS["PNG"]:
            assert defect.accepted <= {RIGHT, *ERRORS}, name
        assert not defect.logged or defect.logged in CORRECTIONS, name


def test_same_seed_makes_the_same_files():
    def make(seed):
        with made(DEFECTS["slice copied"], "slice copied", seed) as case:
            files = sorted(path for path in case.path.rglob("*") if path.is_file())
            return [path.read_bytes() for path in files]

    assert make(3) == make(3)
    assert make(3) != make(4)


def test_comparison_finds_what_is_wrong():
    scan = scans.make_scan(np.random.default_rng(1), degrees=12)
    assert scans.find_fault(scan.array, scan.affine, scan) == ""
    turned = scan.array.transpose(2, 0, 1)[::-1]
    affine = scan.affine[:, [2, 0, 1, 3]].copy()
    affine[:3, 3] += affine[:3, 0] * (len(turned) - 1)
    affine[:3, 0] *= -1
    assert scans.find_fault(turned, affine, scan) == ""
    assert scans.find_fault(turned[::-1], affine, scan).startswith("values")
    assert scans.find_fault(scan.array + 2, scan.affine, scan) == "values 2 off"
    assert scans.find_fault(scan.array[:-1], scan.affine, scan).startswith("shape")
    moved = scan.affine.copy()
    moved[0, 3] += 0.06
    assert scans.find_fault(scan.array, moved, scan) == "corners 0.06 mm off"
    assert scans.find_fault(scan.array, scan.affine * [[1.1], [1], [1], [1]], scan) != ""


def test_ramp_finds_a_place_that_is_wrong():
    scan = scans.make_scan(np.random.default_rng(2))
    ramp = scans.make_ramp(np.random.default_rng(3), scan)
    index = np.stack(np.meshgrid(*map(np.arange, scan.array.shape), indexing="ij"), -1)
    values = np.round(ramp.at(index @ scan.affine[:3, :3].T + scan.affine[:3, 3]))
    assert scans.find_fault(values, scan.affine, ramp) == ""
    assert scans.find_fault(values[::-1], scan.affine, ramp).startswith("values")
    assert scans.find_fault(values[:3], scan.affine, ramp).startswith("only")


@pytest.mark.parametrize("hand", range(0, 48, 5))
def test_made_quaternion_gives_the_rotation_back(hand):
    rng = np.random.default_rng(hand)
    rotation = scans.make_rotation(rng, 30) @ scans.HANDS[hand]
    rotation[:, 2] *= np.sign(np.linalg.det(rotation))
    b, c, d = nifti_files.make_quaternion(rotation)
    a = np.sqrt(max(0, 1 - b * b - c * c - d * d))
    again = [  # nifti1.h, method 2
        [a * a + b * b - c * c - d * d, 2 * b * c - 2 * a * d, 2 * b * d + 2 * a * c],
        [2 * b * c + 2 * a * d, a * a + c * c - b * b - d * d, 2 * c * d - 2 * a * b],
        [2 * b * d - 2 * a * c, 2 * c * d + 2 * a * b, a * a + d * d - c * c - b * b],
    ]
    np.testing.assert_allclose(again, rotation, atol=1e-7)


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (Outcome("refused", "truncated"), ""),
        (Outcome("refused", "damaged"), "refused as damaged"),
        (Outcome("right", "", ("squeezed",)), ""),
        (Outcome("right"), "squeezed is not among the corrections ()"),
        (Outcome("silent", "values 3 off"), "silent: values 3 off"),
        (Outcome("hung"), "hung: "),
    ],
)
def test_judge(outcome, fault):
    assert judge(accept(None, RIGHT, "truncated", logged="squeezed"), outcome) == fault


def test_judge_wants_a_refusal():
    fault = judge(accept(None, "truncated"), Outcome("right"))
    assert fault == "read, though it must be refused"


def test_bench_prints_three_readers(capsys, tmp_path, monkeypatch):
    path = tmp_path / "bench.md"
    words = ["bench", "--seeds", "2", "--clean", "2", "--only", "truncated", "clean", "--markdown"]
    monkeypatch.setattr("sys.argv", [*words, str(path)])
    assert bench.main() == 0
    text = capsys.readouterr().out
    assert path.read_text() in text
    assert "| truncated NIfTI | refused | silently wrong | refused |" in text
    assert "| ours, clean files | 2 | 0 | 0 | 0 | 0 | 0 | 2 |" in text
    assert "every outcome is one that is accepted" in text


def _crash(rng, folder):
    os._exit(11)


def test_bench_counts_a_crash():
    outcomes = bench.run_class("ours", accept(_crash, RIGHT), "crash", 2)
    assert [outcome.kind for _, outcome, _ in outcomes] == ["crashed", "crashed"]


def test_bench_goes_on_where_it_was_stopped(monkeypatch, tmp_path):
    state, asked, said = tmp_path / "state.jsonl", [], []

    def read_some(reader, defect, name, num_seeds, first=0):
        asked.append((reader, name, first, num_seeds))
        return [(seed, Outcome("refused", "truncated"), "") for seed in range(first, num_seeds)]

    monkeypatch.setattr(bench, "run_class", read_some)
    monkeypatch.setattr(bench, "PROGRESS_S", -1.0)
    rows = bench.list_rows(20, 30, ["truncated NIfTI", "clean"])
    results = bench.run(rows, state, said.append)
    assert len(results) == 3 * (20 + 30) and len(asked) == len(said) == 3 * 2 * bench.ROUNDS
    assert [first for _, name, first, _ in asked if name == rows[0].name][::3] == [*range(0, 20, 2)]
    assert said[0].startswith("1 of 60 batches, about 0 minutes left")
    state.write_text(state.read_text()[:-200])  # killed while it wrote
    asked.clear()
    assert sorted(map(str, bench.run(rows, state, said.append))) == sorted(map(str, results))
    assert 1 <= len(asked) <= 3
    assert len(bench.run(bench.list_rows(10, 10, ["truncated NIfTI"]), state, said.append)) == 60


def test_generator_of_an_instance_depends_on_class_and_seed():
    draws = {make_rng(name, seed).integers(2**62) for name in ("a", "b") for seed in (0, 1)}
    assert len(draws) == 4
