"""Reading JSON that others wrote."""

import json
from pathlib import Path


def read_json(path):
    """Content of a JSON file, with or without a byte order mark.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    object

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or is no JSON that one can hold in memory.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
