"""Colours of differences and correlations: palettes of 256 entries for pictures of 8 bits."""

import numpy as np

#: The palettes' entry for voxels outside the brain.
OUTSIDE = 255


def difference_palette():
    """Blue through dark grey to orange.

    Returns
    -------
    numpy.ndarray of uint8, shape (256, 3)
        Entries 0 to 254, 127 is zero; 255 is black, outside the brain.
    """
    colours = [[140, 220, 255], [20, 120, 225], [34, 37, 42], [215, 80, 15], [255, 215, 110]]
    return _palette([0.0, 0.25, 0.5, 0.75, 1.0], colours)


def correlation_palette():
    """Bright yellow through magenta to dark.

    Returns
    -------
    numpy.ndarray of uint8, shape (256, 3)
        Entries 0 to 254; 255 is black, outside the brain.
    """
    return _palette(
        [0.0, 0.4, 0.8, 1.0], [[255, 235, 130], [225, 85, 110], [90, 45, 110], [34, 37, 42]]
    )


def difference_levels(change, inside, limit):
    """Entries of the difference palette.

    Parameters
    ----------
    change : numpy.ndarray
        After minus before, any unit.
    inside : numpy.ndarray of bool
        The brain, same shape.
    limit : float
        The change at both ends of the palette, same unit.

    Returns
    -------
    numpy.ndarray of uint8
    """
    levels = np.round(127 + 127 * np.clip(change / limit, -1, 1)).astype(np.uint8)
    return np.where(inside, levels, np.uint8(OUTSIDE))


def nice_limit(value):
    """The smallest round number that is not below a value in per cent: 5, 10, 20, 30, 50, …

    Parameters
    ----------
    value : float

    Returns
    -------
    float

    Examples
    --------
    >>> nice_limit(3.2), nice_limit(37), nice_limit(1234)
    (5.0, 50.0, 2000.0)
    """
    for limit in (5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500):
        if value <= limit:
            return float(limit)
    return float(np.ceil(value / 1000) * 1000)


def _palette(stops, colours):
    position = np.linspace(0, 1, 255)
    palette = np.stack([np.interp(position, stops, c) for c in np.transpose(colours)], axis=1)
    return np.vstack([np.round(palette), [[0, 0, 0]]]).astype(np.uint8)
