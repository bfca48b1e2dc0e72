"""What says how far reading is says it every ten seconds, and nothing where silence is asked."""

import pytest

from tests.tfds_builders.made_scans import write_lits
from tfds_builders import open_builder, progress
from tfds_builders.progress import make_progress, silenced


def test_lines_come_every_ten_seconds(monkeypatch, capfd):
    clock_s = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock_s[0])
    say = make_progress("checked", "scans")
    for done in range(1, 31):
        clock_s[0] = float(done)
        say(done, 31)
    assert capfd.readouterr().err == "checked 11 of 31 scans\nchecked 22 of 31 scans\n"


def test_silence_lasts_as_long_as_its_block(monkeypatch, capfd):
    monkeypatch.setattr(progress, "PROGRESS_STEP_S", -1.0)
    with silenced(), silenced(False):
        make_progress("checked", "scans")(1, 2)
    with silenced(False):
        make_progress("compared", "pairs")(1, 2)
    assert capfd.readouterr().err == "compared 1 of 2 pairs\n"


@pytest.mark.parametrize("wanted", [True, False])
def test_a_build_tells_what_it_reads_and_compares_only_if_asked(
    wanted, monkeypatch, tmp_path, capfd
):
    monkeypatch.setattr(progress, "PROGRESS_STEP_S", -1.0)
    for number in (2, 4):
        write_lits(tmp_path / "raw", number)
    open_builder("lits", "volumes", tmp_path / "prepared", tmp_path / "raw", progress=wanted)
    said = capfd.readouterr()
    for text in ("checked 2 of 2 scans", "compared 1 of 1 pairs of scans"):
        assert (text in said.err) is wanted
    assert wanted or not said.out
