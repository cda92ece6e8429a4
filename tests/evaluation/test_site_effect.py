"""The site's classifier: chance where there is nothing to know, near 1 where sites part."""

import numpy as np
import pytest

from bh_bids.errors import InputError
from bh_bids.evaluation import embed, predict_class, predict_number, scan_features

PARTICIPANTS = [f"{k:02d}" for k in range(24) for _ in range(3)]
SITES = ["A", "B", "C"] * 24


def features(site_shift, seed=0, person=2.0):
    """Features with a participant's own level, a site's shift, and noise."""
    rng = np.random.default_rng(seed)
    own = np.repeat(rng.normal(size=(24, 10)), 3, axis=0)
    shift = np.tile(rng.normal(size=(3, 10)), (24, 1))
    return person * own + site_shift * shift + rng.normal(size=(72, 10))


def test_sites_that_differ_are_told():
    found = predict_class(features(5.0), SITES, PARTICIPANTS)
    assert found.score > 0.97 and found.chance == pytest.approx(1 / 3) and found.n == 72


def test_shuffled_sites_are_guessed_at_chance():
    scores = []
    for seed in range(6):
        shuffled = np.random.default_rng(seed).permutation(SITES)
        scores.append(predict_class(features(5.0, seed), shuffled, PARTICIPANTS).score)
    # The standard error of six tests of 72 scans is about 0.03.
    assert np.mean(scores) == pytest.approx(1 / 3, abs=0.08)


def test_a_participant_is_never_told_by_their_own_scans():
    """Sites that each have their own participants: without whole participants left out, a
    participant's level alone would give the site away."""
    rng = np.random.default_rng(3)
    people = [f"{k:02d}" for k in range(30) for _ in range(4)]
    sites = [("A", "B")[k % 2] for k in range(30) for _ in range(4)]
    own = np.repeat(rng.normal(size=(30, 40)), 4, axis=0) + 0.01 * rng.normal(size=(120, 40))
    assert predict_class(own, sites, people).score < 0.75


@pytest.mark.parametrize("held", [(0, 10), (3, 13)])
def test_a_class_of_two_is_in_every_training(held):
    """Wherever the two stand in the order."""
    rng = np.random.default_rng(0)
    people = [f"{k:02d}" for k in range(22)]
    sexes = ["F" if k in held else "M" for k in range(22)]
    table = rng.normal(size=(22, 5))
    table[list(held)] += 8
    found = predict_class(table, sexes, people)
    assert found.n == 22 and found.score > 0.9


def test_one_site_or_lone_participants_give_no_answer():
    table = features(1.0)
    assert predict_class(table, ["A"] * 72, PARTICIPANTS) is None
    assert predict_class(table[:3], ["A", "B", "A"], ["1", "2", "1"]) is None


def test_age_is_kept_where_features_hold_it():
    rng = np.random.default_rng(0)
    age = np.repeat(rng.uniform(20, 80, 24), 3)
    table = features(0.0)
    assert abs(predict_number(table, age, PARTICIPANTS).score) < 0.4
    table[:, 0] += 0.3 * age
    found = predict_number(table, age, PARTICIPANTS)
    assert found.score > 0.9 and found.error < 8
    age[:3] = np.nan
    assert predict_number(table, age, PARTICIPANTS).n == 69
    assert predict_number(table[:9], age[:9], PARTICIPANTS[:9]) is None


@pytest.mark.parametrize("people", [8, 20, 40])
def test_of_noise_no_age_is_told(people):
    """A correlation would be strongly negative here."""
    scores = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        age, labels = rng.uniform(20, 80, people), [str(k) for k in range(people)]
        scores.append(predict_number(rng.normal(size=(people, 30)), age, labels).score)
    assert -0.25 < np.median(scores) < 0.1


def test_the_score_of_a_number_is_its_variance_told_beyond_the_others_mean():
    rng = np.random.default_rng(1)
    age = rng.uniform(20, 80, 9)
    people = [str(k) for k in range(9)]
    noise = rng.normal(0, 5, 9)
    found = predict_number(np.column_stack([age + noise, noise]), age, people)
    # What it says of each is the error against the truth; the others' mean is known by hand.
    others = (age.sum() - age) / 8
    assert found.score > 0.9 and found.error < np.abs(age - others).mean() / 3


def test_components_are_those_of_scikit_learn_up_to_sign():
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    table = features(2.0)
    expected = PCA(2, svd_solver="full").fit_transform(StandardScaler().fit_transform(table))
    assert np.allclose(np.abs(embed(table)), np.abs(expected), atol=1e-8)
    with pytest.raises(InputError, match="more than 2"):
        embed(table[:2])


def test_features_see_contrast_noise_and_field(small_brain):
    mask = small_brain.mask
    volume = small_brain.volume / np.percentile(small_brain.volume[mask], 99)
    plain = scan_features(volume, mask)
    rng = np.random.default_rng(0)
    ramp = np.linspace(0.8, 1.2, mask.shape[1])[None, :, None]
    changed = {
        "contrast": volume**0.7,
        "noise": volume + 0.1 * rng.standard_normal(mask.shape),
        "field": volume * ramp,
    }
    assert np.isfinite(plain).all()
    assert np.allclose(scan_features(volume.copy(), mask), plain)
    moved = {name: np.abs(scan_features(v, mask) - plain) for name, v in changed.items()}
    # Texture is told in logarithms, after quantiles, shares and ratios; blocks come last.
    texture, blocks = slice(19, 22), slice(22, None)
    assert moved["noise"][texture][0] > 2 * moved["contrast"][texture][0]
    assert moved["field"][blocks].max() > 3 * moved["noise"][blocks].max()
    assert moved["contrast"][:13].max() > 0.05
