"""The templates: the brains that define the models' spaces, and the packaged head."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import nibabel as nib
import numpy as np

from ..errors import InputError
from .resampling import downsample, resample

HEAD_TEMPLATE_DIR = Path(str(files("bh_bids.data") / "template"))
DEFAULT_SPACE = "MNI152NLin2009aSym"
HEAD_SPACING = 2.0
"""mm; head templates are used at it."""
_MODIFIERS = {"cohort": "cohort", "res": "resolution"}


@cache
def mni_brain():
    """MNI152 2009a symmetric T1w average, skull-stripped, from the nilearn package.

    Returns
    -------
    volume : numpy.ndarray of float32, shape (197, 233, 189)
        0-255, RAS axes, 1 mm.
    affine : numpy.ndarray, shape (4, 4)

    Notes
    -----
    Source: Fonov et al., Unbiased average age-appropriate atlases for pediatric studies,
    NeuroImage 54 (2011).
    """
    name = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    return _read(Path(str(files("nilearn") / "datasets" / "data" / name)))


@cache
def space_brain(space=DEFAULT_SPACE):
    """The skull-stripped T1w template that defines a space.

    Parameters
    ----------
    space : str
        ``MNI152NLin2009aSym``, whose brain is packaged, or a TemplateFlow name.

    Returns
    -------
    volume : numpy.ndarray of float32, shape (x, y, z)
        RAS axes, 1 mm where there is such a resolution, 0 outside the brain.
    affine : numpy.ndarray, shape (4, 4)

    Raises
    ------
    InputError
        If TemplateFlow has no such template, neither in its cache nor in the network.
    """
    if space == DEFAULT_SPACE:
        return mni_brain()
    try:
        head, probability, _ = _template_files(space)
        volume, affine = _read(head)
        brain = _on_grid_of(volume, affine, probability)
    except Exception as error:  # TemplateFlow raises what its network library raises
        raise InputError(
            f"The template of the space {space} is neither in TemplateFlow's cache nor to be "
            f"fetched ({_reason(error)}): put its T1w image and brain mask into "
            "TEMPLATEFLOW_HOME."
        ) from None
    return np.where(brain > 0.5, volume, 0), affine


def mni_tissues():
    """Probabilities of grey and white matter of the same average, from the nilearn package.

    Returns
    -------
    probabilities : numpy.ndarray of float32, shape (2, 197, 233, 189)
        Grey matter, white matter; 0-1, RAS axes, 1 mm.
    affine : numpy.ndarray, shape (4, 4)

    Notes
    -----
    Source: as of :func:`mni_brain`.
    """
    folder = Path(str(files("nilearn") / "datasets" / "data"))
    maps = [
        _read(folder / f"mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz")
        for tissue in ("gm", "wm")
    ]
    volumes = np.stack([volume for volume, _ in maps])
    return np.clip(volumes / max(float(volumes.max()), 1e-6), 0, 1), maps[0][1]


@dataclass(frozen=True)
class HeadTemplate:
    """A whole-head T1w template.

    Attributes
    ----------
    volume : numpy.ndarray of float32, shape (x, y, z)
    probability : numpy.ndarray of float32, shape (x, y, z)
        Probability of brain, 0-1.
    affine : numpy.ndarray, shape (4, 4)
    method : str
        How a mask made with it is to be called.
    """

    volume: np.ndarray
    probability: np.ndarray
    affine: np.ndarray
    method: str


def find_head_template(name=None):
    """The head template to use, and what to tell about the choice.

    Parameters
    ----------
    name : str, optional
        TemplateFlow name, with a cohort and a resolution where wanted, as
        ``MNIPediatricAsym:cohort-2:res-1``; it is taken from TemplateFlow's cache, or else from the
        network. The packaged template without a name, or where the named one cannot be had.

    Returns
    -------
    template : HeadTemplate
        Its ``method`` says where it came from.
    notes : list of str
        Sentences, empty if there is nothing to tell.
    """
    if name is None:
        return packaged_head(), []
    try:
        return _from_templateflow(name), []
    except Exception as error:  # TemplateFlow raises what its network library raises
        note = (
            f"Template {name} is neither in TemplateFlow's cache nor to be fetched "
            f"({_reason(error)}): the packaged head template was used."
        )
        return packaged_head(), [note]


def template_name(text):
    """A template's name and its modifiers.

    Parameters
    ----------
    text : str
        ``NAME[:cohort-LABEL][:res-LABEL]``.

    Returns
    -------
    name : str
    entities : dict
        ``cohort`` and ``resolution``, as far as they are given.

    Raises
    ------
    InputError
    """
    name, *modifiers = text.split(":")
    entities = {}
    for modifier in modifiers:
        key, _, value = modifier.partition("-")
        if key not in _MODIFIERS or not value.isalnum() or _MODIFIERS[key] in entities:
            raise InputError(
                f"The template {text!r} cannot be read: write NAME, NAME:cohort-LABEL, "
                "NAME:res-LABEL, or NAME:cohort-LABEL:res-LABEL."
            )
        entities[_MODIFIERS[key]] = int(value) if value.isdigit() else value
    if not name.isalnum():
        raise InputError(f"The template {text!r} cannot be read: a name is letters and digits.")
    return name, entities


@cache
def packaged_head():
    """Packaged average head and its brain probability map, in MNI152 space, 2 mm.

    Returns
    -------
    HeadTemplate
    """
    volume, affine = _read(HEAD_TEMPLATE_DIR / "head_T1w.nii.gz")
    probability, _ = _read(HEAD_TEMPLATE_DIR / "head_label-brain_probseg.nii.gz")
    return HeadTemplate(volume, probability / 255, affine, "SyN of the packaged head template")


def _reason(error):
    """Why a template cannot be had: our own words, or what kind of failure it was."""
    return str(error) if isinstance(error, InputError) else type(error).__name__


def _template_files(text):
    """A template's head and brain files, and whether both were in the cache."""
    from templateflow import api

    name, entities = template_name(text)
    if name not in api.templates():
        raise InputError(f"TemplateFlow knows no template {name}")
    head = _choose(api, name, {**entities, "suffix": "T1w", "desc": None})
    wanted = {k: v for k, v in _entities(head).items() if k in ("cohort", "resolution")}
    try:
        brain = _choose(api, name, {**wanted, "suffix": "probseg", "label": "brain"})
    except InputError:
        brain = _choose(api, name, {**wanted, "suffix": "mask", "desc": "brain"})
    cached = all(path.is_file() and path.stat().st_size for path in (head, brain))
    if not cached:
        for path in (head, brain):
            api.get(name, **_entities(path), extension=".nii.gz", raise_empty=True)
    return head, brain, cached


def _on_grid_of(volume, affine, path):
    """A brain's mask or probability on a template's grid, 0-1."""
    probability, grid = _read(path)
    if probability.shape != volume.shape or not np.allclose(grid, affine, atol=1e-3):
        probability = resample(probability, grid, volume.shape, affine)
    return probability / max(float(probability.max()), 1e-6)


def _from_templateflow(text):
    head, brain, cached = _template_files(text)
    volume, affine = _read(head)
    probability = _on_grid_of(volume, affine, brain)
    small, coarse = downsample(volume, affine, HEAD_SPACING)
    small_probability = downsample(probability, affine, HEAD_SPACING)
    source = "its cache" if cached else "the network"
    method = f"SyN of TemplateFlow's {text}, {head.name}, from {source}"
    return HeadTemplate(small, small_probability[0], coarse, method)


def _choose(api, name, entities):
    """The one file of a template that is meant; at 1 mm where no resolution was asked for."""
    found = [Path(p) for p in api.ls(name, extension=".nii.gz", **entities)]
    if len(found) > 1 and "resolution" not in entities:
        found = [p for p in found if _entities(p).get("resolution") == 1] or found
    if not found:
        asked = ", ".join(f"{k} {v}" for k, v in entities.items() if v is not None)
        raise InputError(f"TemplateFlow's {name} has no image with {asked}")
    cohorts = sorted({str(_entities(p).get("cohort")) for p in found})
    if len(cohorts) > 1:
        raise InputError(f"{name} has the cohorts {', '.join(cohorts)}: write {name}:cohort-LABEL")
    return sorted(found)[0]


def _entities(path):
    """TemplateFlow's entities of a file's name, in the words of its interface."""
    parts = path.name.split(".")[0].split("_")
    found = dict(part.split("-", 1) for part in parts if "-" in part)
    names = {"res": "resolution", "cohort": "cohort", "label": "label", "desc": "desc"}
    entities = {names[k]: int(v) if v.isdigit() else v for k, v in found.items() if k in names}
    return {"desc": None, **entities, "suffix": parts[-1]}


def _read(path):
    if not path.exists():
        raise InputError(f"The packaged template {path} is missing: install bh-bids again.")
    image = nib.as_closest_canonical(nib.load(path))
    return image.get_fdata(dtype=np.float32), image.affine
