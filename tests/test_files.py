"""Files are whole or not there."""

import json

import numpy as np
import pytest

from lesionkeras.files import replacing, write_bytes, write_json


def test_error_while_writing_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        partial.write_bytes(b"new")
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"] and path.read_bytes() == b"old"


def test_json_has_no_nan(tmp_path):
    value = {"a": np.float32("nan"), "b": (np.int64(2), [float("inf")]), "c": np.eye(2)}
    write_json(tmp_path / "m.json", value | {"d": tmp_path})
    back = json.loads((tmp_path / "m.json").read_text(), parse_constant=pytest.fail)
    wanted = {"a": None, "b": [2, [None]], "c": [[1.0, 0.0], [0.0, 1.0]], "d": tmp_path.as_posix()}
    assert back == wanted
