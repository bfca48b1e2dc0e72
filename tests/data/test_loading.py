import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.ct.window import window_graph, window_numpy
from lesionkeras.data.loading import (
    empty_aligned,
    make_batch_reader,
    make_window_table,
    read_in_graph,
    window_into,
)

WINDOW_HU = (-160.0, 240.0)
EVERY_HU = np.arange(-32768, 32768).astype(np.int16)


@pytest.mark.parametrize("window_hu", [WINDOW_HU, (-175.5, 250.25), (-1024.0, 3071.0)])
def test_table_is_the_window_bit_for_bit(window_hu):
    table = make_window_table(window_hu)
    assert table.dtype == np.float32
    found = table[EVERY_HU.view(np.uint16)]
    assert np.array_equal(found, window_numpy(EVERY_HU, window_hu))
    assert np.array_equal(found, window_graph(EVERY_HU, window_hu).numpy())


@pytest.mark.parametrize("shape", [(3, 5), (4, 7, 3), (1, 1, 1)])
def test_one_image(shape):
    image_hu = np.random.default_rng(0).integers(-3024, 3072, shape).astype(np.int16)
    out = empty_aligned(shape)
    window_into(image_hu, make_window_table(WINDOW_HU), out)
    assert np.array_equal(out, window_numpy(image_hu, WINDOW_HU))
    window_into(image_hu[:, ::-1], make_window_table(WINDOW_HU), out)  # not contiguous
    assert np.array_equal(out, window_numpy(image_hu[:, ::-1], WINDOW_HU))


def test_memory_that_tensorflow_takes_over():
    for _ in range(8):
        memory = empty_aligned((2, 3, 5, 3))
        assert memory.shape == (2, 3, 5, 3) and memory.dtype == np.float32
        assert memory.ctypes.data % 64 == 0 and memory.flags.c_contiguous
        memory[:] = 1.0


def test_rows_in_any_order_from_disk(tmp_path):
    images = np.random.default_rng(1).integers(-1024, 3072, (6, 4, 4, 3)).astype(np.int16)
    np.save(tmp_path / "images.npy", images)
    read = make_batch_reader(np.load(tmp_path / "images.npy", mmap_mode="r"), WINDOW_HU)
    rows = np.int64([4, 0, 4])
    wanted = window_numpy(images[rows], WINDOW_HU)
    assert np.array_equal(read(rows), wanted)
    assert np.array_equal(read_in_graph(read, tf.constant(rows), (4, 4, 3)), wanted)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
    def run(rows):
        batch = read_in_graph(read, rows, (4, 4, 3))
        assert batch.shape.as_list() == [None, 4, 4, 3]
        return batch

    assert np.array_equal(run(rows), wanted)


def test_op_determinism_may_run_it_on_many_threads():
    # TensorFlow makes maps of stateful operations sequential where operations are deterministic
    read = tf.function(lambda rows: read_in_graph(lambda r: r.astype(np.float32), rows, ()))
    graph = read.get_concrete_function(tf.TensorSpec([2], tf.int64)).graph
    stateful = {op.type for op in graph.get_operations() if op.op_def.is_stateful}
    assert stateful <= {"Placeholder"}
    assert read(tf.constant([3, 5], tf.int64)).numpy().tolist() == [3.0, 5.0]
