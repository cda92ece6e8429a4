"""BIDS filters: how they are written, and whether a file name or sidecar passes them."""

import re

from .errors import InputError
from .jsonfiles import read_json

# pybids' words for "absent" and "any", as JSON and TOML can hold them.
_ABSENT, _ANY = "Query.NONE", "Query.ANY"


def read_filter_file(path):
    """Read a BIDS filter file.

    Parameters
    ----------
    path : path-like
        JSON such as ``{"t1w": {"acquisition": "mprage", "session": null}}``; ``null`` selects
        files without the entity, ``"*"`` any value.

    Returns
    -------
    dict

    Raises
    ------
    InputError
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"The BIDS filter file {path} is not readable JSON: {reason}.") from None
    return checked_filters(
        content,
        f'The BIDS filter file {path} must look like {{"t1w": {{"acquisition": "mprage"}}}}.',
    )


def checked_filters(content, sentence):
    """BIDS filters of T1w scans as the settings hold them, wherever they were read.

    Parameters
    ----------
    content : object
        ``{"t1w": {...}}``; filters of other images are left out.
    sentence : str
        What to say where it looks otherwise.

    Returns
    -------
    dict

    Raises
    ------
    InputError
    """
    if not isinstance(content, dict) or not isinstance(content.get("t1w"), dict):
        raise InputError(sentence)
    return {"t1w": spell_none(content["t1w"])}


def spell_none(value):
    """The same with the string ``Query.NONE`` for None at any depth, as TOML can hold it.

    Parameters
    ----------
    value : object
        Of JSON: dictionaries, sequences, strings, numbers, None.

    Returns
    -------
    object
    """
    if isinstance(value, dict):
        return {key: spell_none(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [spell_none(item) for item in value]
    return _ABSENT if value is None else value


def has_entity(name, entity, wanted, regex):
    """Whether a file's name has a wanted value of a pybids entity.

    Parameters
    ----------
    name : str
        Relative to the dataset, with forward slashes.
    entity : bids.layout.Entity
    wanted : object or sequence of object
        One value or several of which one is enough; none at all is any.
    regex : bool
        Whether the values are regular expressions.

    Returns
    -------
    bool
    """
    match = entity.regex.search(f"/{name}")
    found = None if match is None else _typed(entity, match[1])
    values = wanted if isinstance(wanted, (list, tuple)) else [wanted]
    values = [value if _is_special(value) else _typed(entity, value) for value in values]
    return not values or any(_is_wanted(found, value, regex) for value in values)


def has_fields(metadata, fields):
    """Whether fields of sidecars have values that are wanted.

    Parameters
    ----------
    metadata, fields : dict
        What the sidecars say, and for each field the value, or several of which one is enough.

    Returns
    -------
    bool
    """

    def has(name, wanted):
        found = metadata.get(name)
        values = wanted if isinstance(wanted, (list, tuple)) else [wanted]
        return found == wanted or any(_is_wanted(found, value) for value in values)

    return all(has(name, wanted) for name, wanted in fields.items())


def query_values(entities):
    """The same with pybids' own values for "absent" and "any", which JSON cannot hold.

    Parameters
    ----------
    entities : dict
        Of a filter.

    Returns
    -------
    dict
        As ``BIDSLayout.get`` takes them.
    """
    from bids.layout import Query

    special = {_ABSENT: Query.NONE, _ANY: Query.ANY, "*": Query.ANY}

    def own(value):
        if isinstance(value, (list, tuple)):
            return [own(item) for item in value]
        return special.get(value, value) if isinstance(value, str) else value

    return {name: own(value) for name, value in entities.items()}


def _is_wanted(found, value, regex=False):
    """Whether something found, or not found (None), is what one value of a filter asks for."""
    if value in (None, _ABSENT):
        return found is None
    if found is None or value in ("*", _ANY):
        return found is not None
    if regex:
        return re.search(str(value), str(found), re.IGNORECASE) is not None
    return found == value


def _is_special(value):
    return value is None or value in (_ABSENT, _ANY, "*")


def _typed(entity, value):
    """A value in an entity's type, ``run-01`` as 1; as it is if it cannot be of that type."""
    try:
        return entity.dtype(value)
    except (TypeError, ValueError):
        return value
