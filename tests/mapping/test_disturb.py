"""Disturbed scans: the same brain, other texture and contrast."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from bh_bids.mapping.disturb import ANATOMIES, MISSING, REACH, disturbed, other_anatomy


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


def test_each_anatomy_occurs_and_changes_its_part(layered_head):
    """Ventricles grow and leave the shell alone; lesions lie deep; an end is missing."""
    volume, mask, from_centre = layered_head()
    seen = set()
    for seed in range(16):
        made, part = other_anatomy(volume, mask, (1.0, 1.0, 1.0), np.random.default_rng(seed))
        again, _ = other_anatomy(volume, mask, (1.0, 1.0, 1.0), np.random.default_rng(seed))
        np.testing.assert_array_equal(again, made)
        assert made.dtype == np.float32 and not made[~part].any() and not (part & ~mask).any()
        kind = ANATOMIES[np.random.default_rng(seed).integers(len(ANATOMIES))]
        seen.add(kind)
        lost = 1 - part.sum() / mask.sum()
        changed = (np.abs(made - volume) > 1e-6)[part]
        if kind == "part":
            # A slice more than the share at the least end, or one less at the most.
            assert MISSING[0] - 0.03 < lost < MISSING[1] + 0.03 and not changed.any()
            continue
        assert lost == 0
        if kind == "usual":
            assert not changed.any()
        elif kind == "ventricles":
            assert not changed[from_centre[part] > 7 + REACH + 2].any()
            assert (made[mask] < 0.4).sum() > 1.01 * (volume[mask] < 0.4).sum()
        else:
            # At their borders lesions blend with what is around.
            assert 0 < (np.abs(made - volume) > 0.05)[mask].mean() < 0.2
    assert seen == set(ANATOMIES)


def test_of_a_brain_without_ventricles_nothing_is_changed(layered_head):
    volume, mask, from_centre = layered_head()
    plain = np.where(mask & (from_centre < 20), 0.9, volume).astype(np.float32)
    kinds = [other_anatomy(plain, mask, (1.0, 1.0, 1.0), np.random.default_rng(k))[0]
             for k in range(12)]  # fmt: skip
    assert any(np.array_equal(made, plain) for made in kinds)
