"""Compressed slices: lossless ones come back bit for bit, all others are refused by name."""

import copy
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from lesionkeras.ct import dicom_child, dicom_decode
from lesionkeras.ct.dicom import read_dicom
from lesionkeras.ct.dicom_decode import (
    FrameDecoder,
    check_lossless,
    join_frames,
    lend_decoder,
    split_fragments,
)
from lesionkeras.ct.dicom_files import FileEntry
from lesionkeras.ct.dicom_parse import Header
from lesionkeras.ct.dicom_slices import PixelFormat, Slice
from lesionkeras.ct.findings import CtError
from tests.ct.made_dicom import make_slices, make_stored, write_slice, write_slices

STORED = make_stored(3, 33, 40) % 3000  # 33 rows: JPEG 2000 wants 32 for its resolutions
HU = STORED.astype(np.int16) - 1024


def compress(slices: list, folder: Path, syntax: str, **options) -> Path:
    for number, ds in enumerate(slices):
        ds = copy.deepcopy(ds)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.compress(syntax, generate_instance_uid=False, **options)
        write_slice(ds, folder / f"IM{number}", syntax)
    return folder


def refuse(folder: Path) -> CtError:
    with pytest.raises(CtError) as error:
        read_dicom(folder)
    return error.value


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("is_signed", [False, True])
def test_lossless_is_exact(tmp_path, syntax, is_signed):
    if is_signed and syntax == JPEGLSLossless:
        slices = make_slices(STORED)  # the encoder takes unsigned only
    else:
        slices = make_slices(HU if is_signed else STORED, intercept="0" if is_signed else "-1024")
    volume = read_dicom(compress(slices, tmp_path, syntax))
    np.testing.assert_array_equal(volume.array, HU)
    assert volume.corrections == ()


def test_jpeg_lossless(tmp_path):
    """The syntax of most CT archives; pydicom cannot write it, GDCM can."""
    gdcm = pytest.importorskip("gdcm")
    for path in write_slices(make_slices(STORED), tmp_path).iterdir():
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change, writer = gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == JPEGLosslessSV1
    np.testing.assert_array_equal(read_dicom(tmp_path).array, HU)


def test_loss_is_refused(tmp_path):
    slices = make_slices(STORED)
    lossy = compress(slices, tmp_path / "a", JPEG2000, j2k_cr=[20])
    error = refuse(lossy)
    assert (error.name, error.where) == ("not-decodable", "IM0")
    assert error.what == "Pixels were compressed with loss"
    near = compress(slices, tmp_path / "b", JPEGLSNearLossless, jls_error=3)
    assert refuse(near).name == "not-decodable"
    exact = compress(slices, tmp_path / "c", JPEGLSNearLossless, jls_error=0)
    np.testing.assert_array_equal(read_dicom(exact).array, HU)


def test_syntaxes_by_hand():
    with pytest.raises(CtError, match="compressed with loss in a"):
        check_lossless(b"", JPEGBaseline8Bit, "a")
    with pytest.raises(CtError, match="compression is unknown"):
        check_lossless(b"", "1.2.3", "a")
    start = b"\xff\x4f\xff\x52\x00\x0c\x00\x00\x00\x01\x00\x05\x04\x04\x00"  # T.800, A.6.1
    check_lossless(start + b"\x01" + bytes(9), JPEG2000, "a")
    with pytest.raises(CtError):
        check_lossless(start + b"\x00" + bytes(9), JPEG2000, "a")


def test_a_broken_stream_is_named(tmp_path):
    folder = compress(make_slices(STORED), tmp_path, JPEGLSLossless)
    ds = pydicom.dcmread(folder / "IM1")
    whole = pydicom.encaps.get_frame(ds.PixelData, 0, number_of_frames=1)
    ds.PixelData = encapsulate([whole[: len(whole) // 4 * 2]])
    write_slice(ds, folder / "IM1", JPEGLSLossless)
    error = refuse(folder)
    assert (error.name, error.where) == ("truncated", "IM1")


def test_fragments():
    def item(data: bytes) -> bytes:
        return b"\xfe\xff\x00\xe0" + len(data).to_bytes(4, "little") + data

    end = b"\xfe\xff\xdd\xe0" + bytes(4)
    assert split_fragments(item(b"") + item(b"ab") + item(b"cd") + end, "a") == [b"ab", b"cd"]
    with pytest.raises(CtError, match="without an end"):
        split_fragments(item(b"") + item(b"ab"), "a")
    with pytest.raises(CtError, match="not in items"):
        split_fragments(b"\xff\xd8\xff\xe0" + bytes(8), "a")
    assert join_frames([b"ab", b"cd"], 1, "a") == [b"abcd"]
    assert join_frames([b"ab", b"cd"], 2, "a") == [b"ab", b"cd"]
    with pytest.raises(CtError, match="3 fragments for 2 frames"):
        join_frames([b"a", b"b", b"c"], 2, "a")


def make_part(syntax: str = RLELossless, size: tuple[int, int] = (2, 2)) -> Slice:
    zero, entry = np.zeros(3), FileEntry("a.dcm", 0, Path("a.dcm"))
    header, pixels = Header(syntax=syntax), PixelFormat(16, 16, 15, False)
    return Slice(entry, header, 0, 1, size, (1.0, 1.0), zero, zero, zero, 0, pixels)


def test_what_no_decoder_can_read():
    end = b"\xff\xd9"
    streams = [bytes(200), b"\xff" * 200, b"\xff\xd8" + bytes(99), b"\xff\x4f\xff\x51" + bytes(99)]
    with FrameDecoder() as decoder:
        for syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1):
            for stream in streams:
                with pytest.raises(CtError) as error:
                    decoder.decode(make_part(syntax, (33, 40)), stream + end)
                assert error.value.name == "not-decodable"
        frame = np.array([2, 64, 70, *([0] * 13)], "<u4").tobytes()  # and it goes on after them
        frame += b"\x03\x01\x02\x03\x04\x00" + b"\x03\x05\x06\x07\x08\x00"
        words = np.frombuffer(decoder.decode(make_part(), frame), "<u2")
        assert words.tolist() == [0x105, 0x206, 0x307, 0x408]


# PS3.5, G.2: two segments, high bytes first; a literal run of four bytes each.
FRAME = np.array([2, 64, 70, *([0] * 13)], "<u4").tobytes()
FRAME += b"\x03\x01\x02\x03\x04\x00" + b"\x03\x05\x06\x07\x08\x00"


def decode_one(decoder: FrameDecoder) -> int:
    """Decode a frame, and return the child's process id."""
    words = np.frombuffer(decoder.decode(make_part(), FRAME), "<u2")
    assert words.tolist() == [0x105, 0x206, 0x307, 0x408]
    return decoder._child.pid


def test_a_child_serves_one_series_after_the_other(tmp_path):
    dicom_decode._close_idle()
    with lend_decoder() as decoder, lend_decoder() as other:
        first = decode_one(decoder)
        assert decode_one(other) != first  # at the same time: one each
    with lend_decoder() as decoder, lend_decoder() as other:
        assert first in (decode_one(decoder), decode_one(other))
    series = compress(make_slices(STORED), tmp_path, RLELossless)
    np.testing.assert_array_equal(read_dicom(series).array, HU)
    assert len(dicom_decode._IDLE) == 2
    pids = [decoder._child.pid for decoder in dicom_decode._IDLE]
    dicom_decode._close_idle()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_child_that_refused_or_had_too_much_serves_nobody_else(monkeypatch):
    dicom_decode._close_idle()
    with lend_decoder() as decoder:
        decode_one(decoder)
        with pytest.raises(CtError, match="cannot be decoded"):
            decoder.decode(make_part(), b"x" * 80)
    assert not dicom_decode._IDLE
    with lend_decoder() as decoder:
        first = decode_one(decoder)
    dicom_decode._IDLE[0]._child.kill()  # by the system, say, for want of memory
    dicom_decode._IDLE[0]._child.wait()
    with lend_decoder() as decoder:
        assert decode_one(decoder) != first
        monkeypatch.setattr(dicom_decode, "MAX_FRAMES", 1)
    assert not dicom_decode._IDLE


def test_a_forked_process_starts_a_child_of_its_own():
    dicom_decode._close_idle()
    with lend_decoder() as decoder:
        first = decode_one(decoder)
    ours, theirs = os.pipe()
    if not (pid := os.fork()):
        with lend_decoder() as decoder:
            os.write(theirs, str(decode_one(decoder)).encode())
            decoder.close()
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(theirs)
    with os.fdopen(ours) as answer:
        assert int(answer.read()) != first
    with lend_decoder() as decoder:
        assert decode_one(decoder) == first


@pytest.mark.parametrize(
    "behaviour",
    [
        "os.abort()",
        "time.sleep(60)",
        "sys.stdout.buffer.write(b'\\0' + (1 << 60).to_bytes(8, 'little'))",
        "sys.stdout.buffer.write(b'\\0' + (8).to_bytes(8, 'little') + b'1234')",
    ],
)
def test_a_decoder_that_dies_hangs_or_lies(tmp_path, behaviour):
    script = tmp_path / "child.py"
    script.write_text(
        "import os, sys, time\nsys.stdout.buffer.write(b'R')\nsys.stdout.flush()\n"
        f"sys.stdin.buffer.read(30)\n{behaviour}\nsys.stdout.flush()\n"
    )
    start = time.monotonic()
    with FrameDecoder(script, frame_s=1.0) as decoder:
        for _ in range(2):  # the next frame gets a new child
            with pytest.raises(CtError, match=r"cannot be decoded in a\.dcm"):
                decoder.decode(make_part(), b"1234" * 20)
    assert time.monotonic() - start < 30


def test_a_child_that_does_not_start(tmp_path):
    script = tmp_path / "child.py"
    script.write_text("raise SystemExit(3)")
    with FrameDecoder(script) as decoder, pytest.raises(CtError, match="does not start"):
        decoder.decode(make_part(), b"1234")


def test_the_child_has_limits_and_says_why():
    options = {"syntax": "1.2.3", "rows": 2, "columns": 2}
    assert dicom_child.decode(dict(options), b"x") == (2, b"")
    options |= {
        "syntax": RLELossless,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": 16,
        "bits_stored": 16,
        "pixel_representation": 0,
        "pixel_keyword": "PixelData",
    }
    assert dicom_child.decode(dict(options), b"x" * 80) == (1, b"")
    # PS3.5, G.2: two segments, high bytes first; a literal run of four bytes each.
    head = np.array([2, 64, 70, *([0] * 13)], "<u4").tobytes()
    frame = head + b"\x03\x01\x02\x03\x04\x00" + b"\x03\x05\x06\x07\x08\x00"
    status, data = dicom_child.decode(dict(options), frame)
    assert (status, np.frombuffer(data, "<u2").tolist()) == (0, [0x105, 0x206, 0x307, 0x408])


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("child._limit_memory(64); bytes(1 << 29)", "MemoryError"),
        ("child.CPU_S = 0; child._limit_time(0)\nwhile True: pass", ""),
    ],
)
def test_the_child_ends_itself(code, wanted):
    """By a memory error or the system's signal for processor time."""
    load = (
        "import importlib.util as u, resource\n"
        f"spec = u.spec_from_file_location('child', {dicom_child.__file__!r})\n"
        "child = u.module_from_spec(spec); spec.loader.exec_module(child)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", load + code], capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0 and wanted in done.stderr
    assert wanted or done.returncode == -signal.SIGXCPU
