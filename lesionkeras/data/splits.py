"""Who is trained on and who is tested on: by patient, or as a paper did it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lesionkeras.errors import DataError

PAPER_TEST_FRACTION = 0.2  # P1, 4: "a split ratio of 80% and 20%"
PAPER_WARNING = (
    "This split leaks: P1 divides the augmented copies 80/20, so that copies of one image, and "
    "images of one patient, are both trained and tested on; its figures say nothing about new "
    "patients."
)
P2_WARNING = (
    "This split leaks: of P2's list {} both trained on and validated on, so that the epoch it "
    "chooses is the one that knows them best; nobody who is tested on is among them."
)


def describe_p2_leak(trained: Sequence[str], validated: Sequence[str]) -> str:
    """Return the warning of P2's list where patients are trained on and validated on, or "".

    Args:
        trained: The patient of each training image.
        validated: The patient of each validation image.

    >>> describe_p2_leak(["a", "b"], ["c"])
    ''
    """
    both = len(set(trained) & set(validated))
    return P2_WARNING.format("1 patient is" if both == 1 else f"{both} patients are") * bool(both)


def check_disjoint(splits: Mapping[str, Sequence[str]]) -> None:
    """Raise unless every patient is in one split only.

    Args:
        splits: Split name to the patient of each of its images.

    Raises:
        DataError: Some patient is in two; the first is named.
    """
    home: dict[str, str] = {}
    for name, patients in splits.items():
        for patient in sorted(set(patients)):
            if home.setdefault(patient, name) != name:
                raise DataError(
                    "A patient is in two splits",
                    where=f"patient {patient}",
                    found=f"{home[patient]} and {name}",
                    wanted="one split a patient",
                    next_step="move all images of the patient to one of them",
                )


def hold_out_patients(
    patients: Sequence[str], fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Divide images by patient; at least one patient stays on each side.

    Args:
        patients: The patient of each image.
        fraction: Share of the patients that is held out, 0 to 1.
        seed: Which ones.

    Returns:
        int64 indices of the images kept and of those held out, ascending.

    Raises:
        DataError: There are fewer than two patients.

    >>> hold_out_patients(["a", "a", "b"], 0.5, seed=0)[0].tolist() in ([0, 1], [2])
    True
    """
    names = np.unique(np.asarray(patients))
    if len(names) < 2:
        raise DataError(
            "Patients cannot be held out",
            where="data.validation_fraction",
            found=f"{len(names)} patient",
            wanted="two at least",
            next_step="set data.validation_fraction=0",
        )
    count = min(max(round(fraction * len(names)), 1), len(names) - 1)
    held = np.random.default_rng(seed).choice(names, count, replace=False)
    is_held = np.isin(np.asarray(patients), held)
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def make_copies(num_images: int, copies: int) -> np.ndarray:
    """Return P1's list of images: each and its augmented copies.

    Args:
        num_images: How many images there are.
        copies: Copies an image besides itself.

    Returns:
        int64 [num_images * (1 + copies), 2] of image index and copy number (0 is the image).

    Source: P1, 3.2.2: 1,267 images become 6,335.

    >>> len(make_copies(1267, 4))
    6335
    """
    image, copy = np.meshgrid(np.arange(num_images), np.arange(1 + copies), indexing="ij")
    return np.stack([image.ravel(), copy.ravel()], axis=1)


def split_as_paper(rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide augmented copies 80/20 at random, as P1 did; this leaks (PAPER_WARNING).

    Args:
        rows: int64 [N, 2] of `make_copies`.
        seed: Which 80 %.

    Returns:
        Rows to train on, rows to test on.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    num_test = round(PAPER_TEST_FRACTION * len(rows))
    return rows[np.sort(order[num_test:])], rows[np.sort(order[:num_test])]
