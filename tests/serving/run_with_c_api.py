"""Runs a SavedModel through TensorFlow's C API, the C++ loader that TensorFlow Serving uses.

A script for a fresh process: it loads the library out of the installed wheel and imports no
TensorFlow in Python.  It is a stand-in for TensorFlow Serving's loader, not TensorFlow Serving.

    python run_with_c_api.py EXPORT_DIR IN.npy OUT.npz INPUT_TENSOR NAME=OUTPUT_TENSOR...
"""

import ctypes
import importlib.util
import sys
from pathlib import Path

import numpy as np

TF_FLOAT, TF_INT32, TF_UINT8, TF_INT16 = 1, 3, 4, 5  # TF_DataType in tf_datatype.h
OUTPUT_DTYPES = {TF_FLOAT: np.float32, TF_INT32: np.int32, TF_UINT8: np.uint8}
POINTER_FUNCTIONS = (
    "TF_NewStatus",
    "TF_NewGraph",
    "TF_NewSessionOptions",
    "TF_AllocateTensor",
    "TF_TensorData",
    "TF_LoadSessionFromSavedModel",
    "TF_GraphOperationByName",
)


class Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


def open_library() -> ctypes.CDLL:
    package = Path(importlib.util.find_spec("tensorflow").origin).parent
    ctypes.CDLL(str(package / "libtensorflow_framework.so.2"), ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(package / "libtensorflow_cc.so.2"), ctypes.RTLD_GLOBAL)
    for name in POINTER_FUNCTIONS:
        getattr(library, name).restype = ctypes.c_void_p
    library.TF_Message.restype = ctypes.c_char_p
    library.TF_Dim.restype = ctypes.c_int64
    library.TF_TensorByteSize.restype = ctypes.c_size_t
    return library


def run(export_dir: str, image_hu: np.ndarray, input_name: str, output_names: list[str]) -> list:
    tf, pointer = open_library(), ctypes.c_void_p
    status, graph = pointer(tf.TF_NewStatus()), pointer(tf.TF_NewGraph())

    def check() -> None:
        if tf.TF_GetCode(status):
            raise SystemExit(tf.TF_Message(status).decode())

    def find(name: str) -> Output:
        operation, index = name.split(":")
        return Output(tf.TF_GraphOperationByName(graph, operation.encode()), int(index))

    tags = (ctypes.c_char_p * 1)(b"serve")
    options = pointer(tf.TF_NewSessionOptions())
    session = pointer(
        tf.TF_LoadSessionFromSavedModel(
            options, None, export_dir.encode(), tags, 1, graph, None, status
        )
    )
    check()
    dims = (ctypes.c_int64 * image_hu.ndim)(*image_hu.shape)
    size = ctypes.c_size_t(image_hu.nbytes)
    given = pointer(tf.TF_AllocateTensor(TF_INT16, dims, image_hu.ndim, size))
    ctypes.memmove(tf.TF_TensorData(given), image_hu.ctypes.data, image_hu.nbytes)
    outputs = (Output * len(output_names))(*map(find, output_names))
    results = (pointer * len(output_names))()
    tf.TF_SessionRun(
        session, None, (Output * 1)(find(input_name)), (pointer * 1)(given), 1,
        outputs, results, len(output_names), None, 0, None, status,
    )  # fmt: skip
    check()

    def read(tensor: int) -> np.ndarray:
        held = pointer(tensor)
        shape = [tf.TF_Dim(held, i) for i in range(tf.TF_NumDims(held))]
        raw = ctypes.string_at(tf.TF_TensorData(held), tf.TF_TensorByteSize(held))
        return np.frombuffer(raw, OUTPUT_DTYPES[tf.TF_TensorType(held)]).reshape(shape)

    return [read(tensor) for tensor in results]


def main() -> None:
    export_dir, in_file, out_file, input_name, *named = sys.argv[1:]
    names, tensors = zip(*(pair.split("=") for pair in named), strict=True)
    arrays = run(export_dir, np.ascontiguousarray(np.load(in_file)), input_name, list(tensors))
    assert "tensorflow" not in sys.modules
    np.savez(out_file, **dict(zip(names, arrays, strict=True)))


if __name__ == "__main__":
    main()
