"""All classes of defect."""

from tests.ct.defects.cases import Defect
from tests.ct.defects.defects_elements import ELEMENTS
from tests.ct.defects.defects_files import FILES
from tests.ct.defects.defects_masks import MASKS
from tests.ct.defects.defects_nifti import NIFTI
from tests.ct.defects.defects_nifti_bytes import NIFTI_BYTES
from tests.ct.defects.defects_pixels import PIXELS
from tests.ct.defects.defects_png import PNGS
from tests.ct.defects.defects_slices import SLICES

GROUPS: dict[str, dict[str, Defect]] = {
    "slices of a DICOM series": SLICES,
    "pixels of DICOM": PIXELS,
    "elements of DICOM": ELEMENTS,
    "folders, archives, links": FILES,
    "geometry and values of NIfTI": NIFTI,
    "bytes of NIfTI": NIFTI_BYTES,
    "masks": MASKS,
    "PNG": PNGS,
}
DEFECTS = {name: defect for group in GROUPS.values() for name, defect in group.items()}
assert len(DEFECTS) == sum(map(len, GROUPS.values())), "two classes share a name"
