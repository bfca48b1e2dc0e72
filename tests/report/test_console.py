import pytest

from lesionkeras.report import console
from lesionkeras.report.console import Counter


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_nothing_is_said_below_two_seconds(clock, capsys):
    with Counter("Testing") as count:
        clock[0] += 1.9
        count(5, 10)
    assert capsys.readouterr().out == ""


def test_a_line_every_ten_seconds_in_a_file_with_the_time_left(clock, capsys):
    with Counter("Testing") as count:
        for second in range(1, 21):
            clock[0] = 100.0 + second
            count(second, 40)
    assert capsys.readouterr().out.splitlines() == [
        "Testing: 2 of 40, about 38 s left",
        "Testing: 12 of 40, about 28 s left",
    ]
