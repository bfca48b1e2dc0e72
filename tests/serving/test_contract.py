import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lesionkeras.errors import ExportError
from lesionkeras.recipe import digest
from lesionkeras.serving.contract import check_contract, describe_signatures


@pytest.fixture
def export_dir(exported: SimpleNamespace, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.dir, tmp_path / "1"))


def test_contract_says_what_a_client_needs(exported: SimpleNamespace):
    contract = check_contract(exported.dir)
    assert contract["labels"] == list(exported.labels)
    assert contract["operating_threshold"] == 0.37
    assert contract["image_size_px"] == 64
    assert contract["window_hu"] == [-100.0, 300.0]
    assert contract["recipe_digest"] == digest(exported.recipe)
    assert contract["metadata"] == {"git_commit": "abc"}
    assert contract["packages"]["tensorflow"].startswith("2.")
    assert contract["signatures"] == describe_signatures(12)
    assert "variables/variables.index" in contract["files_sha256"]
    assert "assets.extra/tf_serving_warmup_requests" in contract["files_sha256"]


def change(export_dir: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    path = export_dir / "contract.json"
    contract = json.loads(path.read_text())
    edit(contract["signatures"])
    path.write_text(json.dumps(contract))


def test_signature_differences_are_named(export_dir: Path):
    default = "serving_default"
    cases: list[tuple[Callable, str]] = [
        (
            lambda s: s[default]["inputs"]["image_hu"].update(dtype="float32"),
            r"'inputs image_hu' differs.*found int16 \[None, None, None, 3\], wanted float32 \[N",
        ),
        (
            lambda s: s[default]["outputs"]["boxes"].update(shape=[None, 13, 4]),
            r"'outputs boxes' differs.*found float32 \[None, 12, 4\], wanted .*13, 4\]",
        ),
        (lambda s: s[default]["outputs"].pop("scores"), "'outputs scores' is not in the contract"),
        (lambda s: s[default]["outputs"].update(m=s[default]["outputs"]["boxes"]), "m' is missing"),
        (lambda s: s.pop("serving_png"), "signature 'serving_png' is not in the contract"),
    ]
    original = (export_dir / "contract.json").read_text()
    for edit, text in cases:
        (export_dir / "contract.json").write_text(original)
        change(export_dir, edit)
        with pytest.raises(ExportError, match=text):
            check_contract(export_dir)


def test_changed_missing_and_added_files_are_named(export_dir: Path):
    weights = export_dir / "variables/variables.data-00000-of-00001"
    original = weights.read_bytes()
    weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    with pytest.raises(ExportError, match=r"file 'variables/.*00001' differs from the contract"):
        check_contract(export_dir)
    weights.unlink()
    with pytest.raises(ExportError, match=r"file 'variables/.*00001' is missing"):
        check_contract(export_dir)
    weights.write_bytes(original)
    (export_dir / "more").touch()
    with pytest.raises(ExportError, match="file 'more' is not in the contract"):
        check_contract(export_dir)


def test_unreadable_contract_and_model_are_named(export_dir: Path, tmp_path: Path):
    from lesionkeras.serving.contract import read_signatures

    with pytest.raises(ExportError, match=r"contract cannot be read in .*nowhere/contract.json"):
        check_contract(tmp_path / "nowhere")
    (export_dir / "saved_model.pb").write_bytes(b"\xff not a protobuf")
    with pytest.raises(ExportError, match=r"SavedModel cannot be read in .*saved_model.pb"):
        read_signatures(export_dir)
    (export_dir / "contract.json").write_text('{"contract_version": 0}')
    with pytest.raises(ExportError, match=r"another version in .*: found 0, wanted 1; export"):
        check_contract(export_dir)
