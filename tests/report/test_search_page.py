import math

import pytest

from lesionkeras.config import SSDRecipe
from lesionkeras.errors import RunError
from lesionkeras.report.search_page import draw_search, write_search_report
from lesionkeras.training.search import SearchPlan, TrialResult
from lesionkeras.training.space import parse_space

SPACE = {"optimizer.learning_rate": "1e-4:1e-1:log", "optimizer.name": "adamw,sgd"}
PLAN = SearchPlan("ssd", SSDRecipe(), SPACE, "random", 3)


def make_result(number, score=math.nan, reason="", rate=1e-3, optimizer="adamw"):
    values = {"optimizer.learning_rate": rate, "optimizer.name": optimizer}
    status = "failed" if reason else "completed"
    folder = f"trial_{number - 1}"
    return TrialResult(number, folder, status, "val_map50", score, 12.3, reason, values)


RESULTS = [
    make_result(1, 0.25, rate=0.00123456),
    make_result(2, reason="ValueError: <no> memory", rate=0.07),
    make_result(3, 0.75, rate=0.0056789, optimizer="sgd"),
]


def test_the_page_ranks_trials_and_names_failures(tmp_path):
    page = write_search_report(tmp_path / "report.html", PLAN, RESULTS).read_text()
    places = [page.index(text) for text in (">0.005679<", ">0.001235<", ">0.07<")]
    assert places == sorted(places)
    assert "0.750" in page
    assert "1 of 3 trials failed." in page
    assert "ValueError: &lt;no&gt; memory" in page
    assert f"python -m experiments.ssd --recipe {tmp_path / 'winner.json'}" in page


def test_without_a_completed_trial_there_is_no_page(tmp_path):
    with pytest.raises(RunError, match="No trial of the search succeeded"):
        write_search_report(tmp_path / "report.html", PLAN, RESULTS[1:2])
    assert not (tmp_path / "report.html").exists()


def test_the_picture_follows_the_scores():
    dimensions = parse_space(SPACE, SSDRecipe())
    png = draw_search(dimensions, RESULTS)
    assert png.startswith(b"\x89PNG")
    assert png == draw_search(dimensions, RESULTS)
    assert png != draw_search(dimensions, [*RESULTS[:2], make_result(3, 0.5, optimizer="sgd")])
