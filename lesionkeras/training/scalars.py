"""An epoch's numbers as TensorBoard scalars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from lesionkeras.training.log import Row


class ScalarWriter:
    """Writes rows of the log as event files.

    `tf.summary.scalar` needs the tensorboard package, which TensorFlow 2.21 no longer brings;
    `tf.summary.write` with the plug-in's metadata gives the same events without it.

    Args:
        folder: For the event files; those of an interrupted run are replaced by one with `rows`,
            so that no epoch appears twice.
        rows: Epochs that are known already.
    """

    def __init__(self, folder: Path, rows: Sequence[Row]) -> None:
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = tf.summary.create_file_writer(str(folder))
        self._metadata = tf.compat.v1.SummaryMetadata(
            plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
        )
        for row in rows:
            self.write(row)

    def write(self, row: Row) -> None:
        """Writes every column of one epoch but its number."""
        with self._writer.as_default(step=row["epoch"]):
            for name, value in row.items():
                if name != "epoch":
                    tf.summary.write(name, tf.constant(value, tf.float32), metadata=self._metadata)
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()
