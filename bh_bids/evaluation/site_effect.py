"""Can a classifier still tell the site, and can age and sex still be told?

Whatever is predicted of a participant is predicted by a classifier that never saw a scan of them.
"""

from typing import NamedTuple

import numpy as np

from ..errors import InputError
from .distributions import contrast_ratios
from .tissue import label_tissues

# Folds over participants; with fewer participants, each is a fold.
MOST_FOLDS = 10
# Of a number that is to be predicted.
FEWEST = 8
_SHARES = np.array([2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98]) / 100
_SCALES = (0.7, 1.4, 2.8)
_BLOCKS = 4


class Prediction(NamedTuple):
    """How well something is predicted of participants who were left out.

    Attributes
    ----------
    score : float
        Balanced accuracy of classes (1 is always right); of numbers the share of their variance
        that is told beyond the mean of the other participants (1 is all of it; negative: worse
        than that mean).
    chance : float
        Score of guessing: one over the number of classes, or 0.
    n : int
        Scans.
    error : float
        Mean absolute error of numbers; NaN of classes.
    """

    score: float
    chance: float
    n: int
    error: float = float("nan")


def scan_features(volume, mask):
    """What a classifier may look at: intensities, contrasts, texture and large-scale pattern.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        Target units, on a grid on which brains lie alike.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.

    Returns
    -------
    numpy.ndarray of float64, shape (n_features,)
        Quantiles of the brain, shares of three tissues, their contrast ratios, the spread of
        detail in white matter at three scales, and the brain's mean in blocks that cover the
        brain's box, relative to the whole brain's.

    Raises
    ------
    InputError
        If the mask holds too little to tell tissues.
    """
    mask = np.asarray(mask, dtype=bool)
    volume = np.where(mask, np.asarray(volume, dtype=np.float32), 0)
    labels = label_tissues(volume, mask)
    shares = np.bincount(labels[mask], minlength=4)[1:4] / mask.sum()
    ratios = np.nan_to_num(list(contrast_ratios(volume, labels).values()))
    quantiles = np.quantile(volume[mask], _SHARES)
    parts = (quantiles, shares, ratios, _texture(volume, labels), _pattern(volume, mask))
    return np.concatenate(parts).astype(np.float64)


def _texture(volume, labels):
    """Standard deviation of what Gaussians of growing width take away, in white matter's inside."""
    from scipy.ndimage import binary_erosion, gaussian_filter

    box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(labels))
    white = labels[box] == 3
    inside = binary_erosion(white, iterations=2)
    inside = inside if inside.sum() >= 100 else white
    fine, spreads = volume[box], []
    for sigma in _SCALES:
        coarse = gaussian_filter(volume[box], sigma)
        spreads.append(float((fine - coarse)[inside].std()))
        fine = coarse
    return np.log(np.maximum(spreads, 1e-6))


def _pattern(volume, mask):
    """Mean of each of 4 x 4 x 4 blocks over the brain's, 1 where a block holds little brain."""
    whole = float(volume[mask].mean()) or 1.0
    positions = np.nonzero(mask)
    blocks = np.zeros(mask.sum(), dtype=np.int64)
    for points in positions:
        low, high = points.min(), points.max() + 1
        blocks = blocks * _BLOCKS + (points - low) * _BLOCKS // (high - low)
    count = np.bincount(blocks, minlength=_BLOCKS**3)
    total = np.bincount(blocks, volume[mask], minlength=_BLOCKS**3)
    enough = count > 0.1 * mask.sum() / _BLOCKS**3
    return np.where(enough, total / np.maximum(count, 1) / whole, 1.0)


def predict_class(features, classes, participants, seed=0):
    """Guess a class, such as site or sex, of participants who were left out.

    Parameters
    ----------
    features : array_like, shape (n, n_features)
        Of :func:`scan_features`.
    classes : sequence of str, length n
    participants : sequence of str, length n
        All scans of a participant are left out together.
    seed : int
        Of the classifier.

    Returns
    -------
    Prediction or None
        Balanced accuracy of logistic regression; None unless two classes or more are each held by
        two participants or more (scans of other classes are left out), and can be told from each
        other without any one participant.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    classes, participants = np.asarray(classes, dtype=str), np.asarray(participants, dtype=str)
    held = {c: len(set(participants[classes == c])) for c in set(classes)}
    used = np.array([held[c] >= 2 for c in classes], dtype=bool)
    names = sorted(set(classes[used]))
    if len(names) < 2:
        return None
    x, y, groups = np.asarray(features)[used], classes[used], participants[used]
    model = _scaled(LogisticRegression(max_iter=2000, class_weight="balanced", random_state=seed))
    # Each class is dealt to the folds: none may lack in a fold's training.
    folds = StratifiedGroupKFold(min(MOST_FOLDS, *(held[c] for c in names)))
    splits = list(folds.split(x, y, groups))
    if any(set(y[train]) != set(names) for train, _ in splits):
        return None
    guessed = cross_val_predict(model, x, y, cv=splits)
    return Prediction(float(balanced_accuracy_score(y, guessed)), 1 / len(names), len(y))


def predict_number(features, numbers, participants):
    """Guess a number, such as age, of participants who were left out.

    Parameters
    ----------
    features : array_like, shape (n, n_features)
    numbers : sequence of float, length n
        Scans without one (NaN) are left out.
    participants : sequence of str, length n

    Returns
    -------
    Prediction or None
        Of ridge regression; None with fewer than eight participants, or where nothing varies. (A
        correlation would be no score: where nothing is told, what is guessed of a participant is
        the mean of the others, which falls as their own number rises.)
    """
    from sklearn.dummy import DummyRegressor
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import GroupKFold, cross_val_predict

    numbers = np.asarray(numbers, dtype=np.float64)
    used = np.isfinite(numbers)
    x, y, groups = np.asarray(features)[used], numbers[used], np.asarray(participants)[used]
    if len(set(groups)) < FEWEST or y.std() == 0:
        return None
    model = _scaled(RidgeCV(alphas=np.logspace(-1, 4, 11)))
    folds = GroupKFold(min(MOST_FOLDS, len(set(groups))))
    guessed, others = (
        cross_val_predict(m, x, y, groups=groups, cv=folds) for m in (model, DummyRegressor())
    )
    score = 1 - np.square(y - guessed).sum() / np.square(y - others).sum()
    return Prediction(float(score), 0.0, len(y), float(np.abs(y - guessed).mean()))


def _scaled(model):
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), model)


def embed(features, dimensions=2):
    """Principal components of standardised features, to be drawn.

    Parameters
    ----------
    features : array_like, shape (n, n_features)
    dimensions : int

    Returns
    -------
    numpy.ndarray of float64, shape (n, dimensions)
        Each component's sign is such that its largest weight is positive.

    Raises
    ------
    InputError
        If there are fewer rows than dimensions and one.
    """
    features = np.asarray(features, dtype=np.float64)
    if len(features) <= dimensions:
        raise InputError(f"{dimensions} components need more than {len(features)} scans.")
    spread = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    _, _, axes = np.linalg.svd(scaled, full_matrices=False)
    axes = axes[:dimensions]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    return scaled @ (axes * np.sign(largest)).T
