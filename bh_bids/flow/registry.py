"""Where models are found: in the package, in the folders of $BH_MODELS, and by path."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelError

PACKAGED_MODELS = Path(__file__).resolve().parent.parent / "data" / "models"
VARIABLE = "BH_MODELS"
DESCRIPTION = "model.json"


@dataclass(frozen=True)
class Entry:
    """A model that can be called by its name.

    Attributes
    ----------
    name : str
        Name of the model's folder.
    folder : pathlib.Path
    packaged : bool
        It comes with the package.
    """

    name: str
    folder: Path
    packaged: bool


def packaged_models():
    """Names of the models that come with the package, sorted."""
    return [entry.name for entry in _entries(PACKAGED_MODELS, packaged=True)]


def list_models():
    """All models that have a name, the packaged ones first, then those of each user folder.

    Returns
    -------
    list of Entry
        One folder is listed once. A name that stands here twice is refused by
        :func:`find_model`.
    """
    found = _entries(PACKAGED_MODELS, packaged=True)
    for folder in user_folders():
        found += _entries(folder, packaged=False)
    return _distinct(found)


def user_folders():
    """Folders of the environment variable BH_MODELS (separated as in PATH), "~" expanded."""
    parts = os.environ.get(VARIABLE, "").split(os.pathsep)
    return [_expanded(part) for part in parts if part.strip()]


def find_model(name_or_path):
    """Folder of a model.

    A path (absolute, or with a separator, or beginning with "." or "~") is that folder. A bare
    name is looked up in the package, in the folders of $BH_MODELS, and in the working directory.

    Parameters
    ----------
    name_or_path : str or pathlib.Path

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ModelError
        If there is no such model, or more than one of that name: a packaged model is never
        silently replaced by another, nor another by a packaged one.
    """
    given = _expanded(name_or_path)
    if _is_path(name_or_path):
        if (given / DESCRIPTION).is_file():
            return given
        _refuse_missing(name_or_path, given)
    here = [Entry(given.name, given, False)] if (given / DESCRIPTION).is_file() else []
    matches = [entry for entry in list_models() if entry.name == str(name_or_path)]
    matches = _distinct([*matches, *here])
    if not matches:
        _refuse_missing(name_or_path, given)
    if len(matches) > 1:
        places = ", ".join(str(entry.folder.absolute()) for entry in matches)
        raise ModelError(
            f"More than one model is called '{name_or_path}': give the path of the one you mean "
            f"({places}), or rename one."
        )
    return matches[0].folder


def refuse_taken(folder):
    """Raise ModelError if a model already lies there."""
    if (Path(folder) / DESCRIPTION).exists():
        raise ModelError(f"{folder} holds a model already: choose another folder or remove it.")


def read_description(folder):
    """Content of a model folder's model.json.

    Raises
    ------
    ModelError
        If it cannot be read or is no JSON object.
    """
    path = Path(folder) / DESCRIPTION
    try:
        metadata = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}.") from None
    except RecursionError:
        raise ModelError(f"{path} is not valid JSON: it is nested too deeply.") from None
    if not isinstance(metadata, dict):
        raise ModelError(f"{path} must hold a JSON object.")
    return metadata


def _expanded(path):
    """A path with "~" expanded, or as it is where no such user has a home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _entries(folder, packaged):
    try:
        found = sorted(path.parent for path in folder.glob(f"*/{DESCRIPTION}"))
    except OSError:
        return []
    return [Entry(path.name, path, packaged) for path in found if not path.name.startswith(".")]


def _distinct(entries):
    places = {}
    for entry in entries:
        places.setdefault(entry.folder.resolve(), entry)
    return list(places.values())


def _is_path(name_or_path):
    text = os.fspath(name_or_path)
    separators = {os.sep, os.altsep or os.sep}
    return text.startswith((".", "~")) or any(s in text for s in separators)


def _refuse_missing(name_or_path, given):
    if given.is_dir():
        raise ModelError(f"{given} is no model: it has no {DESCRIPTION}.")
    names = ", ".join(dict.fromkeys(entry.name for entry in list_models())) or "none"
    searched = ", ".join(str(folder) for folder in user_folders())
    searched = f" and ${VARIABLE} ({searched})" if searched else ""
    raise ModelError(
        f"There is no model '{name_or_path}': give a model's folder, or a name from the "
        f"package{searched}: {names}."
    )
