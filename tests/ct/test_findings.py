import ast
import logging
import re
from pathlib import Path

import pytest

from lesionkeras.ct.findings import CORRECTIONS, ERRORS, Correction, CtError, make_correction
from lesionkeras.errors import DataError

CT = Path(__file__).resolve().parents[2] / "lesionkeras" / "ct"


def test_text_and_name():
    error = CtError(
        "missing-slice",
        "A slice is missing",
        where="series",
        found="5 mm between 7.dcm and 9.dcm",
        wanted="2.5 mm",
        next_step="pass --resample",
    )
    assert isinstance(error, DataError)
    assert error.name == "missing-slice"
    assert str(error) == (
        "A slice is missing in series: found 5 mm between 7.dcm and 9.dcm, wanted 2.5 mm; "
        "pass --resample."
    )


def test_unknown_names_are_a_mistake_of_ours():
    with pytest.raises(AssertionError, match="missing_slice"):
        CtError("missing_slice", "A slice is missing")
    with pytest.raises(AssertionError, match="turned"):
        make_correction("turned", "")


def test_correction_is_logged_once(caplog):
    with caplog.at_level(logging.INFO, logger="lesionkeras.ct"):
        correction = make_correction("copies-left-out", "2 of 40 files")
    assert correction == Correction("copies-left-out", "2 of 40 files")
    assert [(r.name, r.levelname, r.message) for r in caplog.records] == [
        ("lesionkeras.ct", "INFO", "copies-left-out: 2 of 40 files")
    ]


@pytest.mark.parametrize("table", [ERRORS, CORRECTIONS])
def test_tables_read_well(table):
    for name, meaning in table.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
        assert re.match(r"[a-z0-9]|CT|DICOM|HU|NIfTI", meaning)
        assert not meaning.endswith(".")
    assert len(set(table.values())) == len(table)


def test_names_in_the_code_are_in_the_tables():
    """A name that no table has would only be found when the defect is met."""
    used = set()
    for path in CT.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    used |= {(node.func.id, first.value)}
    errors = {name for function, name in used if function == "CtError"}
    corrections = {name for function, name in used if function == "make_correction"}
    assert errors and errors <= set(ERRORS)
    assert corrections and corrections <= set(CORRECTIONS)
