"""Which scans are the target's, and which site each scan is of."""

import re
from typing import NamedTuple

from ..errors import InputError
from ..reports.collect import natural

# What a model's card may say of its scanner that a sidecar says too.
CARD_FIELDS = (
    "Manufacturer",
    "ManufacturersModelName",
    "MagneticFieldStrength",
    "DeviceSerialNumber",
)
_ENTITIES = {"ses": "session", "acq": "acquisition", "ce": "contrast agent", "rec":
             "reconstruction", "run": "run", "echo": "echo", "part": "part"}  # fmt: skip
_MOST_NAMED = 8
EVERY = "all"


class Sites(NamedTuple):
    """The scans' sites.

    Attributes
    ----------
    of : dict of str to str
        Site by scan's key; "unknown" where nothing tells it.
    target : str or None
        The target's site; None where no scan is of the target.
    sentence : str
        How the target's scans were told.
    certain : bool
        False where the model's card alone told them, by its manufacturer only.
    """

    of: dict
    target: str | None
    sentence: str
    certain: bool = True


def choose_target(study, target=None, card=None):
    """Tell sites apart, and the target's from the others.

    Parameters
    ----------
    study : bh_bids.group.study.Study
    target : str, optional
        "all" for every scan; ``ses-A`` or another entity with its label (``acq-mprage``); a bare
        label of a session or an acquisition; or ``name=value`` with a column of participants.tsv
        or a field of the sidecars, such as ``ManufacturersModelName=TrioTim``.
    card : dict, optional
        The model's target domain, where no target is given.

    Returns
    -------
    Sites

    Raises
    ------
    InputError
        If the target is given and no scan is of it.
    """
    if target is None:
        return _by_card(study, card or {})
    if target == EVERY:
        return Sites(dict.fromkeys((r.key for r in study.records), "target"), "target",
                     "All scans are the target's.")  # fmt: skip
    name, equals, value = target.partition("=")
    if equals:
        told, what = _by_field(study, name.strip(), target)
        value = value.strip()
    else:
        told, value, what = _by_entity(study, target)
    sites = {key: site or "unknown" for key, site in told.items()}
    match = [site for site in sites.values() if site.casefold() == value.casefold()]
    if not match:
        raise InputError(f"No scan is of the target {target}: {what} has {_named(sites.values())}.")
    # One spelling for all that are the same.
    alike = {key: match[0] for key, site in sites.items() if site.casefold() == value.casefold()}
    return Sites(sites | alike, match[0], f"Target scans are those with {what} {match[0]}.")


def _by_field(study, name, target):
    """Sites by a column of participants.tsv or a field of the sidecars."""
    columns = {c for row in study.participants.values() for c in row} - {"participant_id"}
    if name in columns:
        told = {
            r.key: _text(study.participants.get(r.participant, {}).get(name)) for r in study.records
        }
        return told, f"the participants' {name}"
    told = {r.key: _text(r.metadata.get(name)) for r in study.records}
    if any(told.values()):
        return told, name
    raise InputError(
        f"The target {target} cannot be told: {name} is neither a column of participants.tsv "
        f"({_named(columns)}) nor a field of the scans' sidecars."
    )


def _by_entity(study, target):
    """Sites by an entity of the scans' names."""
    entity, dash, label = target.partition("-")
    if dash and entity in _ENTITIES:
        entities, value = (entity,), label
    elif re.fullmatch(r"[A-Za-z0-9+]+", target):
        entities, value = ("ses", "acq"), target
    else:
        raise InputError(
            f"The target {target} is not understood: give a session (ses-A), an acquisition "
            "(acq-mprage), or name=value with a column of participants.tsv or a sidecar's field."
        )
    tables = {e: {r.key: r.entities.get(e, "") for r in study.records} for e in entities}
    holding = [e for e in entities if value in tables[e].values()]
    if len(holding) > 1:
        raise InputError(
            f"The target {target} is a session and an acquisition: give ses-{value} or acq-{value}."
        )
    entity = (holding or entities)[0]
    return tables[entity], value, _ENTITIES[entity]


def _by_card(study, card):
    """Sites by scanner, the target's that of the model's card."""
    known = {name: _text(card.get(name)) for name in CARD_FIELDS if _text(card.get(name))}
    sites = {r.key: scanner(r.metadata) for r in study.records}
    if set(sites.values()) == {"unknown"}:
        sites = {r.key: f"ses-{r.session}" if r.session else "unknown" for r in study.records}
    if not known:
        return Sites(sites, None, "The model's card names no scanner and no --target was given.")
    words = " ".join(known.values())
    match = [
        r.key for r in study.records if all(_same(r.metadata.get(n), v) for n, v in known.items())
    ]
    if not match:
        return Sites(sites, None, f"No scan is of the model's target scanner ({words}).")
    # The card may hold for several scanners of this study, which are then one site.
    sites.update(dict.fromkeys(match, words))
    certain = "ManufacturersModelName" in known or "DeviceSerialNumber" in known
    sentence = f"Target scans are those of the model's target scanner ({words})."
    if not certain:
        sentence += " The card names its manufacturer only: give --target if that is not enough."
    return Sites(sites, words, sentence, certain)


def scanner(metadata):
    """A scanner's name from a sidecar.

    Parameters
    ----------
    metadata : dict

    Returns
    -------
    str
        Manufacturer, model and field strength; "unknown" where none is given.
    """
    strength = _text(metadata.get("MagneticFieldStrength"))
    parts = [_text(metadata.get(n)) for n in ("Manufacturer", "ManufacturersModelName")]
    parts.append(f"{strength} T" if strength else "")
    return " ".join(p for p in parts if p) or "unknown"


def _same(found, wanted):
    return _text(found).casefold() == wanted.casefold()


def _text(value):
    """A field's value as text; 3 and 3.0 are one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None or isinstance(value, (dict, list, bool)) else str(value).strip()


def _named(values):
    names = sorted({v for v in values if v and v != "unknown"}, key=natural)
    more = ", ..." if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more or "none"


def find_pairs(study, sites):
    """The target scan of each source scan's participant.

    Parameters
    ----------
    study : bh_bids.group.study.Study
    sites : Sites

    Returns
    -------
    dict of str to bh_bids.group.study.Record
        By the source scan's key; a participant's first target scan, in natural order, is the pair
        of all of their source scans. Without an entry where the participant has none.
    """
    targets = {}
    for record in study.records:
        if sites.target is not None and sites.of[record.key] == sites.target and record.preproc:
            targets.setdefault(record.participant, record)
    return {
        r.key: targets[r.participant]
        for r in study.records
        if sites.of[r.key] != sites.target and r.participant in targets
    }
