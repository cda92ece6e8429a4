"""The templates: the MNI152 brain that defines the model's space, and the packaged head."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import nibabel as nib
import numpy as np

from ..errors import InputError
from .resampling import downsample

HEAD_TEMPLATE_DIR = Path(str(files("bh_bids.data") / "template"))
DEFAULT_SPACE = "MNI152NLin2009aSym"


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
        TemplateFlow name; it is taken from TemplateFlow's cache, or else from the network. The
        packaged template without a name, or where the named one cannot be had.

    Returns
    -------
    template : HeadTemplate
    notes : list of str
        Sentences, empty if there is nothing to tell.
    """
    if name is None:
        return packaged_head(), []
    try:
        return _from_templateflow(name), []
    except Exception as error:  # TemplateFlow raises what its network library raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        note = (
            f"Template {name} is neither in TemplateFlow's cache nor to be fetched ({reason}): "
            "the packaged head template was used."
        )
        return packaged_head(), [note]


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


def _from_templateflow(name):
    from templateflow import api

    if name not in api.templates():
        raise InputError(f"TemplateFlow knows no template {name}")
    wanted = dict(extension=".nii.gz", raise_empty=True)
    head = _first(api.get(name, resolution=1, suffix="T1w", desc=None, **wanted))
    try:
        brain = _first(api.get(name, resolution=1, label="brain", suffix="probseg", **wanted))
    except Exception:
        brain = _first(api.get(name, resolution=1, desc="brain", suffix="mask", **wanted))
    volume, affine = downsample(*_read(head), 2.0)
    probability = downsample(*_read(brain), 2.0)[0]
    return HeadTemplate(volume, probability, affine, f"SyN of TemplateFlow's {name}")


def _first(found):
    return Path(found[0] if isinstance(found, list) else found)


def _read(path):
    if not path.exists():
        raise InputError(f"The packaged template {path} is missing: install bh-bids again.")
    image = nib.as_closest_canonical(nib.load(path))
    return image.get_fdata(dtype=np.float32), image.affine
