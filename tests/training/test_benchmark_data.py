import sys

import cv2
import numpy as np
import pytest

from lesionkeras.ct.window import window_numpy
from lesionkeras.data.decode import make_stacks
from lesionkeras.errors import RunError
from lesionkeras.training.benchmark import format_report
from lesionkeras.training.benchmark_data import (
    BATCH_IMAGES,
    WINDOW_HU,
    benchmark_data,
    check_equal,
    list_triples,
    make_plain_eval,
    make_plain_stacks,
    measure_volumes,
)


@pytest.fixture
def images_dir(tmp_path):
    """A series of eight slices, one with a gap, and one of two slices apart."""
    root = tmp_path / "Images_png"
    rng = np.random.default_rng(0)
    for series, numbers in (("a", range(1, 9)), ("b", (1, 2, 4)), ("c", (10, 20))):
        (root / series).mkdir(parents=True)
        for number in numbers:
            stored = rng.integers(29_000, 37_000, (12, 16)).astype(np.uint16)
            cv2.imwrite(str(root / series / f"{number:03d}.png"), stored)
    (root / "a" / "note.txt").write_text("no slice")
    return root


def show(triples):
    return ["/".join(path.stem if path else "-" for path in triple) for triple in triples]


def test_three_ways_to_make_images_of_files(images_dir):
    kinds = list_triples(images_dir)
    assert len(kinds["every slice"]) == 13
    assert show(kinds["every slice"])[:2] == ["-/001/002", "001/002/003"]
    assert show(kinds["without neighbours"]) == ["-/004/-", "-/010/-", "-/020/-"]
    assert show(kinds["no slice twice"]) == ["001/002/003", "004/005/006"]


def test_kinds_without_images_are_left_out(images_dir):
    for name in ("a", "b"):
        for path in (images_dir / name).iterdir():
            path.unlink()
    assert set(list_triples(images_dir)) == {"every slice", "without neighbours"}


def test_peers_give_the_same_numbers(images_dir):
    files = list_triples(images_dir)["every slice"]
    plain = [np.asarray(batch) for batch in make_plain_stacks(files)]
    assert [len(batch) for batch in plain] == [BATCH_IMAGES, 5]
    stored = cv2.imread(str(files[3][2]), cv2.IMREAD_UNCHANGED).astype(int)
    wanted = window_numpy(np.clip(stored - 32768, -1024, 3071), WINDOW_HU)
    assert np.array_equal(plain[0][3, ..., 2], wanted)
    ours = list(make_stacks(files, WINDOW_HU, BATCH_IMAGES).as_numpy_iterator())
    assert all(np.array_equal(a, b) for a, b in zip(plain, ours, strict=True))
    images = np.arange(10 * 4 * 4 * 3).reshape(10, 4, 4, 3).astype(np.int16)
    batches = [np.asarray(batch) for batch in make_plain_eval(images)]
    assert np.array_equal(np.concatenate(batches), window_numpy(images, WINDOW_HU))


def test_contestants_that_differ_are_no_contestants():
    with pytest.raises(RunError) as caught:
        check_equal({"ours": lambda: [1, 2], "peer": lambda: [1, 3]}, "reading")
    assert str(caught.value) == (
        "Contestants of a benchmark differ in reading: found ours and peer, wanted the same "
        "numbers."
    )
    check_equal({"ours": lambda: [1, 2], "peer": lambda: [1, 2]}, "reading")


def test_nibabel_is_asked_only_where_it_is(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    assert measure_volumes([], 1, 1) is None
    assert capsys.readouterr().err == "nibabel is not installed: its row is left out\n"


def test_report_has_a_row_for_each_task(images_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    calls = []
    report = benchmark_data(
        images_dir, [images_dir], lambda: calls.append("build"), lambda: calls.append("read"), 1, 2
    )
    tasks = ["PNG, every slice", "PNG, without neighbours", "PNG, no slice twice"]
    assert [row["task"] for row in report["rows"]] == [*tasks, "prepared images", "LiTS"]
    assert calls == ["build", "read", "build", "read", "read", "build"]
    for row in report["rows"][:-1]:
        ours, peer = row["images_per_s"].values()
        assert ours["median"] > 0 and row["ratio"] == ours["median"] / peer["median"]
    lines = format_report(report).splitlines()
    assert lines[2].split() == ["unit", "task", "who", "a", "second", "min..max", "ratio"]
    assert lines[3].startswith("slices/s        PNG, every slice         LesionKeras ")
    assert "plain tf.data" in lines[4]
