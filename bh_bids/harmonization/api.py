"""harmonize(): one volume in, one volume out, whatever the method."""

from dataclasses import asdict, dataclass, field

import numpy as np
import torch

from ..errors import ModelError
from ..intensity import to_target_units
from ..mapping.mapping import Mapping, straight_mapping
from .device import resolve_device
from .guards import (
    clipping,
    contrast_guard,
    finite_or_before,
    lesion_guard,
    usable_lesion,
    usable_volume,
)
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
        Lesions: they are harmonized, but nothing is estimated from them.
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
    solver = get_solver(method)
    settings = make_parameters(solver, method, parameters)
    place = resolve_device(device)
    if model.mean is None:
        model.require_calibrated()
    target_scale = _target_scale(model)
    volume, mask, guards = usable_volume(volume, mask, model)
    lesion = usable_lesion(lesion, mask)
    source, source_scale = to_target_units(volume, mask, left_out=lesion)
    contrast, doubts = contrast_guard(source, mask if lesion is None else mask & ~lesion, model)
    problem = Problem(
        source=np.maximum(source, 0),
        mask=mask,
        model=model.to(place),
        device=place,
        seed=seed,
        progress=progress,
        left_out=lesion,
    )
    # The fastest convolution may differ from run to run; the same bytes are promised.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        solution = solver.solve(problem, settings)
    harmonized, mended = finite_or_before(solution, problem)
    mapping = solution.mapping or straight_mapping(problem.source, harmonized, mask)
    structure = structure_figures(problem.source, harmonized, mask)
    lesions, changed = lesion_guard(problem.source, harmonized, mask, lesion)
    return HarmonizationResult(
        volume=harmonized * np.float32(target_scale),
        scaled_source=source,
        source_scale=source_scale,
        target_scale=target_scale,
        trace=solution.trace,
        parameters=asdict(settings),
        method=method,
        device=str(place),
        seed=seed,
        converged=solution.converged,
        iterations=solution.iterations,
        guards=[
            *guards,
            *doubts,
            *solution.guards,
            *mended,
            *structure_guards(structure),
            *changed,
        ],
        mapping=mapping,
        decisions=solution.decisions,
        contrast=contrast,
        structure=structure,
        clipping=clipping(source, harmonized, mask, mapping),
        lesion=lesions,
    )


def _target_scale(model):
    scale = model.intensity.get("TargetScale")
    if not isinstance(scale, (int, float)) or not np.isfinite(scale) or scale <= 0:
        raise ModelError(
            f"The model '{model.name}' has no positive Intensity.TargetScale in its model.json: "
            "train it again with this version."
        )
    return float(scale)
