"""Signal equations of the two sequences that make T1-weighted images, and receiver noise.

All times in ms, flip angles in degrees; signals in units of the receiver's gain times proton
density. Spoiling is ideal: no transverse magnetisation survives to the next pulse.
"""

import numpy as np


def spgr_signal(proton_density, t1, t2star, *, tr, te, flip_angle):
    """Steady state of the spoiled gradient echo (the Ernst equation).

    ``S = PD sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE / T2*)`` with ``E1 = exp(-TR / T1)``
    (Ernst and Anderson 1966, doi:10.1063/1.1719961).

    Parameters
    ----------
    proton_density, t1, t2star : float or numpy.ndarray
        Tissue properties, times in ms; broadcast together.
    tr, te : float
        Repetition and echo time in ms.
    flip_angle : float or numpy.ndarray
        In degrees.

    Returns
    -------
    float or numpy.ndarray
    """
    angle = np.deg2rad(flip_angle)
    e1 = np.exp(-tr / np.asarray(t1, dtype=float))
    longitudinal = proton_density * (1 - e1) / (1 - np.cos(angle) * e1)
    return longitudinal * np.sin(angle) * np.exp(-te / np.asarray(t2star, dtype=float))


def mprage_signal(
    proton_density,
    t1,
    t2star,
    *,
    tr,
    te,
    ti,
    flip_angle,
    echo_spacing,
    echoes,
    inversion_efficiency=0.96,
    centre=0.5,
    magnitude=True,
):
    """Steady state of magnetisation-prepared rapid gradient echo at the centre of k-space.

    One cycle is an inversion, a delay, ``echoes`` spoiled pulses ``echo_spacing`` apart, and a
    delay that fills the repetition time. Each step is affine in the longitudinal magnetisation,
    so is the cycle, and its fixed point is the steady state (Deichmann et al. 2000,
    doi:10.1006/nimg.2000.0601; Marques et al. 2010, doi:10.1016/j.neuroimage.2009.10.002, with
    one train).

    Parameters
    ----------
    proton_density, t1, t2star : float or numpy.ndarray
        Tissue properties, times in ms; broadcast together.
    tr : float
        Time between inversions in ms.
    te, echo_spacing : float
        Echo time and time between the train's pulses, in ms.
    ti : float
        Time from the inversion to the pulse that reads the centre of k-space, in ms.
    flip_angle : float or numpy.ndarray
        In degrees.
    echoes : int
        Number of pulses of the train.
    inversion_efficiency : float
        The inversion takes ``M`` to ``-inversion_efficiency * M``.
    centre : float
        Fraction of the train before the centre of k-space, in [0, 1).
    magnitude : bool
        Absolute value, as images show it; otherwise the sign is kept.

    Returns
    -------
    float or numpy.ndarray

    Raises
    ------
    ValueError
        If the train does not fit between the inversion and the next one.
    """
    before = int(round(centre * echoes))
    first_delay = ti - before * echo_spacing
    last_delay = tr - first_delay - echoes * echo_spacing
    if first_delay < 0 or last_delay < 0:
        raise ValueError("the readout train does not fit between two inversions")
    t1 = np.asarray(t1, dtype=float)
    angle = np.deg2rad(flip_angle)
    decay = np.exp(-echo_spacing / t1) * np.cos(angle)
    driven = (1 - np.exp(-echo_spacing / t1)) / (1 - decay)

    # Every step maps M to gain * M + offset, in units of the equilibrium magnetisation.
    recovery = np.exp(-first_delay / t1)
    to_centre = decay**before
    gain = -inversion_efficiency * recovery * to_centre
    offset = (1 - recovery) * to_centre + driven * (1 - to_centre)
    rest = decay ** (echoes - before)
    final = np.exp(-last_delay / t1)
    end_offset = (offset * rest + driven * (1 - rest)) * final + 1 - final
    before_inversion = end_offset / (1 - gain * rest * final)

    longitudinal = gain * before_inversion + offset
    signal = proton_density * longitudinal * np.sin(angle)
    signal = signal * np.exp(-te / np.asarray(t2star, dtype=float))
    return np.abs(signal) if magnitude else signal


def rician(signal, sigma, rng):
    """Magnitude of a signal with complex white noise (Gudbjartsson and Patz 1995).

    Parameters
    ----------
    signal : numpy.ndarray
        Noise-free signal, float32.
    sigma : float
        Standard deviation of the noise in the real and in the imaginary channel.
    rng : numpy.random.Generator

    Returns
    -------
    numpy.ndarray of float32
        ``sqrt((signal + n1)**2 + n2**2)``; without noise the signal's magnitude.
    """
    signal = np.asarray(signal, dtype=np.float32)
    if sigma <= 0:
        return np.abs(signal)
    real = rng.standard_normal(signal.shape, dtype=np.float32)
    real *= np.float32(sigma)
    real += signal
    imaginary = rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary *= np.float32(sigma)
    return np.hypot(real, imaginary, out=real)
