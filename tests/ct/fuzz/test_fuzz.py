"""No damaged input crashes a reader, hangs it, or comes back as a result that cannot be right.

20,000 inputs here (a minute of one core), a million with `-m slow` (an hour of one core;
`python -m tests.ct.fuzz.run` does the same, shows progress and goes on where it was stopped).
"""

import random
import time

import pytest

from lesionkeras.errors import DataError
from tests.ct.fuzz import run as fuzz
from tests.ct.fuzz.mutate import OPERATIONS, mutate, put_token, replace_number, splice
from tests.ct.fuzz.targets import BUILDERS, Target, WrongResultError

PROCESSES = 2


@pytest.fixture(scope="module")
def targets():
    return {name: build() for name, build in BUILDERS.items()}


def check(num_inputs, first=0):
    totals, findings = fuzz.run(num_inputs, PROCESSES, first=first)
    assert [f"{f.target} {f.index}: {f.what}" for f in findings] == []
    assert sum(sum(counts.values()) for counts in totals.values()) == num_inputs
    return totals


def test_20_000_inputs():
    totals = check(20_000)
    # Damage must get past the first check: some inputs stay whole, the others are refused as many
    # different things.
    for name, counts in totals.items():
        if name not in ("dicom file",):  # no bundled file is a whole CT series
            assert counts["read"], name
    assert len(totals["dicom"]) > 12 and len(totals["nifti"]) > 12


@pytest.mark.slow
def test_a_million_inputs():
    totals = check(1_000_000, first=10_000)
    assert len(totals["dicom"]) > 12 and len(totals["nifti"]) > 12


def test_undamaged_inputs_are_read(targets, tmp_path):
    for name in set(targets) - {"dicom file"}:
        folder = tmp_path / name
        folder.mkdir()
        targets[name].prepare(folder)
        targets[name].read(folder, 0, targets[name].seeds[0])
        if name != "dicom packed":  # read without what is no DICOM file, which it says by name
            with pytest.raises(DataError):  # it is this input that is read
                targets[name].read(folder, 0, b"")


def test_same_number_same_input(targets):
    for name, target in targets.items():
        assert target.make(name, 5) == target.make(name, 5)
        assert len({target.make(name, index)[1] for index in range(20)}) > 15


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_changes_bytes(operation):
    whole = bytes(range(256)) * 8
    changed = 0
    for seed in range(20):
        data = bytearray(whole)
        operation(random.Random(seed), data)
        changed += data != whole
    assert changed > 10


def test_splice_and_tokens():
    data = bytearray(b"a" * 100)
    splice(random.Random(1), data, b"b" * 64)
    assert b"bbbb" in data
    outcomes = set()
    for seed in range(20):
        data = bytearray(b"one two")
        put_token(random.Random(seed), data, [b"two", b"three"])
        outcomes.add(bytes(data))
    assert b"one three" in outcomes and len(outcomes) > 5
    assert mutate(random.Random(1), b"", [b"x"], []) == b""
    data = bytearray(b'{"x": -12.5}')
    replace_number(random.Random(1), data, [b"NaN"])
    assert data.startswith(b'{"x": ') and b"12.5" not in data


def _fault(read, tmp_path):
    target = Target([b"abc"], [], lambda folder, seed, data: read())
    return fuzz.read_one(target, tmp_path, "made", 0)


def test_outcomes(tmp_path):
    def refuse():
        raise DataError("A file is damaged")

    def return_nonsense():
        raise WrongResultError("NaN")

    assert _fault(lambda: None, tmp_path) == ("read", "")
    assert _fault(refuse, tmp_path) == ("DataError", "")
    assert _fault(lambda: 1 / 0, tmp_path)[0] == "ZeroDivisionError"
    assert "NaN" in _fault(return_nonsense, tmp_path)[1]


def test_crash_hang_and_memory_are_found(monkeypatch, tmp_path):
    def read(folder, seed, data):
        number = len(data)
        if number == 1:
            fuzz.os._exit(9)
        elif number == 2:
            try:
                while True:
                    time.process_time()
            except Exception:
                return
        elif number == 3:
            bytearray(2 << 30)

    class Numbered(Target):
        def make(self, name, index):
            return 0, bytes(index)

    monkeypatch.setitem(fuzz.BUILDERS, "made", lambda: Numbered([b""], [], read))
    counts, findings = fuzz.run_batch("made", 0, 5)
    assert counts["crash"] == 1 and findings[0].index == 1
    assert [finding.index for finding in findings] == [1, 2, 3]
    assert "MemoryError" in findings[2].what
    assert {name: counts[name] for name in ("hang", "read")} == {"hang": 1, "read": 1}


def test_a_suspended_run_sees_no_hang_and_a_sleeping_reader_is_one(monkeypatch, tmp_path):
    monkeypatch.setattr(fuzz, "HANG_WALL_S", 0.4)
    before = fuzz.signal.signal(fuzz.signal.SIGALRM, fuzz._watch)
    try:
        assert _fault(lambda: time.sleep(0.3), tmp_path) == ("read", "")  # one alarm
        assert _fault(lambda: time.sleep(5), tmp_path)[0] == "hang"
    finally:
        fuzz.signal.signal(fuzz.signal.SIGALRM, before)


def test_plan_shares_out_and_state_goes_on(monkeypatch, tmp_path):
    jobs = fuzz.plan(100_000)
    assert sum(stop - start for _, start, stop in jobs) == 100_000
    assert {name for name, _, _ in jobs} == set(fuzz.SHARES)
    asked = []

    def read(job):
        asked.append(job)
        return job, fuzz.Counter(read=job[2] - job[1]), []

    monkeypatch.setattr(fuzz, "_run_job", read)
    first = fuzz.run(10_000, 1, tmp_path)
    assert len(asked) == len(fuzz.plan(10_000))
    assert fuzz.run(10_000, 1, tmp_path) == first
    assert len(asked) == len(fuzz.plan(10_000))


def test_show_writes_an_input(monkeypatch, tmp_path, targets):
    path = tmp_path / "input"
    monkeypatch.setattr("sys.argv", ["run", "--show", "png", "7", "--out", str(path)])
    assert fuzz.main() == 0
    assert path.read_bytes() == targets["png"].make("png", 7)[1]
