"""Comparators that train nothing, against scikit-image, numpy and closed forms."""

import numpy as np
import pytest
from skimage.exposure import match_histograms

from bh_bids.comparators import COMPARATORS, FAST, LazyScans, Scan
from bh_bids.comparators.matching import pooled_quantiles
from bh_bids.errors import InputError


def test_the_fast_ones_train_nothing_and_all_are_named_as_they_are_called():
    assert FAST == ("gain", "hm", "hm-whole", "nyul", "ssimh")
    for name, kind in COMPARATORS.items():
        assert kind().name == name and kind.title
        assert kind.trains == (name not in FAST)


def test_pooled_quantiles_are_those_of_all_values_together(target):
    scans = [target(k) for k in range(3)]
    found = pooled_quantiles(scan.volume[scan.mask] for scan in scans)
    together = np.concatenate([scan.volume[scan.mask] for scan in scans])
    assert np.allclose(found, np.quantile(together, np.linspace(0, 1, 257)), atol=2e-3)


def test_after_the_match_the_brains_cdf_is_the_targets(source, target):
    targets = [target(k) for k in range(1, 4)]
    scan = source(0)
    made = COMPARATORS["hm"]().fit([], targets).apply(900 * scan.volume, scan.mask)
    pooled = np.sort(np.concatenate([t.volume[t.mask] for t in targets]))
    levels = np.linspace(0.3, 0.95, 40)
    own = np.searchsorted(np.sort(made[scan.mask]), levels) / scan.mask.sum()
    assert np.allclose(own, np.searchsorted(pooled, levels) / pooled.size, atol=5e-3)
    assert not made[~scan.mask].any()


def test_whole_image_match_is_scikit_images(source, target):
    """Of two brains of one size, for with ties scikit-image takes ranks at their upper end."""
    scan, reference = source(0), target(1)
    made = COMPARATORS["hm-whole"]().fit([], [reference]).apply(scan.volume, scan.mask)
    expected = match_histograms(scan.volume, reference.volume)
    low, high = np.quantile(scan.volume[scan.mask], [0.01, 0.99])
    inner = (scan.volume > low) & (scan.volume < high)
    assert np.abs(made - expected)[inner].mean() < 2e-3
    assert np.abs(made - expected)[inner].max() < 0.02


def test_whole_image_match_darkens_a_larger_brain(target):
    """What the match inside the brain does not: the background's share decides."""
    scan = target(0)
    part = scan.mask.copy()
    part[:16] = False
    smaller = Scan(np.where(part, scan.volume, 0), part)
    whole, brain = (COMPARATORS[name]().fit([], [smaller]) for name in ("hm-whole", "hm"))
    assert whole.apply(scan.volume, scan.mask)[scan.mask].mean() < 0.7 * scan.volume.sum() / (
        scan.mask.sum()
    )
    assert brain.apply(scan.volume, scan.mask)[scan.mask].mean() == pytest.approx(
        scan.volume[scan.mask].mean(), rel=0.1
    )


def test_gain_and_landmarks_undo_a_gain(target):
    scan = target(0)
    for name in ("gain", "nyul"):
        made = COMPARATORS[name]().fit([], [scan]).apply(700 * scan.volume, scan.mask)
        assert np.allclose(made, scan.volume, atol=5e-3)


def test_spectrum_swap_with_itself_is_the_identity(target):
    scan = target(2)
    swap = COMPARATORS["ssimh"](reference="02").fit([], [target(1), scan])
    assert np.allclose(swap.apply(scan.volume, scan.mask), scan.volume, atol=1e-5)


def test_spectrum_swap_takes_the_mean_unless_told_otherwise(target):
    scans = [target(1), target(2)]
    mean = (scans[0].volume + scans[1].volume) / 2
    state = COMPARATORS["ssimh"]().fit([], scans).state()
    assert np.allclose(state["reference"], mean, atol=1e-6)
    with pytest.raises(InputError, match="participant '07'"):
        COMPARATORS["ssimh"](reference="07").fit([], scans)


@pytest.mark.parametrize("name", FAST)
def test_a_restored_state_does_what_the_fit_did(name, source, target):
    scan = source(0)
    fitted = COMPARATORS[name]().fit([], [target(1), target(2)])
    restored = COMPARATORS[name](**fitted.settings()).restore(fitted.state())
    made = fitted.apply(scan.volume, scan.mask)
    assert np.array_equal(restored.apply(scan.volume, scan.mask), made)
    assert made.dtype == np.float32 and made.shape == scan.mask.shape


def test_scans_are_read_when_asked_for_and_one_at_a_time(target):
    read = []

    def reader(number):
        def give():
            read.append(number)
            return target(number)

        return give

    lazy = LazyScans(map(reader, range(3)))
    assert len(lazy) == 3 and not read
    assert lazy[1].participant == "01" and read == [1]
    assert [scan.participant for scan in lazy[1:]] == ["01", "02"]
    read.clear()
    eager = COMPARATORS["hm"]().fit([], [target(k) for k in range(3)]).state()
    assert np.array_equal(
        COMPARATORS["hm"]().fit([], lazy).state()["quantiles"], eager["quantiles"]
    )
    assert read == [0, 1, 2]


@pytest.mark.parametrize("name", COMPARATORS)
def test_what_was_not_fitted_or_has_no_scans_says_so(name, target):
    scan = target(0)
    comparator = COMPARATORS[name]()
    with pytest.raises(InputError, match="not fitted"):
        comparator.apply(scan.volume, scan.mask)
    with pytest.raises(InputError, match="not fitted"):
        comparator.state()
    with pytest.raises(InputError, match="scans of the target"):
        comparator.fit([scan], [])
    if comparator.trains:
        with pytest.raises(InputError, match="source site"):
            comparator.fit([], [scan])
    else:
        with pytest.raises(InputError, match="no state of"):
            comparator.restore({"something": np.zeros(3)})
