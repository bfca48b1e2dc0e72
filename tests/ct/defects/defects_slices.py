"""Defects of a DICOM series: which slices there are and where they say they lie."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from tests.ct.defects import dicom_files as files
from tests.ct.defects.cases import RIGHT, Case, Defect, accept
from tests.ct.defects.scans import Ramp, Scan, make_hu, make_ramp, make_rotation, make_scan

ENHANCED_CT = UID("1.2.840.10008.5.1.4.1.1.2.1")


def _inside(rng: np.random.Generator, num: int) -> int:
    return int(rng.integers(1, num - 1))


def make_missing_inside(rng, folder):
    scan, datasets = files.start(rng)
    first = _inside(rng, len(datasets))
    last = min(first + int(rng.integers(1, 3)), len(datasets) - 1)
    return files.finish(rng, folder, datasets[:first] + datasets[last:], scan)


def make_missing_resampled(rng, folder):
    scan = make_scan(rng)
    ramp, datasets = _make_ramp_series(rng, scan, scan.affine, np.arange(len(scan.array)))
    del datasets[_inside(rng, len(datasets))]
    return files.finish(rng, folder, datasets, ramp, resample=True)


def make_missing_end(rng, folder):
    """Nothing in the files tells: what is there is right."""
    scan, datasets = files.start(rng, optional=False)
    if rng.random() < 0.5:
        return files.finish(rng, folder, datasets[1:], scan.keep(1, len(datasets)))
    return files.finish(rng, folder, datasets[:-1], scan.keep(0, len(datasets) - 1))


def make_missing_end_counted(rng, folder):
    """Two standard tags of every file count the slices of acquisition and series."""
    scan, datasets = files.start(rng)
    for ds in datasets:
        ds.ImagesInAcquisition = ds.NumberOfSeriesRelatedInstances = len(datasets)
    del datasets[-1 if rng.random() < 0.5 else 0]
    return files.finish(rng, folder, datasets, scan)


def make_copies(rng, folder):
    scan, datasets = files.start(rng)
    copies = rng.choice(len(datasets), int(rng.integers(1, 4)), replace=False)
    return files.finish(rng, folder, datasets + [copy.copy(datasets[i]) for i in copies], scan)


def make_duplicate(rng, folder):
    _scan, datasets = files.start(rng)
    other = copy.deepcopy(datasets[int(rng.integers(len(datasets)))])
    other.SOPInstanceUID = files.make_uid(rng)
    other.InstanceNumber = int(other.InstanceNumber) + len(datasets)
    other.add_new("PixelData", "OW", datasets[0].PixelData[::-1])
    return files.finish(rng, folder, [*datasets, other], None)


def make_one_uid(rng, folder):
    """An anonymiser gave every slice one SOPInstanceUID."""
    scan, datasets = files.start(rng)
    for ds in datasets:
        ds.SOPInstanceUID = datasets[0].SOPInstanceUID
    return files.finish(rng, folder, datasets, scan)


def make_unsorted(rng, folder):
    """Names, InstanceNumber and SliceLocation each in an order of their own."""
    scan, datasets = files.start(rng)
    numbers = rng.permutation(len(datasets))
    places = rng.permutation(len(datasets))
    for ds, number, location in zip(datasets, numbers, places, strict=True):
        ds.InstanceNumber, ds.SliceLocation = int(number) + 1, str(location)
    order = rng.permutation(len(datasets))
    return files.finish(rng, folder, [datasets[i] for i in order], scan)


def make_no_numbers(rng, folder):
    """InstanceNumber is absent, empty or everywhere 1."""
    scan, datasets = files.start(rng)
    value = [None, "", "1"][int(rng.integers(3))]
    for ds in datasets:
        ds.InstanceNumber = value
        if value is None:
            del ds.InstanceNumber
    return files.finish(rng, folder, datasets, scan)


def make_wrong_thickness(rng, folder):
    """SliceThickness and SpacingBetweenSlices contradict the positions."""
    scan, datasets = files.start(rng)
    value = [0, 0.1, -2.5, 40][int(rng.integers(4))]
    for ds in datasets:
        ds.SliceThickness, ds.SpacingBetweenSlices = str(value), str(value)
    return files.finish(rng, folder, datasets, scan)


def _make_localizer(rng, datasets: list[Dataset]) -> Dataset:
    scout = copy.deepcopy(datasets[0])
    scout.SOPInstanceUID, scout.InstanceNumber = files.make_uid(rng), 0
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.ImageOrientationPatient = ["1", "0", "0", "0", "0", "-1"]
    scout.ImagePositionPatient = ["-200", "0", "300"]
    files.set_pixels(scout, rng.integers(-500, 500, (40, 30)), 1, -1024)
    return scout


def make_localizer(rng, folder):
    scan, datasets = files.start(rng)
    return files.finish(rng, folder, [_make_localizer(rng, datasets), *datasets], scan)


def make_mixed_spacing(rng, folder):
    _scan, datasets = files.start(rng)
    for ds in datasets[_inside(rng, len(datasets)) :]:
        ds.PixelSpacing = [files.to_ds(float(v) * 1.1) for v in ds.PixelSpacing]
    return files.finish(rng, folder, datasets, None)


def make_mixed_orientation(rng, folder):
    _scan, datasets = files.start(rng)
    turned = make_rotation(rng, float(rng.uniform(3, 80)))
    ds = datasets[_inside(rng, len(datasets))]
    axes = np.array(ds.ImageOrientationPatient, float).reshape(2, 3) @ turned.T
    ds.ImageOrientationPatient = [files.to_ds(v) for v in axes.ravel()]
    return files.finish(rng, folder, datasets, None)


def make_mixed_matrix(rng, folder):
    _scan, datasets = files.start(rng)
    ds = datasets[_inside(rng, len(datasets))]
    files.set_stored(ds, files.get_stored(ds)[:-2, :-1])
    return files.finish(rng, folder, datasets, None)


def _make_ramp_series(rng, scan: Scan, affine, places) -> tuple[Ramp, list[Dataset]]:
    """Return a linear field and its slices; places along the k axis need not be whole."""
    ramp = make_ramp(rng, scan, affine)
    _, r, c = np.meshgrid(*map(np.arange, scan.array.shape), indexing="ij")
    k = np.broadcast_to(np.asarray(places, float)[:, None, None], scan.array.shape)
    points_mm = np.stack([k, r, c], -1) @ affine[:3, :3].T + affine[:3, 3]
    values = Scan(np.round(ramp.at(points_mm)).astype(np.int16), scan.affine)
    datasets = files.make_series(rng, values, optional=False)
    for ds, at in zip(datasets, places, strict=True):
        position = affine[:3, 3] + affine[:3, 0] * at
        ds.ImagePositionPatient = [files.to_ds(v) for v in position]
    return ramp, datasets


def _tilt(rng, scan: Scan) -> np.ndarray:
    """Shear slices along their columns, as a gantry tilted by .5 to 25 degrees does."""
    affine = scan.affine.copy()
    down = affine[:3, 1] / np.linalg.norm(affine[:3, 1])
    degrees = rng.uniform(0.5, 25) * rng.choice([-1, 1])
    affine[:3, 0] += down * np.linalg.norm(affine[:3, 0]) * np.tan(np.deg2rad(degrees))
    return affine


def make_tilt(rng, folder):
    scan = make_scan(rng)
    _, datasets = _make_ramp_series(rng, scan, _tilt(rng, scan), np.arange(len(scan.array)))
    return files.finish(rng, folder, datasets, None)


def make_tilt_resampled(rng, folder):
    scan = make_scan(rng)
    ramp, datasets = _make_ramp_series(rng, scan, _tilt(rng, scan), np.arange(len(scan.array)))
    return files.finish(rng, folder, datasets, ramp, resample=True)


def _make_uneven(rng, num: int) -> np.ndarray:
    places = np.arange(num, dtype=float)
    places[_inside(rng, num)] += rng.uniform(0.08, 0.45) * rng.choice([-1, 1])
    return places


def make_uneven(rng, folder):
    scan = make_scan(rng)
    places = _make_uneven(rng, len(scan.array))
    return files.finish(rng, folder, _make_ramp_series(rng, scan, scan.affine, places)[1], None)


def make_uneven_resampled(rng, folder):
    scan = make_scan(rng)
    places = _make_uneven(rng, len(scan.array))
    ramp, datasets = _make_ramp_series(rng, scan, scan.affine, places)
    return files.finish(rng, folder, datasets, ramp, resample=True)


def make_two_spacings(rng, folder):
    """The lower half of the scan has twice the distance of the upper."""
    scan = make_scan(rng)
    num = len(scan.array)
    places = np.concatenate([np.arange(num // 2), num // 2 + 2.0 * np.arange(num - num // 2)])
    return files.finish(rng, folder, _make_ramp_series(rng, scan, scan.affine, places)[1], None)


def make_two_series(rng, folder):
    return _make_two_series(rng, folder, chosen=False)


def make_two_series_chosen(rng, folder):
    return _make_two_series(rng, folder, chosen=True)


def _make_two_series(rng, folder: Path, chosen: bool) -> Case:
    scan, datasets = files.start(rng)
    _, others = files.start(rng)
    for ds in others:
        ds.PatientID, ds.StudyInstanceUID = datasets[0].PatientID, datasets[0].StudyInstanceUID
    if rng.random() < 0.5:
        files.write_series(rng, others, folder / "CT" / "b")
        files.write_series(rng, datasets, folder / "CT" / "a")
    else:
        both = datasets + others
        files.write_series(rng, [both[i] for i in rng.permutation(len(both))], folder / "CT")
    options = {"series_uid": str(datasets[0].SeriesInstanceUID)} if chosen else {}
    return Case(folder / "CT", scan if chosen else None, options)


def make_two_patients(rng, folder):
    """One series UID, two patients: what an export with reused UIDs gives."""
    _scan, datasets = files.start(rng)
    for ds in datasets[_inside(rng, len(datasets)) :]:
        ds.PatientID, ds.PatientName = "Q123", "Some^Other"
    return files.finish(rng, folder, datasets, None)


def make_two_phases(rng, folder):
    """Arterial and portal phase under one series UID, at the same positions."""
    scan, datasets = files.start(rng)
    late = copy.deepcopy(datasets)
    for ds, plane in zip(late, make_hu(rng, scan.array.shape), strict=True):
        files.set_pixels(ds, plane, 1, -1024)
        ds.SOPInstanceUID, ds.AcquisitionNumber = files.make_uid(rng), 2
        ds.InstanceNumber = int(ds.InstanceNumber) + len(datasets)
    return files.finish(rng, folder, datasets + late, None)


def make_one_slice(rng, folder):
    _scan, datasets = files.start(rng)
    return files.finish(rng, folder, datasets[:1], None)


def make_constant_position(rng, folder):
    _scan, datasets = files.start(rng)
    for ds in datasets:
        ds.ImagePositionPatient = datasets[0].ImagePositionPatient
    return files.finish(rng, folder, datasets, None)


def _without(rng, folder: Path, keyword: str) -> Case:
    _scan, datasets = files.start(rng)
    everywhere = rng.random() < 0.5
    for ds in datasets if everywhere else [datasets[_inside(rng, len(datasets))]]:
        if rng.random() < 0.5:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, None)  # there, and empty
    return files.finish(rng, folder, datasets, None)


def make_no_position(rng, folder):
    return _without(rng, folder, "ImagePositionPatient")


def make_no_orientation(rng, folder):
    return _without(rng, folder, "ImageOrientationPatient")


def make_no_spacing(rng, folder):
    return _without(rng, folder, "PixelSpacing")


def make_bad_orientation(rng, folder):
    """Zero, parallel or not of length one."""
    _scan, datasets = files.start(rng)
    values = [[0] * 6, [1, 0, 0, 1, 0, 0], [0.5, 0, 0, 0, 0.5, 0], [1, 0, 0, 0.3, 0.954, 0]]
    values = values[int(rng.integers(len(values)))]
    for ds in datasets:
        ds.ImageOrientationPatient = [str(v) for v in values]
    return files.finish(rng, folder, datasets, None)


def make_bad_spacing(rng, folder):
    _scan, datasets = files.start(rng)
    value = [["0", "0"], ["-0.7", "0.7"], ["0.7"], ["1e30", "1e30"]][int(rng.integers(4))]
    for ds in datasets:
        ds.PixelSpacing = value
    return files.finish(rng, folder, datasets, None)


def make_multi_frame(rng, folder):
    """All slices in one file, with one position for all of them."""
    scan, datasets = files.start(rng, intercept=-1024)
    ds = datasets[0]
    ds.add_new("PixelData", "OW", b"".join(other.PixelData for other in datasets))
    ds.NumberOfFrames = len(datasets)
    return files.finish(rng, folder, [ds], scan)


def make_enhanced(rng, folder):
    """Enhanced CT: the geometry of each frame is in its functional groups."""
    scan, datasets = files.start(rng, intercept=-1024, optional=False)
    groups = []
    for other in datasets:
        group, position, orientation, measures, rescale = (Dataset() for _ in range(5))
        position.ImagePositionPatient = other.ImagePositionPatient
        orientation.ImageOrientationPatient = other.ImageOrientationPatient
        measures.PixelSpacing, measures.SliceThickness = other.PixelSpacing, "1"
        rescale.RescaleSlope, rescale.RescaleIntercept = "1", "-1024"
        group.PlanePositionSequence = Sequence([position])
        group.PlaneOrientationSequence = Sequence([orientation])
        group.PixelMeasuresSequence = Sequence([measures])
        group.PixelValueTransformationSequence = Sequence([rescale])
        groups.append(group)
    ds = datasets[0]
    ds.add_new("PixelData", "OW", b"".join(other.PixelData for other in datasets))
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(ds, keyword)
    del ds.RescaleSlope, ds.RescaleIntercept
    ds.SOPClassUID, ds.NumberOfFrames = ENHANCED_CT, len(datasets)
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return files.finish(rng, folder, [ds], scan)


BAD_AXES = ("no-geometry", "sheared-affine", "singular-affine", "damaged")
SLICES: dict[str, Defect] = {
    "slice missing inside": accept(make_missing_inside, "missing-slice"),
    "slice missing, resampled": accept(make_missing_resampled, RIGHT, logged="resampled"),
    "slice missing at an end": accept(make_missing_end, RIGHT, "missing-slice"),
    "slice missing at an end, counted": accept(make_missing_end_counted, "missing-slice"),
    "slice copied": accept(make_copies, RIGHT, logged="copies-left-out"),
    "two slices at one position": accept(make_duplicate, "duplicate-slice"),
    "one SOPInstanceUID for all": accept(make_one_uid, RIGHT, "duplicate-slice"),
    "unsorted": accept(make_unsorted, RIGHT),
    "no InstanceNumber": accept(make_no_numbers, RIGHT),
    "SliceThickness contradicts": accept(make_wrong_thickness, RIGHT),
    "localizer inside": accept(make_localizer, RIGHT, logged="localizer-left-out"),
    "mixed pixel spacing": accept(make_mixed_spacing, "mixed-spacing"),
    "mixed orientation": accept(make_mixed_orientation, "mixed-orientation"),
    "mixed matrix": accept(make_mixed_matrix, "mixed-matrix"),
    "gantry tilt": accept(make_tilt, "gantry-tilt"),
    "gantry tilt, resampled": accept(make_tilt_resampled, RIGHT, logged="resampled"),
    "uneven slices": accept(make_uneven, "uneven-slices"),
    "uneven slices, resampled": accept(make_uneven_resampled, RIGHT, logged="resampled"),
    "two slice distances": accept(make_two_spacings, "uneven-slices", "missing-slice"),
    "two series": accept(make_two_series, "several-series"),
    "two series, one chosen": accept(make_two_series_chosen, RIGHT),
    "two patients in a series": accept(make_two_patients, "several-patients"),
    "two phases in a series": accept(make_two_phases, "duplicate-slice", "several-series"),
    "one slice": accept(make_one_slice, "too-few-slices"),
    "one position for all": accept(make_constant_position, "duplicate-slice", "no-geometry"),
    "no ImagePositionPatient": accept(make_no_position, "no-geometry"),
    "no ImageOrientationPatient": accept(make_no_orientation, "no-geometry"),
    "no PixelSpacing": accept(make_no_spacing, "no-geometry"),
    "orientation of no direction": accept(make_bad_orientation, *BAD_AXES),
    "spacing of no length": accept(make_bad_spacing, "no-geometry", "damaged", "singular-affine"),
    "multi-frame without positions": accept(make_multi_frame, "multi-frame"),
    "enhanced CT": accept(make_enhanced, RIGHT, "multi-frame"),
}
