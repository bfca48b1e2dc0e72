import numpy as np
import pytest

from lesionkeras.ct.findings import CtError
from lesionkeras.ct.hounsfield import Met, check_hu, to_hu, to_labels


def make_scan(seed: int = 0) -> np.ndarray:
    """Air, fat, liver, vessels, bone, metal, and a scanner's noise: the shares of an abdomen."""
    rng = np.random.default_rng(seed)
    tissue = rng.choice([-1000, -100, 60, 110, 2800], 30000, p=[0.5, 0.19, 0.2, 0.1, 0.01])
    tissue[:1500] = rng.normal(350, 250, 1500).clip(100)  # spongy bone to the shell
    return np.clip(tissue + rng.normal(0, 15, 30000), -1024, 3071).astype(np.int16)


def check(values: np.ndarray) -> list[str]:
    """Names of the corrections of a whole volume."""
    met = Met()
    array = to_hu(values, 1, 0, met, "a.nii").astype(np.int16)
    return [correction.name for correction in check_hu(array, met, "a.nii")]


def say(values: np.ndarray) -> str:
    with pytest.raises(CtError) as error:
        check(values)
    assert error.value.name == "not-hu"
    return str(error.value)


SCAN = make_scan()


@pytest.mark.parametrize("seed", range(10))
def test_scans_pass(seed):
    scan = make_scan(seed)
    liver = scan[(scan > 20) & (scan < 160)]
    for values in (
        scan,
        np.clip(scan, -160, 240),  # LiTS copies are cut to a window
        np.clip(scan, -1000, 1000),
        np.clip(scan, 0, 200),
        np.clip(scan, 0, 3071),
        liver,  # a crop of the liver, without any negative value
        np.where((scan > 20) & (scan < 160), scan, 0),  # all but the liver set to 0
        np.where((scan > 20) & (scan < 160), scan, -1024),
        scan[scan < -900],  # air alone
        np.zeros(30000, np.int16),
        np.full(30000, 40, np.int16),
        np.where(scan > 600, 30000, scan),  # metal on an extended scale
    ):
        assert check(values) == []


def test_padding_passes():
    for padding in (-1500, -2000, -2048, -3024, -32768):
        padded = SCAN.copy()
        padded[:9000] = padding
        assert check(padded) == ["padding-to-air"]
    noise_below = SCAN - 60 * (SCAN < -900).astype(np.int16)  # some scanners' air
    assert check(noise_below) == ["padding-to-air"]


def test_padding_blurred_by_resampling_passes():
    padded = SCAN.astype(np.float32)
    padded[:9000] = -2000
    padded[9000:9900] = np.linspace(-2000, -1000, 900)
    assert check(padded) == ["rounded-to-hu", "padding-to-air"]


def test_1024_not_subtracted():
    for values in (SCAN + 1024, (SCAN + 1024).astype(np.uint16), SCAN[SCAN < 200] + 1024):
        assert say(values) == (
            "Values cannot be Hounsfield units in a.nii: found tissue near 1024 and no negative "
            "value, as if 1024 were not subtracted, wanted air at -1000 and water at 0; convert "
            "the scan again from its source, with its rescale slope and intercept."
        )


def test_1024_subtracted_twice():
    assert "as if 1024 were subtracted twice" in say(SCAN - 1024)


def test_windowed_picture():
    picture = np.clip((SCAN.astype(np.float32) + 160) * 255 / 400, 0, 255).astype(np.int16)
    assert "like a windowed picture" in say(picture)


@pytest.mark.parametrize("low", [0, -1])
def test_scaled_to_1(low):
    scaled = np.interp(SCAN, [-160, 240], [low, 1]).astype(np.float32)
    assert "like values scaled to 0 to 1" in say(scaled)
    assert "like values scaled to 0 to 1" in say((SCAN - SCAN.mean()) / SCAN.std())


def test_mask_instead_of_image():
    labels = np.where(SCAN > 20, 1, 0) + np.where(SCAN > 100, 1, 0)
    assert "only whole numbers from 0 to 2, like a mask's labels" in say(labels.astype(np.int16))


def test_few_voxels_say_nothing():
    assert check((SCAN + 1024)[:4095]) == []


def test_whole_numbers_stay_whole():
    stored = np.array([0, 1024, 4095], np.uint16)
    values = to_hu(stored, 1, -1024, Met(), "a.nii")
    assert values.dtype == np.int32 and values.tolist() == [-1024, 0, 3071]
    assert to_hu(stored, 1, 0, Met(), "a.nii") is stored


def test_met_is_over_all_parts():
    met = Met()
    to_hu(np.array([5.25, 7]), 1, 0, met, "a.nii")
    to_hu(np.array([-3.0, 6.5]), 1, 0, met, "a.nii")
    assert (met.low, met.high, met.rounded_hu) == (-3, 7, 0.5)


def test_rounding_is_to_the_nearest():
    assert to_hu(np.array([-0.6, 0.4, 1.6, 99.99]), 1, 0, Met(), "a").tolist() == [-1, 0, 2, 100]


def test_labels_after_rescale():
    assert to_labels(np.array([0, 4, 8], np.int16), 0.25, 0, "a.nii").tolist() == [0, 1, 2]
    with pytest.raises(CtError, match=r"found 0\.25"):
        to_labels(np.array([0, 1], np.int16), 0.25, 0, "a.nii")
