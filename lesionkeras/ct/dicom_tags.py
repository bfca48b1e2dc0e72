"""Elements and syntaxes of DICOM that reading CT needs, by the names of the standard.

Source: DICOM PS3.6 (data dictionary), PS3.5 (6.2 value representations, A transfer syntaxes).
"""

META_SOP_CLASS = 0x00020002
META_SYNTAX = 0x00020010
IMAGE_TYPE = 0x00080008
SOP_CLASS = 0x00080016
SOP_INSTANCE = 0x00080018
MODALITY = 0x00080060
PATIENT_NAME = 0x00100010
PATIENT_ID = 0x00100020
SERIES = 0x0020000E
POSITION = 0x00200032
ORIENTATION = 0x00200037
IMAGES_IN_ACQUISITION = 0x00201002
INSTANCES_IN_SERIES = 0x00201209
PLANE_POSITIONS = 0x00209113
PLANE_ORIENTATIONS = 0x00209116
CONCATENATION_TOTAL = 0x00209163
SAMPLES = 0x00280002
PHOTOMETRIC = 0x00280004
NUM_FRAMES = 0x00280008
ROWS = 0x00280010
COLUMNS = 0x00280011
PIXEL_SPACING = 0x00280030
BITS_ALLOCATED = 0x00280100
BITS_STORED = 0x00280101
HIGH_BIT = 0x00280102
SIGN = 0x00280103
PADDING = 0x00280120
PADDING_LIMIT = 0x00280121
INTERCEPT = 0x00281052
SLOPE = 0x00281053
RESCALE_TYPE = 0x00281054
LOSSY = 0x00282110
PIXEL_MEASURES = 0x00289110
PIXEL_VALUES = 0x00289145
SHARED_GROUPS = 0x52009229
FRAME_GROUPS = 0x52009230
FLOAT_PIXELS = (0x7FE00008, 0x7FE00009)
PIXELS = 0x7FE00010
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD

# Kept elements: keyword and value representation; all others are jumped over.
KEPT = {
    META_SOP_CLASS: ("MediaStorageSOPClassUID", "UI"),
    META_SYNTAX: ("TransferSyntaxUID", "UI"),
    IMAGE_TYPE: ("ImageType", "CS"),
    SOP_CLASS: ("SOPClassUID", "UI"),
    SOP_INSTANCE: ("SOPInstanceUID", "UI"),
    MODALITY: ("Modality", "CS"),
    PATIENT_NAME: ("PatientName", "PN"),
    PATIENT_ID: ("PatientID", "LO"),
    SERIES: ("SeriesInstanceUID", "UI"),
    POSITION: ("ImagePositionPatient", "DS"),
    ORIENTATION: ("ImageOrientationPatient", "DS"),
    IMAGES_IN_ACQUISITION: ("ImagesInAcquisition", "IS"),
    INSTANCES_IN_SERIES: ("NumberOfSeriesRelatedInstances", "IS"),
    PLANE_POSITIONS: ("PlanePositionSequence", "SQ"),
    PLANE_ORIENTATIONS: ("PlaneOrientationSequence", "SQ"),
    CONCATENATION_TOTAL: ("InConcatenationTotalNumber", "US"),
    SAMPLES: ("SamplesPerPixel", "US"),
    PHOTOMETRIC: ("PhotometricInterpretation", "CS"),
    NUM_FRAMES: ("NumberOfFrames", "IS"),
    ROWS: ("Rows", "US"),
    COLUMNS: ("Columns", "US"),
    PIXEL_SPACING: ("PixelSpacing", "DS"),
    BITS_ALLOCATED: ("BitsAllocated", "US"),
    BITS_STORED: ("BitsStored", "US"),
    HIGH_BIT: ("HighBit", "US"),
    SIGN: ("PixelRepresentation", "US"),
    PADDING: ("PixelPaddingValue", "US"),  # or SS, as the pixels are
    PADDING_LIMIT: ("PixelPaddingRangeLimit", "US"),  # or SS
    INTERCEPT: ("RescaleIntercept", "DS"),
    SLOPE: ("RescaleSlope", "DS"),
    RESCALE_TYPE: ("RescaleType", "LO"),
    LOSSY: ("LossyImageCompression", "CS"),
    PIXEL_MEASURES: ("PixelMeasuresSequence", "SQ"),
    PIXEL_VALUES: ("PixelValueTransformationSequence", "SQ"),
    SHARED_GROUPS: ("SharedFunctionalGroupsSequence", "SQ"),
    FRAME_GROUPS: ("PerFrameFunctionalGroupsSequence", "SQ"),
}

# Value representations: bytes, those with a long length, text, and binary numbers (struct's codes).
BYTES_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW"))
LONG_VRS = BYTES_VRS | frozenset(("SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}
TEXT_VRS = frozenset(
    ("AE", "AS", "CS", "DS", "IS", "LO", "LT", "PN", "SH", "ST", "UC", "UI", "UR", "UT")
)
VRS = LONG_VRS | TEXT_VRS | BINARY.keys() | {"AT", "DA", "DT", "TM"}

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
UNCOMPRESSED = (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)
JPEG_LS_NEAR = "1.2.840.10008.1.2.4.81"
JPEGS = "1.2.840.10008.1.2.4."  # JPEG, JPEG-LS, JPEG 2000
JPEG_2000, HTJ2K = "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203"
LOSSLESS = frozenset(
    {
        "1.2.840.10008.1.2.5",  # RLE
        "1.2.840.10008.1.2.4.57",  # JPEG lossless
        "1.2.840.10008.1.2.4.70",  # JPEG lossless, first order
        "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
        "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
        "1.2.840.10008.1.2.4.201",  # HTJ2K lossless
        "1.2.840.10008.1.2.4.202",  # HTJ2K lossless RPCL
    }
)

DICOMDIR = "1.2.840.10008.1.3.10"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # screens and dose reports
ENHANCED_CT = (
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.2.2",  # legacy converted
)
CT_CLASSES = ("1.2.840.10008.5.1.4.1.1.2", *ENHANCED_CT)
