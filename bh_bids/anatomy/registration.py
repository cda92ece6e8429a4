"""Rigid and affine registration of a brain to the model's space.

Source: Avants et al., A reproducible evaluation of ANTs similarity metric performance in brain
image registration, NeuroImage 54 (2011).
"""

import tempfile
from pathlib import Path

import ants
import numpy as np

from .ants_images import deterministic, to_ants
from .resampling import downsample

REGISTRATION_SPACING = 2.0
"""mm; twelve parameters are found as well at 2 mm as at 1 mm, in a tenth of the time."""


def register_brain(volume, affine, mask, template, template_affine, *, seed=0, sloppy=False):
    """Find the affine transform from a brain to a template brain, through a rigid one.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        Bias-corrected T1w volume, RAS axes.
    affine : numpy.ndarray, shape (4, 4)
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.
    template : numpy.ndarray, shape (x, y, z)
        Skull-stripped template, 0 outside the brain.
    template_affine : numpy.ndarray, shape (4, 4)
    seed : int
        Seed of the metric's sampling.
    sloppy : bool
        Coarse levels alone, for trials: faster and worse.

    Returns
    -------
    numpy.ndarray of float64, shape (4, 4)
        RAS+ mm of the scan to RAS+ mm of the template.
    """
    moving = to_ants(*downsample(np.where(mask, volume, 0), affine, REGISTRATION_SPACING))
    fixed = to_ants(*downsample(template, template_affine, REGISTRATION_SPACING))
    effort = {"aff_iterations": (300, 100, 0, 0)} if sloppy else {}
    with deterministic(seed), tempfile.TemporaryDirectory() as folder:
        rigid = ants.registration(
            fixed, moving, type_of_transform="Rigid", outprefix=f"{folder}/rigid_", **effort
        )
        affine_fit = ants.registration(
            fixed,
            moving,
            type_of_transform="Affine",
            initial_transform=rigid["fwdtransforms"][0],
            outprefix=f"{folder}/affine_",
            **effort,
        )
        # ITK's transform maps points of the fixed image to the moving one.
        to_scan = read_affine(affine_fit["fwdtransforms"][0])
    return np.linalg.inv(to_scan)


def read_affine(path):
    """Read a linear ITK transform file.

    Parameters
    ----------
    path : path-like
        ``.mat`` or ``.h5`` file with one linear transform.

    Returns
    -------
    numpy.ndarray of float64, shape (4, 4)
        RAS+ mm of the fixed image to RAS+ mm of the moving image.
    """
    transform = ants.read_transform(str(path))
    parameters = np.asarray(transform.parameters, dtype=np.float64)
    center = np.asarray(transform.fixed_parameters, dtype=np.float64)[:3]
    linear = parameters[:9].reshape(3, 3)
    lps = np.eye(4)
    lps[:3, :3] = linear
    lps[:3, 3] = parameters[9:] + center - linear @ center
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    return flip @ lps @ flip


def image_matrix(path):
    """How a linear ITK transform file moves an image.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    numpy.ndarray of float64, shape (4, 4)
        RAS+ mm of the *moving* image to RAS+ mm of the *fixed* image.
    """
    return np.linalg.inv(read_affine(path))


def write_affine(matrix, path):
    """Write an affine map as an ITK transform file that ANTs and its peers read.

    Parameters
    ----------
    matrix : numpy.ndarray, shape (4, 4)
        RAS+ mm of the *moving* image to RAS+ mm of the *fixed* image: the direction in which the
        transform moves an image. ITK stores the map of points the other way round.
    path : path-like
        ``.h5`` or ``.mat``.

    Returns
    -------
    pathlib.Path
    """
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    lps = flip @ np.linalg.inv(matrix) @ flip
    transform = ants.new_ants_transform(
        precision="float", dimension=3, transform_type="AffineTransform"
    )
    transform.set_fixed_parameters([0.0, 0.0, 0.0])
    transform.set_parameters([*lps[:3, :3].ravel(), *lps[:3, 3]])
    ants.write_transform(transform, str(path))
    if Path(path).suffix == ".h5":
        _drop_times(path)
    return Path(path)


def _drop_times(path):
    """Write an HDF5 file again without the times of writing: equal results are equal bytes."""
    import h5py

    aside = Path(f"{path}.tmp")
    with h5py.File(path, "r") as source, h5py.File(aside, "w") as copy:

        def add(name, item):
            if isinstance(item, h5py.Group):
                copy.create_group(name)
            else:
                copy.create_dataset(name, data=item[()], dtype=item.dtype, track_times=False)

        source.visititems(add)
    aside.replace(path)
