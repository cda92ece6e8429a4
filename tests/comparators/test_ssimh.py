"""SSIMH against cosine sums written out."""

import numpy as np
import pytest

from bh_bids.comparators.ssimh import ssimh
from bh_bids.errors import InputError
from bh_bids.intensity import to_target_units


def pair(seed=0, shape=(12, 14, 5)):
    rng = np.random.default_rng(seed)
    return rng.uniform(1, 2, shape), rng.uniform(0.4, 0.6, shape), np.ones(shape, bool)


def cosines(n, count):
    """The first rows of the orthonormal DCT-II."""
    k, i = np.ogrid[:count, :n]
    rows = np.sqrt(2 / n) * np.cos(np.pi * k * (2 * i + 1) / (2 * n))
    rows[0] /= np.sqrt(2)
    return rows


def test_an_image_with_itself_stays_itself():
    source, _, mask = pair()
    scaled, _ = to_target_units(source, mask)
    assert np.allclose(ssimh(source, mask, scaled), scaled, atol=1e-6)


@pytest.mark.parametrize("lowest", [1, 3])
def test_the_lowest_cosines_are_the_references_and_the_others_its_own(lowest):
    source, reference, mask = pair(1)
    scaled, _ = to_target_units(source, mask)
    made = ssimh(source, mask, reference, lowest=lowest)
    rows, columns = cosines(12, lowest), cosines(14, lowest)
    for k in range(5):
        difference = reference[:, :, k] - scaled[:, :, k]
        low = rows.T @ (rows @ difference @ columns.T) @ columns
        assert np.allclose(made[:, :, k], np.maximum(scaled[:, :, k] + low, 0), atol=1e-5)


def test_every_slice_gets_the_references_mean():
    source, reference, mask = pair(2)
    made = ssimh(source, mask, reference, lowest=1)
    assert np.allclose(made.mean(axis=(0, 1)), reference.mean(axis=(0, 1)), atol=1e-5)


def test_units_do_not_matter_and_background_stays_empty():
    source, reference, mask = pair(3)
    mask[:3] = False
    mask[:, :, 4] = False
    one, other = (ssimh(source * gain, mask, reference) for gain in (1, 700))
    assert np.allclose(one, other, atol=1e-5)
    assert not one[~mask].any() and (one >= 0).all()


def test_unlike_grids_are_refused():
    source, reference, mask = pair()
    with pytest.raises(InputError, match="one grid"):
        ssimh(source, mask, reference[1:])
    with pytest.raises(InputError, match="empty"):
        ssimh(source, np.zeros_like(mask), reference)
