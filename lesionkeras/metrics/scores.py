"""What is known of one scored case, in whichever protocol."""

from __future__ import annotations

from dataclasses import dataclass

from lesionkeras.metrics.overlap import Overlap, divide

ANY_OVERLAP, HALF_OVERLAP = 0.0, 0.5  # a lesion is found if its overlap is above; LiTS has both
THRESHOLDS = (ANY_OVERLAP, HALF_OVERLAP)


@dataclass(frozen=True)
class ObjectScores:
    """Overlap and distances of one object: a liver, a lesion or all tumour of a case.

    Attributes:
        dice: Twice the shared voxels by the sum of both.
        jaccard: Intersection by union.
        voe: 1 - Jaccard.
        rvd: Relative volume difference; its sign is the protocol's.
        assd_mm: Average symmetric surface distance.
        rmsd_mm: Root mean square symmetric surface distance.
        msd_mm: Maximum symmetric surface distance.
    """

    dice: float
    jaccard: float
    voe: float
    rvd: float
    assd_mm: float
    rmsd_mm: float
    msd_mm: float


@dataclass(frozen=True)
class Detection:
    """Lesions found and components predicted, at one overlap.

    Attributes:
        threshold: Overlap above which a lesion is found.
        num_found: Lesions found.
        num_missed: Lesions not found.
        num_true: Predicted components that are (part of) a found lesion.
        num_false: Predicted components that are not.

    >>> Detection(0.0, num_found=3, num_missed=1, num_true=2, num_false=2).recall
    0.75
    """

    threshold: float
    num_found: int
    num_missed: int
    num_true: int
    num_false: int

    @property
    def recall(self) -> float:
        """Share of the lesions that were found; NaN without lesions."""
        return divide(self.num_found, self.num_found + self.num_missed)

    @property
    def precision(self) -> float:
        """Share of the predicted components that are right; NaN without any."""
        return divide(self.num_true, self.num_true + self.num_false)


@dataclass(frozen=True)
class Lesion:
    """A row of the per-lesion table: a lesion of the truth, or a predicted component beside all.

    Attributes:
        kind: "lesion", or "false component": predicted, and it touches no lesion.
        number: From 1, among its kind's components.
        volume_mm3: Of the lesion, or of the false component.
        centroid_zyx: Index in the volume, as given to the evaluator.
        predicted_mm3: Of the components given to the lesion.
        num_components: Components given to the lesion.
        dice: Of the lesion and these components; 0 where there are none.
        iou: The same of intersection by union.
        found: At overlap above 0.
        found_half: At overlap above .5.
    """

    kind: str
    number: int
    volume_mm3: float
    centroid_zyx: tuple[float, float, float]
    predicted_mm3: float
    num_components: int
    dice: float
    iou: float
    found: bool
    found_half: bool


@dataclass(frozen=True)
class CaseScores:
    """Everything that a protocol says of one case.

    Attributes:
        protocol: "lits" or "corrected".
        spacing_mm: Of voxels, z, y, x.
        liver: Voxels of labels 1 and 2.
        tumour: Voxels of label 2.
        liver_dice: The protocol's Dice of the case.
        tumour_dice: The same of the tumour; NaN where the protocol gives none.
        liver_objects: One as a rule.
        tumour_objects: `lits`: a detected lesion each; `corrected`: all tumour as one.
        detections: At overlap above 0 and above .5.
        lesions: The per-lesion table.
        burden_error: Of tumour by liver volume; its sign is the protocol's.
    """

    protocol: str
    spacing_mm: tuple[float, float, float]
    liver: Overlap
    tumour: Overlap
    liver_dice: float
    tumour_dice: float
    liver_objects: tuple[ObjectScores, ...]
    tumour_objects: tuple[ObjectScores, ...]
    detections: tuple[Detection, Detection]
    lesions: tuple[Lesion, ...]
    burden_error: float

    @property
    def has_lesion(self) -> bool:
        """Whether the truth holds tumour."""
        return self.tumour.num_truth > 0

    @property
    def false_positive_mm3(self) -> float:
        """Volume predicted as tumour outside the true tumour."""
        z, y, x = self.spacing_mm
        return self.tumour.num_false_positive * z * y * x
