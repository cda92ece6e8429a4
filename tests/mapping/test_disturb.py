"""Disturbed scans: the same brain, other texture and contrast."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from bh_bids.mapping.disturb import disturbed


@pytest.mark.parametrize("seed", range(6))
def test_a_disturbed_scan_shows_the_same_brain_otherwise(domain, seed):
    scan, mask = domain.scans[0], domain.mask
    found = disturbed(scan, mask, np.random.default_rng(seed))
    assert found.shape == scan.shape and found.dtype == np.float32
    assert np.isfinite(found).all() and (found >= 0).all() and not found[~mask].any()
    assert spearmanr(found[mask], scan[mask]).statistic > 0.8
    assert np.abs(found - scan)[mask].mean() > 0.003
    again = disturbed(scan, mask, np.random.default_rng(seed))
    np.testing.assert_array_equal(again, found)


def test_each_kind_of_disturbance_occurs(domain):
    """Blur takes fine structure away, sharpening adds some; noise and tissues' gains reorder."""
    scan, mask = domain.scans[1], domain.mask

    def fine(volume):
        ranks = np.zeros(mask.shape)
        ranks[mask] = np.argsort(np.argsort(volume[mask])) / mask.sum()
        inside = mask[1:] & mask[:-1]
        return np.abs(np.diff(ranks, axis=0))[inside].mean()

    usual = fine(scan)
    found = [fine(disturbed(scan, mask, np.random.default_rng(k))) / usual for k in range(30)]
    assert min(found) < 0.9 and max(found) > 1.05


def test_a_box_around_the_brain_is_all_that_matters(domain):
    scan, mask = domain.scans[2], domain.mask
    padded = [np.pad(v, 5) for v in (scan, mask)]
    near = disturbed(*padded, np.random.default_rng(3))
    far = disturbed(*(np.pad(v, 2) for v in padded), np.random.default_rng(3))
    np.testing.assert_array_equal(far[2:-2, 2:-2, 2:-2], near)
