"""Do sites agree on what they measure of the same people? Intraclass correlation and variation."""

import numpy as np

from ..errors import InputError

KINDS = ("2,1", "3,1")


def icc(table, kind="2,1"):
    """Intraclass correlation of single measurements.

    Parameters
    ----------
    table : array_like, shape (participants, sites)
        One measurement of each participant at each site, such as a tissue's volume.
    kind : {"2,1", "3,1"}
        "2,1": absolute agreement, sites a random sample of all sites (two-way random); "3,1":
        consistency, where a constant difference between sites does not count (two-way mixed).

    Returns
    -------
    float
        At most 1; NaN where nothing varies.

    Raises
    ------
    InputError
        If there are fewer than two participants or sites, or values are missing.

    Notes
    -----
    Shrout and Fleiss (1979), Psychological Bulletin 86(2), their names.
    """
    table = _complete(table)
    if kind not in KINDS:
        raise InputError(f"There is no ICC({kind}) here: choose one of {', '.join(KINDS)}.")
    n, k = table.shape
    rows, columns = table.mean(axis=1), table.mean(axis=0)
    grand = table.mean()
    between = k * float(((rows - grand) ** 2).sum()) / (n - 1)
    sites = n * float(((columns - grand) ** 2).sum()) / (k - 1)
    rest = table - rows[:, None] - columns + grand
    error = float((rest**2).sum()) / ((n - 1) * (k - 1))
    below = between + (k - 1) * error
    if kind == "2,1":
        below += k * (sites - error) / n
    return (between - error) / below if below > 0 else float("nan")


def coefficient_of_variation(table):
    """Coefficient of variation between sites within a participant.

    Parameters
    ----------
    table : array_like, shape (participants, sites)
        Positive measurements.

    Returns
    -------
    float
        Root mean square over participants of standard deviation (n - 1) over mean; 0.01 is 1 %.
        NaN where a participant's mean is not positive.

    Raises
    ------
    InputError
        If there are fewer than two participants or sites, or values are missing.
    """
    table = _complete(table)
    means = table.mean(axis=1)
    if not (means > 0).all():
        return float("nan")
    return float(np.sqrt(np.mean((table.std(axis=1, ddof=1) / means) ** 2)))


def _complete(table):
    table = np.asarray(table, dtype=np.float64)
    if table.ndim != 2 or min(table.shape) < 2 or not np.isfinite(table).all():
        raise InputError(
            "Agreement needs a table of two or more participants (rows) and two or more sites "
            "(columns) without gaps."
        )
    return table
