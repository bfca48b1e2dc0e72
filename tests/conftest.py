"""Marks: what each needs, and what is left out where that is not there."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
collect_ignore = ["golden/torchvision_rcnn.py"]  # a program for an environment with PyTorch
sys.path.insert(0, str(ROOT))  # a bare `pytest` finds the packages of the clone too
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# `real` tests need only this; its absence is said in the header, and they are deselected.
REAL_DATA = Path(os.environ.get("LESIONKERAS_REAL_DATA", ROOT.parent / "shared" / "data"))


def pytest_addoption(parser):
    parser.addoption("--runslow", action="store_true", help="also run the tests marked slow")


def pytest_report_header(config):
    there = "there" if REAL_DATA.is_dir() else "absent: the tests marked real are left out"
    return f"real data: {REAL_DATA} ({there}); name it with LESIONKERAS_REAL_DATA"


def pytest_collection_modifyitems(config, items):
    left_out = set()
    if not REAL_DATA.is_dir():
        left_out.add("real")
    if not config.option.markexpr:
        left_out.add("gpu")
        if not config.option.runslow:
            left_out.add("slow")
    kept = [
        item
        for item in items
        if not left_out & {mark.name for mark in item.iter_markers()}
        and item.name != "test_session"  # a context manager of tf.test.TestCase, not a test
    ]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


@pytest.fixture(scope="session")
def real_data() -> Path:
    return REAL_DATA
