import json

import pytest

from lesionkeras.training.benchmark import (
    compare,
    describe_machine,
    format_report,
    measure_rates,
)


class Clock:
    """A clock that only work moves."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_rates_are_measured_in_alternating_turns_after_warm_up(capsys):
    clock, calls = Clock(), []

    def make_step(name: str, cost_s: float):
        def step() -> None:
            calls.append(name)
            # the first two calls are slow: they must not count
            clock.now_s += 100.0 if calls.count(name) <= 2 else cost_s

        return step

    contestants = {"ours": make_step("ours", 0.5), "peer": make_step("peer", 2.0)}
    rates = measure_rates(contestants, 8, steps=3, repeats=2, title="toys", clock=clock)
    assert rates == {"ours": [16.0, 16.0], "peer": [4.0, 4.0]}
    turns = ["ours"] * 2 + ["peer"] * 2 + ["ours"] * 3 + ["peer"] * 6 + ["ours"] * 3
    assert calls == turns
    said = capsys.readouterr().err.splitlines()
    assert said == ["Measuring toys", "toys: turn 1 of 2 of each, about 8 s left"]


def test_compare_gives_medians_spread_and_ratio():
    result = compare({"ours": [9.0, 6.0, 7.0], "peer": [2.0, 14.0, 4.0]})
    assert result["images_per_s"]["ours"] == {"median": 7.0, "min": 6.0, "max": 9.0}
    assert result["images_per_s"]["peer"]["median"] == 4.0
    assert result["ratio"] == 1.75


def test_machine_is_described_without_its_name():
    import platform

    machine = describe_machine()
    assert machine["cores"] >= 1 and machine["cpu"]
    assert platform.node() not in json.dumps(machine)


def test_report_names_commit_machine_and_figures():
    rates = {"ours": [4.0, 5.0, 6.0], "peer": [2.0, 2.0, 2.5]}
    text = format_report(
        {
            "benchmark": "detection",
            "settings": {"batch_size": 8},
            "environment": {"git_commit": "abc123"},
            "machine": {"cpu": "A CPU", "cores": 2, "gpus": ["A GPU"]},
            "rows": [{"policy": "float32", "task": "inference", **compare(rates)}],
        }
    )
    head, place, _, ours, peer = text.splitlines()
    assert head == "detection: batch_size 8"
    assert place == "commit abc123; A CPU, 2 cores, A GPU"
    assert ours.split() == ["float32", "inference", "ours", "5.00", "4.00..6.00", "2.50"]
    assert peer.split() == ["peer", "2.00", "2.00..2.50"]


@pytest.mark.parametrize(
    ("precision", "capabilities", "policies"),
    [
        ("auto", [], ["float32"]),
        ("auto", [(6, 1)], ["float32"]),
        ("auto", [(7, 5)], ["float32", "mixed_float16"]),
        ("auto", [(9, 0), (8, 0)], ["float32", "mixed_bfloat16", "mixed_float16"]),
        ("bfloat16", [], ["mixed_bfloat16"]),
    ],
)
def test_sixteen_bits_only_where_the_hardware_has_them(precision, capabilities, policies):
    from lesionkeras.training.benchmark_detection import list_policies

    assert list_policies(precision, capabilities) == policies


def test_random_batch_looks_like_the_pipelines():
    import dataclasses

    import numpy as np

    from lesionkeras.config import DataConfig, SSDRecipe, TrainConfig
    from lesionkeras.training.benchmark_detection import make_batch

    recipe = SSDRecipe(
        data=DataConfig(image_size_px=96, max_boxes=7), train=TrainConfig(batch_size=3)
    )
    images, targets = make_batch(recipe)
    assert images.shape == (3, 96, 96, 3) and images.dtype == "float32"
    boxes, classes = targets["boxes"].numpy(), targets["classes"].numpy()
    assert boxes.shape == (3, 7, 4) and boxes.dtype == np.float32 and classes.dtype == np.int32
    real = classes >= 0
    assert (real.sum(axis=1) >= 1).all() and (real.sum(axis=1) <= 5).all()
    assert (boxes[~real] == 0).all() and (classes[~real] == -1).all()
    assert (boxes[real][:, 2:] > boxes[real][:, :2]).all()
    assert boxes.min() >= 0 and boxes.max() <= 96
    other = dataclasses.replace(recipe, train=TrainConfig(batch_size=3, seed=1))
    assert not np.array_equal(images, make_batch(other)[0])
