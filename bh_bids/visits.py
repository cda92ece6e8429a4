"""Which scans of one participant may share a map of intensities: those of one contrast."""

_TOLERANCE = 0.1
"""Numbers of two sidecars that differ by a smaller share tell the same sequence: scanners choose
the shortest echo time anew at each visit."""
_OF_A_VISIT = ("sub", "ses", "run")


def of_one_contrast(scans):
    """Sort a participant's scans by scanner and sequence.

    Two scans are of one contrast if their file names differ in session and run alone, and what both
    sidecars say of scanner and sequence agrees. What one of them does not say tells nothing.

    Parameters
    ----------
    scans : sequence of bh_bids.dataset.Scan

    Returns
    -------
    list of list of bh_bids.dataset.Scan
        In the order of the first of each; a scan joins the first group that it differs from in
        none of its scans.
    """
    groups = []
    for scan in scans:
        fitting = (g for g in groups if not any(difference(scan, other) for other in g))
        group = next(fitting, None)
        if group is None:
            groups.append([scan])
        else:
            group.append(scan)
    return groups


def difference(scan, other):
    """What tells two scans of one participant apart.

    Parameters
    ----------
    scan, other : bh_bids.dataset.Scan

    Returns
    -------
    str
        Such as ``EchoTime 0.003 and 0.006``; empty if they are of one contrast.
    """
    first, second = _entities(scan), _entities(other)
    for name in sorted({*first, *second}):
        if first.get(name) != second.get(name):
            return f"{name} {first.get(name, 'none')} and {second.get(name, 'none')}"
    told, also = scan.acquisition, other.acquisition
    for name in told:
        if name in also and not _alike(told[name], also[name]):
            return f"{name} {told[name]} and {also[name]}"
    return ""


def kept_apart(scan, scans):
    """Sentences on the visits that one does not share its map of intensities with.

    That scans of other names, such as of another ``acq``, are of other contrasts goes without
    saying.

    Parameters
    ----------
    scan : bh_bids.dataset.Scan
    scans : sequence of bh_bids.dataset.Scan
        Of its participant, itself among them.

    Returns
    -------
    list of str
    """
    (own,) = (group for group in of_one_contrast(scans) if scan in group)
    others = [
        (other, difference(scan, other))
        for other in scans
        if other not in own and _entities(other) == _entities(scan)
    ]
    return [
        f"It does not share its map of intensities with {other.path.name}: "
        f"{why or 'that one is of another group'}."
        for other, why in others
    ]


def _entities(scan):
    pairs = (part.split("-", 1) for part in scan.key.split("_") if "-" in part)
    return {name: value for name, value in pairs if name not in _OF_A_VISIT}


def _alike(one, other):
    try:
        one, other = float(one), float(other)
    except (TypeError, ValueError):
        return str(one).strip().casefold() == str(other).strip().casefold()
    return abs(one - other) <= _TOLERANCE * max(abs(one), abs(other))
