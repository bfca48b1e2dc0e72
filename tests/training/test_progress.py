import io

import pytest

from lesionkeras.training import progress
from lesionkeras.training.progress import Progress, format_duration


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_file_gets_a_line_an_epoch(clock):
    stream = io.StringIO()
    bar = Progress(75, 20, "val_map50", stream)
    for end, row in enumerate(({"loss": 2.5}, {"loss": 0.834, "val_map50": 0.412}, {"loss": 0.7})):
        bar.show_step(end + 1, 1, 9.0)
        clock[0] = 20 + 8.1 * end  # the first epoch compiles: 20 s
        bar.show_epoch({"epoch": end + 1, **row})
    bar.close()
    assert stream.getvalue().splitlines() == [
        "epoch 1/75  loss 2.5  20 s/epoch  about 25 min left",
        "epoch 2/75  loss 0.834  val_map50 0.412  8.1 s/epoch  about 10 min left",
        "epoch 3/75  loss 0.7  val_map50 0.412  8.1 s/epoch  about 10 min left",
    ]


def test_terminal_line_renews_itself_twice_a_second(clock):
    stream = _Terminal()
    bar = Progress(2, 20, "val_map50", stream)
    for clock[0] in (1.0, 1.2, 1.6):
        bar.show_step(1, int(clock[0] * 10), 3.0)
    bar.show_epoch({"epoch": 1, "loss": 3.0})
    bar.close()
    lines = stream.getvalue().split("\r")
    assert [line.removesuffix("\x1b[K").strip() for line in lines[1:3]] == [
        "epoch 1/2  step 10/20  loss 3",
        "epoch 1/2  step 16/20  loss 3  about 2 s left",  # 6 steps in .6 s; 24 are left
    ]
    assert len(lines) == 4 and lines[3].startswith("epoch 1/2  loss 3  1.6 s/epoch  about 2 s left")
    assert stream.getvalue().count("\n") == 1 and stream.getvalue().endswith("\n")


def test_a_file_hears_of_a_long_epoch(clock):
    stream = io.StringIO()
    bar = Progress(2, 10, "val_map50", stream)
    for step in range(1, 10):
        clock[0] = 10.0 * step
        bar.show_step(1, step, 3.0)
    clock[0] = 100.0
    bar.show_epoch({"epoch": 1, "loss": 3.0})
    clock[0] = 110.0
    bar.show_step(2, 1, 3.0)  # 10 s after a line: silent
    assert stream.getvalue().splitlines() == [
        "epoch 1/2  step 3/10  loss 3  about 3 min left",  # 10 s a step, 17 are left
        "epoch 1/2  step 6/10  loss 3  about 2 min left",
        "epoch 1/2  step 9/10  loss 3  about 2 min left",
        "epoch 1/2  loss 3  100 s/epoch  about 2 min left",
    ]


def test_a_budget_counts_instead_of_epochs(clock):
    stream, shares = io.StringIO(), [0.1, 0.3, 1.0]
    bar = Progress(1_000_000, 20, "val_tumour_dice", stream, share=lambda: shares[0])
    for epoch, now in ((1, 30.0), (2, 60.0)):
        clock[0] = now
        shares.pop(0)
        bar.show_epoch({"epoch": epoch, "loss": 0.5, "val_tumour_dice": 0.25})
    assert stream.getvalue().splitlines() == [
        # .2 of the budget in 30 s since the run, .1 used, was taken up
        "epoch 1  30% of the budget  loss 0.5  val_tumour_dice 0.25  30 s/epoch  about 2 min left",
        "epoch 2  100% of the budget  loss 0.5  val_tumour_dice 0.25  30 s/epoch",
    ]


def test_durations():
    seconds = (0.2, 59.4, 60, 3600, 3600 * 26 + 59)
    wanted = ["0 s", "59 s", "1 min", "1 h 0 min", "26 h 1 min"]
    assert [format_duration(s) for s in seconds] == wanted
