"""What an exported network promises, as a file beside it that a machine can check.

`contract.json` stands inside the version folder (`export/1/`): TensorFlow Serving reads only
`saved_model.pb`, `variables/`, `assets/` and `assets.extra/` of it, and takes numbered folders one
level up as versions, so the file disturbs neither.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lesionkeras.errors import ExportError

CONTRACT_FILE = "contract.json"
CONTRACT_VERSION = 1
SERVING_TAG = "serve"  # tf.saved_model.SERVING: the tag that TensorFlow Serving loads

Signature = dict[str, dict[str, dict[str, Any]]]

HU_INPUT: dict[str, dict[str, Any]] = {
    "image_hu": {
        "dtype": "int16",
        "shape": [None, None, None, 3],
        "unit": "HU",
        "meaning": "[batch, height, width, (previous, key, next slice)], any size",
    }
}
SPACING_INPUT: dict[str, Any] = {
    "dtype": "float32",
    "shape": [None, 2],
    "unit": "mm",
    "meaning": "height and width of a pixel of each image",
}
LEVEL_INPUT: dict[str, Any] = {
    "dtype": "float32",
    "shape": [None],
    "unit": "HU",
    "meaning": "median of the liver of each image's scan, such as the median of what some of its "
    "slices gave; 0: not known, and found in the image alone by a first look of the network",
}
LEVEL_OUTPUT: dict[str, Any] = {
    "dtype": "float32",
    "shape": [None],
    "unit": "HU",
    "meaning": "median of the liver that was given, or found; 0: too little liver was found",
}
SPACING_3D_INPUT: dict[str, Any] = {
    **SPACING_INPUT,
    "shape": [None, 3],
    "meaning": "from slice to slice, and height and width of a pixel of each image",
}
# As slices are shown on screens and as `ct.volume` turns what it reads.
ORIENTATION = "rows follow each other to the patient's back, columns to the patient's left"
PNG_INPUT: dict[str, dict[str, Any]] = {
    "png": {
        "dtype": "string",
        "shape": [None, 3],
        "unit": "16-bit grey PNG, stored = HU + 32768",
        "meaning": "[batch, (previous, key, next slice)]; an empty string stands for the key "
        "slice; all images of a batch have one size",
    }
}


def describe_signatures(max_detections: int, has_spacing: bool = False) -> dict[str, Signature]:
    """Returns the inputs and outputs of an exported detector, signature by signature.

    Args:
        max_detections: Rows of every output, padding included.
        has_spacing: Whether the network sees a common size of pixels, so that theirs is asked for.

    Returns:
        signature -> "inputs" or "outputs" -> name -> dtype, shape (None: any), unit, meaning.

    >>> describe_signatures(50)["serving_default"]["outputs"]["boxes"]["shape"]
    [None, 50, 4]
    """
    outputs: dict[str, dict[str, Any]] = {
        "boxes": {
            "dtype": "float32",
            "shape": [None, max_detections, 4],
            "unit": "px of the input image",
            "meaning": "x1, y1, x2, y2, half-open; best score first; padding is 0",
        },
        "scores": {
            "dtype": "float32",
            "shape": [None, max_detections],
            "unit": "0..1",
            "meaning": "padding is 0",
        },
        "classes": {
            "dtype": "int32",
            "shape": [None, max_detections],
            "unit": "index into labels",
            "meaning": "padding is -1",
        },
        "num_detections": {
            "dtype": "int32",
            "shape": [None],
            "unit": "rows",
            "meaning": "rows of each image that are detections",
        },
    }
    further = {"spacing_mm": SPACING_INPUT} if has_spacing else {}
    return {
        "serving_default": {"inputs": {**HU_INPUT, **further}, "outputs": outputs},
        "serving_png": {"inputs": {**PNG_INPUT, **further}, "outputs": outputs},
    }


MASK_OUTPUT: dict[str, dict[str, Any]] = {
    "mask": {
        "dtype": "uint8",
        "shape": [None, None, None],
        "unit": "label",
        "meaning": "of the input's size: 0 background, 1 liver, 2 tumour",
    }
}
MASK_PNG_OUTPUT: dict[str, dict[str, Any]] = {
    "mask_png_bytes": {
        "dtype": "string",
        "shape": [None],
        "unit": "8-bit grey PNG of the input's size",
        "meaning": "0 background, 1 liver, 2 tumour",
    }
}


def describe_segmentation_signatures(
    num_slices: int,
    has_spacing: bool,
    probabilities: Sequence[str],
    reach_mm: float = 0.0,
    has_level: bool = False,
) -> dict[str, Signature]:
    """Returns the inputs and outputs of an exported segmenter, signature by signature.

    Args:
        num_slices: Channels of an image: slices about the key slice.
        has_spacing: Whether the network sees a common size of pixels, so that theirs is asked for.
        probabilities: What has one: "tumour", "liver" or both.
        reach_mm: How far to each side of the key slice the network sees planes a common distance
            apart, so that as many slices, and their distance, are asked for; 0: `num_slices`
            slices however far apart.
        has_level: Whether scans are moved by the level of their liver, so that it is asked for.

    Returns:
        As `describe_signatures`.

    >>> signatures = describe_segmentation_signatures(3, True, ["tumour"])
    >>> {name: tensor["shape"] for name, tensor in signatures["serving_png"]["inputs"].items()}
    {'png': [None, 3], 'spacing_mm': [None, 2]}
    """
    pixels, png = _describe_slices(num_slices, reach_mm)
    spacing = SPACING_3D_INPUT if reach_mm else SPACING_INPUT
    further: dict[str, Any] = {"spacing_mm": spacing} if has_spacing or reach_mm else {}
    level: dict[str, Any] = {}
    if has_level:
        further["liver_hu"] = LEVEL_INPUT
        level["liver_hu"] = LEVEL_OUTPUT
    return {
        "serving_default": {
            "inputs": {"image_hu": pixels, **further},
            "outputs": {**MASK_OUTPUT, **level},
        },
        "serving_probability": {
            "inputs": {"image_hu": pixels, **further},
            "outputs": _describe_probabilities(probabilities) | level,
        },
        # the ending tells TensorFlow Serving's REST interface to send base64
        "serving_png": {"inputs": {"png": png, **further}, "outputs": {**MASK_PNG_OUTPUT, **level}},
    }


def _describe_slices(num_slices: int, reach_mm: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is said of the input in HU, and of the same slices as PNGs."""
    order = "the key slice in the middle, its neighbours in order" * (num_slices > 1)
    asked = None if reach_mm else num_slices
    if reach_mm:
        order += f", an odd number in all, {reach_mm:g} mm to each side or to the volume's end"
    pixels = {**HU_INPUT["image_hu"], "shape": [None, None, None, asked]}
    pixels["meaning"] = f"[batch, height, width, slice], any size; {order or 'one slice'}"
    png = {**PNG_INPUT["png"], "shape": [None, asked]}
    png["meaning"] = f"[batch, slice]; {order or 'one slice'}" + (
        "; an empty string stands for a missing neighbour; all images of a batch have one size"
    ) * (num_slices > 1)
    for found in (pixels, png):
        found["orientation"] = ORIENTATION
    return pixels, png


def _describe_probabilities(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {
        f"{name}_probability": {
            "dtype": "float32",
            "shape": [None, None, None],
            "unit": "0..1",
            "meaning": f"{name}, of the input's size"
            + ("; tumours are part of it" if name == "liver" else ""),
        }
        for name in names
    }


def write_contract(export_dir: Path, promises: dict[str, Any]) -> None:
    """Writes `contract.json`: the promises, and the SHA-256 of every file that is there now.

    Args:
        export_dir: Version folder of the SavedModel, complete but for the contract.
        promises: JSON values; must hold "signatures" as the functions above give them.
    """
    contract = {"contract_version": CONTRACT_VERSION, **promises}
    contract["files_sha256"] = hash_files(export_dir)
    text = json.dumps(contract, indent=2, ensure_ascii=False)
    (export_dir / CONTRACT_FILE).write_text(text + "\n", encoding="utf-8")


def read_contract(export_dir: Path) -> dict[str, Any]:
    """Reads `contract.json` of an export.

    Raises:
        ExportError: It is missing, is no JSON, or is of another version.
    """
    path = export_dir / CONTRACT_FILE
    try:
        contract = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(
            "The export's contract cannot be read",
            where=str(path),
            found=str(error),
            next_step="export the run again",
        ) from error
    if contract.get("contract_version") != CONTRACT_VERSION:
        raise ExportError(
            "The export's contract is of another version",
            where=str(path),
            found=str(contract.get("contract_version")),
            wanted=str(CONTRACT_VERSION),
            next_step="export the run again",
        )
    return contract


def check_contract(export_dir: Path) -> dict[str, Any]:
    """Compares `contract.json` with the SavedModel beside it: every file, every signature.

    Args:
        export_dir: Version folder, for example `runs/NAME/export/1`.

    Returns:
        The contract.

    Raises:
        ExportError: The contract cannot be read, a file was changed, is missing or was added, or a
            signature's name, input, output, dtype or shape differs.
    """
    contract = read_contract(export_dir)
    _check_equal(export_dir, "file", contract["files_sha256"], hash_files(export_dir))
    wanted = {signature: _flatten(sides) for signature, sides in contract["signatures"].items()}
    found = read_signatures(export_dir)
    _check_equal(export_dir, "signature", dict.fromkeys(wanted), dict.fromkeys(found))
    for signature, tensors in wanted.items():
        _check_equal(export_dir, f"{signature}", tensors, found[signature])
    return contract


def hash_files(export_dir: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file below a folder but the contract, by relative path."""
    files = sorted(path for path in export_dir.rglob("*") if path.is_file())
    return {
        path.relative_to(export_dir).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.relative_to(export_dir).as_posix() != CONTRACT_FILE
    }


def read_signatures(export_dir: Path) -> dict[str, dict[str, str]]:
    """Reads the signatures out of `saved_model.pb`, without loading the network.

    Args:
        export_dir: Version folder of a SavedModel.

    Returns:
        signature -> "inputs NAME" or "outputs NAME" -> for example "int16 [None, 3]".

    Raises:
        ExportError: `saved_model.pb` is missing, damaged, or has no graph tagged "serve".
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    path = export_dir / "saved_model.pb"
    try:
        saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
        graph = next(g for g in saved_model.meta_graphs if SERVING_TAG in g.meta_info_def.tags)
    except (OSError, DecodeError, StopIteration) as error:
        raise ExportError(
            "The SavedModel cannot be read",
            where=str(path),
            found=str(error) or "no graph for serving",
            next_step="export the run again",
        ) from error

    def describe(info: Any) -> str:
        shape = None if info.tensor_shape.unknown_rank else tf.TensorShape(info.tensor_shape)
        sizes = "of unknown rank" if shape is None else str(shape.as_list())
        return f"{tf.dtypes.as_dtype(info.dtype).name} {sizes}"

    return {
        name: {
            f"{side} {key}": describe(info)
            for side, infos in (("inputs", signature.inputs), ("outputs", signature.outputs))
            for key, info in infos.items()
        }
        for name, signature in graph.signature_def.items()
        if not name.startswith("__")  # the saver's own initialiser
    }


def _flatten(sides: Signature) -> dict[str, str]:
    return {
        f"{side} {name}": f"{tensor['dtype']} {tensor['shape']}"
        for side, tensors in sides.items()
        for name, tensor in tensors.items()
    }


def _check_equal(export_dir: Path, kind: str, wanted: dict, found: dict) -> None:
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            what, facts = "is missing", ("", "")
        elif name not in wanted:
            what, facts = "is not in the contract", ("", "")
        elif wanted[name] != found[name]:
            what, facts = "differs from the contract", (str(found[name]), str(wanted[name]))
        else:
            continue
        raise ExportError(
            f"The export's {kind} {name!r} {what}",
            where=str(export_dir),
            found=facts[0],
            wanted=facts[1],
            next_step="export the run again",
        )
