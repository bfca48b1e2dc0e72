"""Records whose bytes depend on their content alone.

A `tf.train.Example` is a map, and protobuf writes a map in an order that changes from process to
process.  Two builds of the same data, or a build and one by Beam, would differ in every record.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tensorflow_datasets.core import example_serializer


class StableSerializer(example_serializer.ExampleSerializer):
    """TFDS's serializer with the features in the order of their names."""

    def serialize_example(self, example: Any) -> bytes:
        """Serialize one example."""
        return self.get_tf_example(example).SerializeToString(deterministic=True)


@contextlib.contextmanager
def stable_records() -> Iterator[None]:
    """Let TFDS write with `StableSerializer` inside the block."""
    theirs = example_serializer.ExampleSerializer
    example_serializer.ExampleSerializer = StableSerializer
    try:
        yield
    finally:
        example_serializer.ExampleSerializer = theirs
