"""What the mapping needs to know of a target domain, learned once from its training scans."""

from dataclasses import dataclass, fields

import numpy as np

from ..errors import InputError, ModelError
from .field import Lattice, orders
from .intensity import SHARES, brain_quantiles, map_between
from .null_field import learn_null_field
from .resolution import AXES, RINGS, blur_between, detail_spectrum
from .ruler import (
    ARRAYS,
    ASKED,
    COLUMNS,
    ContrastRuler,
    leave_one_out,
    together_told,
    trusted_share,
)
from .scanner import log_quantiles, spread_of
from .spectrum import power_spectrum
from .steady import Agreement, samples
from .tissue import LEVELS as BRIGHTNESSES
from .tissue import Surroundings, together, unevenness
from .versions import Usual, versions_seen

# Deviations of brightness that are told apart when asking whether a scan looks like the target's:
# of those from the usual, and of those from what the ruler expects, which are smaller and alike.
COMPONENTS, TOLD_COMPONENTS = 3, 1
# Directions of what the ruler leaves, as the scanner prior knows it.
TOLD_SPREAD = 32
MIN_SCANS = 4
# Blur of scans too small to tell one: nothing is blurred beyond it.
NEVER = 1e6


@dataclass(frozen=True)
class Calibration:
    """Constants of one target domain; all arrays float64, intensities in target units.

    Attributes
    ----------
    quantiles : numpy.ndarray, shape (LEVELS,)
        Usual ones, of the target's brains together.
    histograms : numpy.ndarray, shape (blocks, BINS)
        Local histograms of log-intensity.
    null_field, null_covariance : numpy.ndarray, shapes (functions,) and (functions, functions)
        Mean of the fields that are found on target scans, and covariance about it, at the target's
        contrast (:func:`bh_bids.mapping.null_field.learn_null_field`).
    modes, mode_sd : numpy.ndarray, shapes (components, LEVELS) and (components,)
        Principal deviations of training scans' quantiles, at most COMPONENTS, and their standard
        deviations.
    rest_sd : numpy.ndarray, shape ()
        Root mean square of what those leave.
    ruler_centre, ruler_scale, ruler_offset, ruler_weights, ruler_modes, ruler_limit : numpy.ndarray
        Of the :class:`bh_bids.mapping.ruler.ContrastRuler`.
    told_modes, told_sd, told_rest : numpy.ndarray
        The same as modes, mode_sd and rest_sd, of what the ruler leaves of the deviations of
        training scans, as they are, that it was not fitted to; at most TOLD_COMPONENTS.
    ruler_gain : numpy.ndarray, shape ()
        Share of the deviations' variance that the ruler explains in scans that it was not fitted
        to, disturbed versions included.
    ruler_error : numpy.ndarray, shape ()
        Root mean square of what it leaves of them, target units.
    own_spread : numpy.ndarray, shape (scans, LEVELS)
        Deviations of the training scans' log-quantiles from the usual ones
        (:func:`bh_bids.mapping.scanner.spread_of`).
    told_spread : numpy.ndarray, shape (at most TOLD_SPREAD, LEVELS)
        The same of those, disturbed versions included, from the quantiles that a ruler expects that
        was not fitted to the scan.
    slopes_centre, slopes_scale, slopes_offset, slopes_weights, slopes_modes, slopes_limit
        Of a second :class:`~bh_bids.mapping.ruler.ContrastRuler`, which goes by what the flow asks
        of the contrast (:mod:`bh_bids.flow.slopes`); it was fitted to scans that no scanner has
        disturbed, as they are and with other anatomies. Empty where the flow cannot be asked, or
        tells nothing that the other ruler does not.
    both_error, both_spread : numpy.ndarray
        The same as ruler_error and told_spread, of such scans, of what ruler and slopes tell
        together.
    steady : numpy.ndarray, shape (3, n)
        Places where participants agree (:meth:`bh_bids.mapping.steady.Agreement.places`).
    sharpness : numpy.ndarray, shape (2,)
        Mean and standard deviation over the training scans and their disturbed versions.
    spectrum : numpy.ndarray, shape (BANDS,)
        Mean power spectrum of the scans less the target's mean volume.
    detail : numpy.ndarray, shape (RINGS, AXES)
        Mean of the scans' :func:`bh_bids.mapping.resolution.detail_spectrum`, each brought to the
        usual quantiles.
    null_blur : numpy.ndarray, shape (scans, AXES)
        Blur of each training scan against the others, voxels squared.
    local_contrast : numpy.ndarray, shape (BRIGHTNESSES,)
        Mean of the scans' :meth:`bh_bids.mapping.tissue.Surroundings.local_contrast`, each brought
        to the usual quantiles.
    null_unevenness : numpy.ndarray, shape (scans,)
        How unevenly each training scan's differs from the others'.
    """

    quantiles: np.ndarray
    histograms: np.ndarray
    null_field: np.ndarray
    null_covariance: np.ndarray
    modes: np.ndarray
    mode_sd: np.ndarray
    rest_sd: np.ndarray
    ruler_centre: np.ndarray
    ruler_scale: np.ndarray
    ruler_offset: np.ndarray
    ruler_weights: np.ndarray
    ruler_modes: np.ndarray
    ruler_limit: np.ndarray
    told_modes: np.ndarray
    told_sd: np.ndarray
    told_rest: np.ndarray
    ruler_gain: np.ndarray
    ruler_error: np.ndarray
    own_spread: np.ndarray
    told_spread: np.ndarray
    slopes_centre: np.ndarray
    slopes_scale: np.ndarray
    slopes_offset: np.ndarray
    slopes_weights: np.ndarray
    slopes_modes: np.ndarray
    slopes_limit: np.ndarray
    both_error: np.ndarray
    both_spread: np.ndarray
    steady: np.ndarray
    sharpness: np.ndarray
    spectrum: np.ndarray
    detail: np.ndarray
    null_blur: np.ndarray
    local_contrast: np.ndarray
    null_unevenness: np.ndarray

    @property
    def scans(self):
        """Number of the training scans."""
        return len(self.own_spread)

    @property
    def ruler(self):
        """The contrast ruler."""
        return self._ruler("ruler")

    @property
    def slopes(self):
        """The ruler that goes by the flow's slopes, or None."""
        return self._ruler("slopes") if self.slopes_scale.size else None

    def _ruler(self, name):
        return ContrastRuler.from_arrays(**{n: getattr(self, f"{name}_{n}") for n in ARRAYS})

    def unlikeness(self, quantiles):
        """How far a brain's quantiles lie from the training scans'; about 1 for one of them.

        Root mean square of the z-values of the principal deviations and of the rest.
        """
        return _size(quantiles - self.quantiles, self.modes, self.mode_sd, self.rest_sd)

    def unlikeness_told(self, quantiles, expected):
        """The same from the quantiles that the ruler expects, by what it leaves of target scans."""
        return _size(quantiles - expected, self.told_modes, self.told_sd, self.told_rest)

    def to_arrays(self):
        """Dictionary of the arrays, by name."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays):
        """A calibration from :meth:`to_arrays`' dictionary.

        Returns
        -------
        Calibration or None
            None if the arrays are those of another version of bh-bids: the model then lacks the
            constants, and is to be calibrated again.

        Raises
        ------
        ModelError
            If an array holds NaN or infinity.
        """
        if set(arrays) != {field.name for field in fields(cls)}:
            return None
        functions = len(orders())
        shapes = {
            "null_field": (functions,),
            "null_covariance": (functions, functions),
            "ruler_centre": (COLUMNS,),
            "detail": (RINGS, AXES),
            "local_contrast": (BRIGHTNESSES,),
        }
        if any(np.shape(arrays[name]) != shape for name, shape in shapes.items()):
            return None
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise ModelError(f"'{name}' of the model's calibration holds NaN or infinity.")
        return cls(**{name: np.asarray(array, dtype=np.float64) for name, array in arrays.items()})


def calibrate(volumes, mean, voxel_size, report=lambda sentence: None, *, pooled=None, slopes=None):
    """Learn the constants of a target domain.

    Parameters
    ----------
    volumes : callable
        ``volumes()`` iterates over the training scans (x, y, z), one of each participant, float32,
        target units, 0 outside the brain. It is called nine times, so that the scans need not be
        in memory together.
    mean : numpy.ndarray, shape (x, y, z)
        Mean of the scans.
    voxel_size : tuple of float
        Millimetres.
    report : callable
        Called with one sentence at a time.
    pooled : array_like, shape (q,), optional
        Quantiles of the target's brains together, evenly spaced from 0 to 100 %, as the model
        describes its target by; without, they are those of the scans.
    slopes : callable, optional
        ``slopes(matched, mask)`` gives what the flow asks of the contrast of a volume whose
        histogram was matched (:class:`bh_bids.flow.slopes.ContrastSlopes`).

    Returns
    -------
    Calibration

    Raises
    ------
    InputError
        If there are fewer than four scans.
    """
    quantiles = np.stack([brain_quantiles(volume[volume > 0]) for volume in volumes()])
    if len(quantiles) < MIN_SCANS:
        raise InputError(
            f"{len(quantiles)} scans are too few to calibrate a target domain: at least "
            f"{MIN_SCANS} are needed."
        )
    pooled = _usual_quantiles(quantiles, pooled)
    deviations = quantiles - pooled
    report("Learning what the target shows at each place.")
    lattice = Lattice(mean.shape, voxel_size)
    histograms, null_field, null_covariance = learn_null_field(volumes, lattice, pooled)
    detail, blur = _null_blur(volumes(), quantiles, pooled)
    contrast, uneven = _null_unevenness(volumes(), quantiles, pooled)
    report("Learning what goes with the participants' own contrast.")
    agreement = Agreement(samples(volume, volume > 0, lattice) for volume in volumes())
    usual = Usual(pooled, lattice, histograms, len(quantiles))
    seen = versions_seen(volumes(), usual, agreement, voxel_size, report, slopes)
    profiles, of_each, sharpness = (
        np.array([[getattr(v, name) for v in scan] for scan, _ in seen])
        for name in ("profile", "deviation", "sharpness")
    )
    ruler = ContrastRuler(profiles, of_each)
    told = leave_one_out(profiles, of_each)
    left = of_each - told
    error = max(np.sqrt(np.mean(left**2)), 1e-6)
    gain = 1 - np.square(left).mean() / max(np.square(of_each).mean(), 1e-12)
    # Of few scans few deviations: something must be left by which to know the rest.
    most = len(deviations) // 2 - 1
    modes, mode_sd, rest_sd = _principal(deviations, min(COMPONENTS, most))
    # Whether a scan may be the target's own is asked of the target's scans as they are.
    told_modes, told_sd, told_rest = _principal(left[:, 0], min(TOLD_COMPONENTS, most))
    return Calibration(
        quantiles=pooled,
        histograms=histograms,
        null_field=null_field,
        null_covariance=null_covariance,
        modes=modes,
        mode_sd=mode_sd,
        rest_sd=rest_sd,
        **{f"ruler_{name}": array for name, array in ruler.arrays.items()},
        told_modes=told_modes,
        told_sd=told_sd,
        told_rest=told_rest,
        ruler_gain=np.asarray(gain),
        ruler_error=np.asarray(error),
        own_spread=spread_of(_log_deviations(of_each[:, 0], pooled, pooled), len(of_each)),
        told_spread=_told_spread(of_each, told, error, pooled),
        **_learn_slopes([clean for _, clean in seen], profiles, of_each, pooled),
        steady=agreement.places(),
        sharpness=np.array([sharpness.mean(), max(sharpness.std(), 1e-3)]),
        spectrum=power_spectrum(volumes(), mean),
        detail=detail,
        null_blur=blur,
        local_contrast=contrast,
        null_unevenness=uneven,
    )


def _learn_slopes(clean, profiles, of_each, pooled):
    """The ruler by the flow's slopes, and what it and the other leave, of undisturbed scans.

    Parameters
    ----------
    clean : list of list of bh_bids.mapping.versions.Version
        The versions of each scan that the flow was asked of.
    profiles, of_each : numpy.ndarray
        What the other ruler is fitted to.
    pooled : numpy.ndarray, shape (LEVELS,)
    """
    names = (*(f"slopes_{name}" for name in ARRAYS), "both_error", "both_spread")
    nothing = {name: np.zeros(0) for name in names}
    if not clean[0]:
        return nothing
    asked, own, slopes = (
        np.array([[getattr(v, name) for v in scan] for scan in clean])
        for name in ("profile", "deviation", "slopes")
    )
    by_texture = leave_one_out(profiles, of_each, asked=asked)
    told = together_told(by_texture, leave_one_out(slopes, own))
    error = max(np.sqrt(np.mean((own - told) ** 2)), 1e-6)
    if error >= np.sqrt(np.mean((own - by_texture) ** 2)):
        return nothing
    return {
        **{f"slopes_{name}": array for name, array in ContrastRuler(slopes, own).arrays.items()},
        "both_error": np.asarray(error),
        "both_spread": _told_spread(own, told, error, pooled),
    }


def _told_spread(of_each, told, error, pooled):
    """Spread of the log-quantiles about those that the ruler expects, as far as it is asked."""
    sizes = np.sqrt(np.mean(told**2, axis=-1)) / error
    shares = np.reshape([trusted_share(size, ASKED) for size in sizes.flat], sizes.shape)
    expected = np.maximum.accumulate(pooled + shares[..., None] * told, axis=-1)
    left = _log_deviations(of_each, expected, pooled)
    return spread_of(left.reshape(-1, left.shape[-1]), TOLD_SPREAD)


def _log_deviations(deviations, expected, pooled):
    """Of log-quantiles, that deviate so from the usual, from the expected."""
    return log_quantiles(pooled + deviations) - log_quantiles(expected)


def _usual_quantiles(quantiles, pooled):
    """Quantiles of all brains together at ``SHARES``, of which the map's target is made.

    They are those that a histogram match goes by: where the ruler says nothing, the map is that
    match. (Averaged quantiles err as little on average, but not in the same scans.)
    """
    usual = np.quantile(quantiles, SHARES)
    if pooled is not None:
        shares = np.linspace(0, 1, len(pooled))
        # The ends of a brain's histogram are single voxels'.
        inner = (SHARES >= shares[1]) & (SHARES <= shares[-2])
        usual[inner] = np.interp(SHARES[inner], shares, pooled)
    return np.maximum.accumulate(usual)


def _null_blur(volumes, quantiles, pooled):
    spectra = [
        detail_spectrum(map_between(own, pooled)(volume), volume > 0)
        for volume, own in zip(volumes, quantiles, strict=True)
    ]
    scans = len(spectra)
    if any(spectrum is None for spectrum in spectra):
        return np.zeros((RINGS, AXES)), np.full((scans, AXES), NEVER)
    mean = np.mean(spectra, axis=0)
    # A blur is linear in the spectrum: against the others' mean it is this much larger.
    return mean, blur_between(np.stack(spectra), mean) * scans / (scans - 1)


def _null_unevenness(volumes, quantiles, pooled):
    found = []
    for volume, own in zip(volumes, quantiles, strict=True):
        surroundings = Surroundings(volume > 0)
        matched = map_between(own, pooled)(volume)[surroundings.box]
        found.append(surroundings.local_contrast(matched, surroundings.mean(matched)))
    (mean, _), scans = together(found), len(found)
    # It is linear in the difference: against the others' mean it is this much larger.
    return mean, np.array([unevenness(*each, mean) for each in found]) * scans / (scans - 1)


def _size(deviation, modes, mode_sd, rest_sd):
    """Root mean square of a deviation's z-values along its modes, and of its rest."""
    scores = modes @ deviation
    rest = np.sqrt(np.mean((deviation - scores @ modes) ** 2))
    return float(np.sqrt(np.mean([*(scores / mode_sd) ** 2, (rest / rest_sd) ** 2])))


def _principal(deviations, count):
    """Principal deviations, their standard deviations, and the size of the rest."""
    _, sizes, modes = np.linalg.svd(deviations, full_matrices=False)
    mode_sd = np.maximum(sizes[:count] / np.sqrt(len(deviations) - 1), 1e-6)
    rest = deviations - deviations @ modes[:count].T @ modes[:count]
    return modes[:count], mode_sd, np.asarray(max(np.sqrt(np.mean(rest**2)), 1e-4))
