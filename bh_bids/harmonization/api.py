"""harmonize(): one volume in, one volume out, whatever the method; or several of one head."""

from dataclasses import asdict, dataclass, field

import numpy as np
import torch

from ..anatomy.lesions import usable_lesion
from ..errors import InputError, ModelError
from ..intensity import to_target_units
from ..mapping.mapping import Mapping, straight_mapping
from .device import resolve_device
from .guards import clipping, contrast_guard, finite_or_before, lesion_guard, usable_volume
from .solvers import Problem, get_solver, make_parameters
from .structure import structure_figures, structure_guards


@dataclass
class HarmonizationResult:
    """A harmonized volume and how it came about.

    Attributes
    ----------
    volume : numpy.ndarray of float32, shape (x, y, z)
        Harmonized intensities on the model's grid, in the target domain's intensity scale (target
        units times ``target_scale``), 0 outside the brain mask.
    scaled_source : numpy.ndarray of float32, shape (x, y, z)
        The source in target units, 0 outside the brain mask.
    source_scale, target_scale : float
        Intensity that is 1 in target units, of the source and of the target domain.
    trace : list of dict
        One record per iteration from 0; see :class:`bh_bids.harmonization.solvers.Solution`.
    parameters : dict
        All parameters of the method, defaults included.
    method, device : str
    seed : int
    converged : bool
    iterations : int
    guards : list of str
        Sentences on what is doubtful or was left out.
    mapping : bh_bids.mapping.mapping.Mapping
        What of the change is a mapping of intensities and a field, target units: the method's own,
        or the straight line nearest to what it did.
    decisions : dict
        Whether each stage of the method was applied, and on what figures.
    contrast : float
        Correlation of the source with the target domain's mean inside the brain.
    structure : dict
        What became of the brain's structure: :func:`.structure.structure_figures`.
    clipping : dict of str to int
        Voxels of the brain that were cut off: :func:`.guards.clipping`.
    lesion : dict
        Of the lesion, if its mask was given: :func:`.guards.lesion_guard`.
    """

    volume: np.ndarray
    scaled_source: np.ndarray
    source_scale: float
    target_scale: float
    trace: list
    parameters: dict
    method: str
    device: str
    seed: int
    converged: bool
    iterations: int
    guards: list = field(default_factory=list)
    mapping: Mapping | None = None
    decisions: dict = field(default_factory=dict)
    contrast: float = float("nan")
    structure: dict = field(default_factory=dict)
    clipping: dict = field(default_factory=dict)
    lesion: dict = field(default_factory=dict)


def harmonize(
    volume,
    mask,
    model,
    *,
    method="map",
    device="auto",
    seed=0,
    progress=None,
    lesion=None,
    **parameters,
):
    """Harmonize one T1w volume to a model's target domain.

    Parameters
    ----------
    volume : array_like, shape (x, y, z)
        Raw intensities, RAS, on the model's grid (``model.config.shape``, ``.affine``),
        skull-stripped or not.
    mask : array_like of bool, shape (x, y, z)
        Brain mask on the same grid.
    model : TargetModel
        From :func:`bh_bids.load_model`; its flow is moved to the device.
    method : str
        Name of a solver; see ``bh_bids.harmonization.solvers.SOLVERS``.
    device : str
        "auto", "cpu", "cuda" or "cuda:N".
    seed : int
        Of whatever the method draws.
    progress : callable, optional
        Called as ``progress(iteration, iterations, record)`` after each iteration.
    lesion : array_like of bool, shape (x, y, z), optional
        Lesions: they are harmonized, but nothing but the noise level is estimated from them.
    **parameters
        Of the method: :class:`bh_bids.harmonization.map.MapParameters` or
        :class:`bh_bids.harmonization.paper.PaperParameters`.

    Returns
    -------
    HarmonizationResult

    Raises
    ------
    InputError
        If volume or mask do not lie on the model's grid or are unusable, the contrast is clearly
        inverted, or method or parameters are unknown or out of range.
    ModelError
        If the model lacks its intensity scale or quantiles.
    DeviceError
        If the device is not there.
    """
    return harmonize_together(
        [volume],
        [mask],
        model,
        method=method,
        device=device,
        seed=seed,
        progress=progress,
        lesions=[lesion],
        **parameters,
    )[0]


def harmonize_together(
    volumes,
    masks,
    model,
    *,
    method="map",
    device="auto",
    seed=0,
    progress=None,
    lesions=None,
    names=None,
    **parameters,
):
    """Harmonize several T1w volumes of one head by one scanner, with one intensity map for all.

    What differs between the visits of a participant then stays, which maps of their own would make
    alike. Each volume keeps its own gain, bias field and noise. The method "paper" has no mapping
    to share: it harmonizes each volume for itself.

    Parameters
    ----------
    volumes, masks : sequence of array_like, shape (x, y, z)
        As of :func:`harmonize`.
    model : TargetModel
    method, device, seed, progress
        As of :func:`harmonize`.
    lesions : sequence of array_like or None, optional
        A lesion mask, or None, per volume.
    names : sequence of str, optional
        What the volumes are called where one cannot be used.
    **parameters
        Of the method.

    Returns
    -------
    list of HarmonizationResult

    Raises
    ------
    InputError, ModelError, DeviceError
        As :func:`harmonize`.
    """
    if not len(volumes):
        raise InputError("There is no volume to harmonize.")
    solver = get_solver(method)
    settings = make_parameters(solver, method, parameters)
    place = resolve_device(device)
    if model.mean is None:
        model.require_calibrated()
    target_scale = _target_scale(model)
    model = model.to(place)
    absent = [None] * len(volumes)
    heads = []
    for volume, mask, lesion, name in zip(
        volumes,
        masks,
        absent if lesions is None else lesions,
        absent if names is None else names,
        strict=True,
    ):
        try:
            heads.append(_prepare(volume, mask, lesion, model, place, seed, progress))
        except InputError as error:
            raise (InputError(f"{name}: {error}") if name else error) from None
    # The fastest convolution may differ from run to run; the same bytes are promised.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        solutions = solver.solve([head.problem for head in heads], settings)
    common = {
        "target_scale": target_scale,
        "parameters": asdict(settings),
        "method": method,
        "device": str(place),
        "seed": seed,
    }
    return [_judged(head, s, common) for head, s in zip(heads, solutions, strict=True)]


@dataclass(frozen=True)
class _Head:
    """A volume made ready: its problem, and what was noticed on the way."""

    problem: Problem
    source: np.ndarray
    source_scale: float
    contrast: float
    guards: list


def _prepare(volume, mask, lesion, model, place, seed, progress):
    volume, mask, guards = usable_volume(volume, mask, model)
    given, lesion = lesion, usable_lesion(lesion, mask)
    if given is not None and lesion is None:
        guards.append("The lesion mask has no voxel in the brain, and counted for nothing.")
    source, source_scale = to_target_units(volume, mask, left_out=lesion)
    contrast, doubts = contrast_guard(source, mask if lesion is None else mask & ~lesion, model)
    problem = Problem(
        source=np.maximum(source, 0),
        mask=mask,
        model=model,
        device=place,
        seed=seed,
        progress=progress,
        left_out=lesion,
    )
    return _Head(problem, source, source_scale, contrast, [*guards, *doubts])


def _judged(head, solution, common):
    """A solution as the caller gets it, once the guards have looked at it."""
    problem = head.problem
    harmonized, mended = finite_or_before(solution, problem)
    mapping = solution.mapping or straight_mapping(problem.source, harmonized, problem.mask)
    structure = structure_figures(problem.source, harmonized, problem.mask)
    lesion, changed = lesion_guard(problem.source, harmonized, problem.mask, problem.left_out)
    return HarmonizationResult(
        volume=harmonized * np.float32(common["target_scale"]),
        scaled_source=head.source,
        source_scale=head.source_scale,
        trace=solution.trace,
        converged=solution.converged,
        iterations=solution.iterations,
        guards=[
            *head.guards,
            *solution.guards,
            *mended,
            *structure_guards(structure),
            *changed,
        ],
        mapping=mapping,
        decisions=solution.decisions,
        contrast=head.contrast,
        structure=structure,
        clipping=clipping(head.source, harmonized, problem.mask, mapping),
        lesion=lesion,
        **common,
    )


def _target_scale(model):
    scale = model.intensity.get("TargetScale")
    if not isinstance(scale, (int, float)) or not np.isfinite(scale) or scale <= 0:
        raise ModelError(
            f"The model '{model.name}' has no positive Intensity.TargetScale in its model.json: "
            "train it again with this version."
        )
    return float(scale)
