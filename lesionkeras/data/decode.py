"""TFDS records and PNG files to stacks of slices: stored -> HU, every slice decoded once.

Neighbouring key slices share slices, and a key slice without neighbours stands for them: decoding
is what takes the time, so the last slices are kept, and what one thread decodes none does again.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from lesionkeras.boxes import to_xyxy
from lesionkeras.ct.png16 import check_png16_bytes
from lesionkeras.ct.png16 import decode_png16 as decode_stored
from lesionkeras.ct.png16_fast import decode_fast
from lesionkeras.ct.window import HU_HIGH, HU_LOW
from lesionkeras.data.loading import empty_aligned, make_window_table, window_into
from lesionkeras.errors import DataError

UNTYPED = 0  # where a data set has no lesion types; DeepLesion's are -1 (unknown) and 1 to 8
# Decoded slices that are remembered, 512 KiB each at 512 x 512 px: an example's three, a thread.
KEPT_SLICES = max(16, 4 * (os.cpu_count() or 1))


def decode_hu(png: bytes, where: str = "a prepared record") -> np.ndarray:
    """Decode one 16-bit grey PNG to HU, clipped to what CT can mean.

    Args:
        png: The file's bytes, stored = HU + 32768.
        where: What to call it in an error.

    Returns:
        int16 [H, W] in HU_LOW..HU_HIGH; scanner padding below becomes air.

    Raises:
        DataError: What `ct.png16.decode_png16` raises.
    """
    stored = decode_fast(png, check_png16_bytes(png, where))
    if stored is None:
        stored = decode_stored(png, where)
    image_hu = (stored ^ np.uint16(2**15)).view(np.int16)  # taking 32768 off is the top bit
    return np.clip(image_hu, HU_LOW, HU_HIGH, out=image_hu)


def decode_mask(png: bytes) -> np.ndarray | None:
    """Decode the mask of a record, uint8 [H, W]; None where it has none (empty)."""
    if not png:
        return None
    return np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED))


class DecodeOnce:
    """Remembers the last slices, so that each is decoded once; for use by several threads.

    Args:
        decode: Key (bytes, path) -> int16 [H, W].
        kept: How many are remembered.
    """

    def __init__(
        self, decode: Callable[[bytes], np.ndarray] = decode_hu, kept: int = KEPT_SLICES
    ) -> None:
        self._decode, self._kept = decode, kept
        self._slices: OrderedDict[bytes, Future[np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> np.ndarray:
        """Return a slice, int16 [H, W], not to be written to.

        Raises:
            DataError: What the decoder raised, whichever thread it was in.
        """
        with self._lock:
            work = self._slices.get(key)
            is_mine = work is None
            if work is None:
                work = self._slices[key] = Future()
                if len(self._slices) > self._kept:
                    self._slices.popitem(last=False)
            self._slices.move_to_end(key)
        if is_mine:
            try:
                work.set_result(self._decode(key))
            except BaseException as error:
                work.set_exception(error)
        return work.result()

    def stack(self, previous: bytes, key: bytes, following: bytes) -> np.ndarray:
        """Return three slices as int16 [H, W, 3]; an empty key stands for the key slice."""
        return cv2.merge([self.get(name or key) for name in (previous, key, following)])


_record_slices = DecodeOnce()  # of the records that are being read; a memory, not a state


def _to_bytes(*scalars: Any) -> list[bytes]:
    """What tf.numpy_function passes for scalar strings: bytes in a graph, arrays eagerly."""
    return [np.asarray(scalar, object).item() for scalar in scalars]


def decode_png16(png: Any) -> Any:
    """Return HU of one 16-bit grey PNG, clipped to what CT can mean.

    Args:
        png: Scalar string, stored = HU + 32768.

    Returns:
        int16 [H, W] in HU_LOW..HU_HIGH; scanner padding below becomes air.
    """
    image_hu = tf.numpy_function(lambda scalar: decode_hu(_to_bytes(scalar)[0]), [png], tf.int16)
    return tf.ensure_shape(image_hu, (None, None))


def stack_slices(previous: Any, key: Any, following: Any) -> Any:
    """Decode three neighbouring slices; an empty string stands for the key slice.

    Args:
        previous: Scalar string, PNG of the slice before, or empty.
        key: Scalar string, PNG of the key slice.
        following: Scalar string, PNG of the slice after, or empty.

    Returns:
        int16 [H, W, 3] HU.
    """

    def stack_bytes(*scalars: Any) -> np.ndarray:
        return _record_slices.stack(*_to_bytes(*scalars))

    stack = tf.numpy_function(stack_bytes, [previous, key, following], tf.int16)
    return tf.ensure_shape(stack, (None, None, 3))


def _read_hu(name: bytes) -> np.ndarray:
    path = os.fsdecode(name)
    try:
        png = Path(path).read_bytes()
    except OSError as error:
        raise DataError("An image cannot be read", where=path, found=str(error.strerror)) from error
    return decode_hu(png, path)


def _check_sizes(stacks: Sequence[np.ndarray], names: np.ndarray) -> None:
    for stack, row in zip(stacks, names, strict=True):
        if stack.shape != stacks[0].shape:
            raise DataError(
                "Images of one batch differ in size",
                where=os.fsdecode(row[1]),
                found="{}x{} px".format(*stack.shape[:2]),
                wanted="{}x{} px".format(*stacks[0].shape[:2]),
                next_step="prepare them, or use batches of one",
            )


def make_stacks(
    files: Sequence[tuple[Path | None, Path, Path | None]],
    window_hu: tuple[float, float],
    batch_size: int,
) -> tf.data.Dataset:
    """Return batches straight from PNG files of equal size, which need not be prepared.

    Args:
        files: Previous, key and next slice of each image; None stands for the key slice.
        window_hu: Low and high end of the window, in HU.
        batch_size: Images a batch; the last may be smaller.

    Returns:
        Batches of `image_unit` float32 [b, H, W, 3], in the order of the files.

    Raises:
        DataError: Inside TensorFlow's own error: a file is absent, `decode_hu` refuses it, or a
            batch holds images of several sizes.
    """
    slices, table = DecodeOnce(_read_hu), make_window_table(window_hu)

    def load(names: np.ndarray) -> np.ndarray:
        stacks = [slices.stack(*row) for row in names]
        _check_sizes(stacks, names)
        image_unit = empty_aligned((len(stacks), *stacks[0].shape))
        for stack, out in zip(stacks, image_unit, strict=True):
            window_into(stack, table, out)
        return image_unit

    def load_batch(names: Any) -> Any:
        image_unit = tf.numpy_function(load, [names], tf.float32)
        return tf.ensure_shape(image_unit, (names.shape[0], None, None, 3))

    names = [[str(path or "") for path in row] for row in files]
    rows = tf.data.Dataset.from_tensor_slices(names).batch(batch_size)
    return rows.map(load_batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)


def decode_example(record: dict[str, Any]) -> dict[str, Any]:
    """Return one detection example (DESIGN 4) from a TFDS record of the shared schema.

    Args:
        record: Features of `tfds_builders.detection.detection_features`.

    Returns:
        image_hu int16 [H, W, 3], boxes float32 [n, 4] xyxy px, classes int32 [n], noisy bool [n],
        lesion_types int32 [n] (UNTYPED where there are none), listed bool [n] (False where the
        config is about a list that a lesion is not on), diameters float32 [n, 8] px (the ends of
        the lesions' diameters, x before y; NaN where they are not known), spacing_mm float32 [2]
        (y, x), slice_mm float32 (from slice to slice), size_px int32 [2] (H, W), mask_png, patient,
        volume and file strings.
    """
    image_hu = stack_slices(record["png_previous"], record["png_key"], record["png_next"])
    size_px, lesions = tf.shape(image_hu)[:2], record["lesions"]
    height, width = tf.unstack(tf.cast(size_px, tf.float32))
    boxes = to_xyxy(lesions["bbox"], "rel_yxyx", (height, width), xp=tf)
    classes = tf.cast(lesions["label"], tf.int32)
    noisy = lesions.get("possibly_noisy", tf.zeros_like(classes))
    lesion_types = lesions.get("coarse_lesion_type", tf.fill(tf.shape(classes), UNTYPED))
    unknown = tf.fill([tf.shape(classes)[0], 8], float("nan"))
    return {
        "image_hu": image_hu,
        "boxes": boxes,
        "classes": classes,
        "noisy": tf.cast(noisy, tf.bool),
        "lesion_types": tf.cast(lesion_types, tf.int32),
        "listed": tf.cast(lesions.get("listed", tf.ones_like(classes)), tf.bool),
        "diameters": lesions.get("measurement_coordinates", unknown),
        "spacing_mm": record["spacing_mm"][1:],
        "slice_mm": record["spacing_mm"][0],
        "size_px": size_px,
        "mask_png": record.get("mask_png", tf.constant("")),
        "patient": record["patient"],
        "volume": record.get("volume", record["patient"]),
        "file": record["file"],
    }
