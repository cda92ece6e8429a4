"""The tissue network on phantoms whose tissues are known."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bh_bids.comparators import Scan
from bh_bids.errors import InputError
from bh_bids.evaluation import segmentation
from bh_bids.evaluation.segmentation import TissueNetwork
from bh_bids.intensity import to_target_units

SHAPE = (32, 34, 24)
TINY = {
    "features": (8, 16, 16, 16, 16, 8), "crop": 32, "batch_size": 4, "steps": 200,
    "learning_rate": 5e-3,
}  # fmt: skip


def phantom(seed):
    """A scan and its tissues: blobs of three intensities in a ball."""
    rng = np.random.default_rng(seed)
    mask = ((np.indices(SHAPE) - np.reshape([16, 17, 12], (3, 1, 1, 1))) ** 2).sum(axis=0) < 196
    texture = gaussian_filter(rng.normal(size=SHAPE), 2)
    labels = 1 + np.digitize(texture, np.quantile(texture[mask], [0.2, 0.6]))
    labels = np.where(mask, labels, 0).astype(np.int8)
    volume = np.array([0, 0.25, 0.6, 0.95])[labels] + 0.02 * rng.standard_normal(SHAPE)
    return Scan(to_target_units(np.maximum(volume, 0), mask)[0], mask, str(seed)), labels


@pytest.fixture(scope="module")
def study():
    """Scans and labels of three participants."""
    return tuple(zip(*map(phantom, range(3)), strict=True))


@pytest.fixture(scope="module")
def network(study):
    """Trained on the study's labels."""
    return TissueNetwork(**TINY).fit(*study, device="cpu")


def dice(labels, truth, tissue):
    a, b = labels == tissue, truth == tissue
    return 2 * np.sum(a & b) / (a.sum() + b.sum())


def test_it_labels_a_participant_it_never_saw(network):
    scan, truth = phantom(9)
    labels = network.predict(scan.volume, scan.mask)
    assert labels.dtype == np.int8 and not labels[~scan.mask].any()
    assert set(np.unique(labels[scan.mask])) == {1, 2, 3}
    assert min(dice(labels, truth, tissue) for tissue in (1, 2, 3)) > 0.97


def test_a_change_of_contrast_shows_downstream(network):
    scan, truth = phantom(9)
    other = network.predict(scan.volume**2, scan.mask)
    own = network.predict(scan.volume, scan.mask)
    # Squared, grey matter is as dark as fluid was; white matter stays the brightest.
    assert dice(other, truth, 2) < dice(own, truth, 2) - 0.4
    assert dice(other, truth, 3) > 0.97


def test_without_labels_atropos_gives_them_and_a_second_fit_asks_it_nothing(
    study, monkeypatch, tmp_path
):
    asked = []

    def counted(volume, mask):
        asked.append(1)
        return study[1][len(asked) - 1]

    monkeypatch.setattr(segmentation, "atropos_labels", counted)
    short = TINY | {"steps": 3}
    scan = study[0][0]
    told = []
    options = {"folder": tmp_path, "device": "cpu", "report": told.append}
    first = TissueNetwork(**short).fit_cached(study[0], **options)
    second = TissueNetwork(**short).fit_cached(study[0], **options)
    assert len(asked) == 3 and "Segmenting 3 target scans." in told
    assert "trained before" in told[-1]
    labels = first.predict(scan.volume, scan.mask)
    assert np.array_equal(second.predict(scan.volume, scan.mask), labels)
    given = TissueNetwork(**short).fit_cached(*study, **options)
    assert len(list(tmp_path.iterdir())) == 2, "given labels are others, as far as can be known"
    assert np.array_equal(given.predict(scan.volume, scan.mask), labels)


def test_it_learns_from_no_more_scans_than_it_may(study, monkeypatch):
    seen = []
    monkeypatch.setattr(segmentation, "_train", lambda *_: None)
    scans, labels = (tuple(part) * 4 for part in study)

    class Watched:
        def __len__(self):
            return len(scans)

        def __getitem__(self, index):
            seen.append(index)
            return scans[index]

    TissueNetwork(**TINY, max_scans=4).fit(Watched(), labels)
    assert seen == [0, 4, 7, 11]


def test_the_same_seed_gives_the_same_bytes(study):
    made = [
        TissueNetwork(**TINY | {"steps": 3}).fit(*study, seed=seed, device="cpu").state()
        for seed in (1, 1, 2)
    ]
    assert all(np.array_equal(made[0][k], made[1][k]) for k in made[0])
    assert any(not np.array_equal(made[0][k], made[2][k]) for k in made[0])


def test_unusable_input_is_refused(study, network):
    scans, labels = study
    with pytest.raises(InputError, match="not fitted"):
        TissueNetwork().predict(scans[0].volume, scans[0].mask)
    with pytest.raises(InputError, match="none"):
        TissueNetwork().fit([])
    with pytest.raises(InputError, match="2 tissue maps were given for 3"):
        TissueNetwork().fit(scans, labels[:2])
    with pytest.raises(InputError, match="participant '0'"):
        TissueNetwork().fit(scans, [7 * labels[0]] * 3)
    with pytest.raises(InputError, match="0 brain voxels"):
        network.predict(scans[0].volume, np.zeros_like(scans[0].mask))
