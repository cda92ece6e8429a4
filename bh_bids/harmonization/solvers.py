"""What every solver takes and gives, and the list of them."""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Protocol

import numpy as np

from ..errors import InputError


@dataclass(frozen=True)
class Problem:
    """One volume to harmonize, in target units.

    Attributes
    ----------
    source : numpy.ndarray of float32, shape (x, y, z)
        Source volume, 0 outside the mask, finite.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.
    left_out : numpy.ndarray of bool, shape (x, y, z), or None
        Lesions: voxels that are harmonized, but nothing but the noise level is told from them.
    model : TargetModel
        Its flow already lies on ``device``.
    device : torch.device
    seed : int
        Of whatever a solver draws.
    progress : callable or None
        Called as ``progress(iteration, iterations, record)`` with each record of the trace.
    """

    source: np.ndarray
    mask: np.ndarray
    model: Any
    device: Any
    seed: int = 0
    progress: Callable | None = None
    left_out: np.ndarray | None = None

    @property
    def telling(self):
        """The brain's voxels that things are estimated from."""
        return self.mask if self.left_out is None else self.mask & ~self.left_out

    def report(self, iteration, iterations, record):
        """Tell the caller how far the solver is."""
        if self.progress is not None:
            self.progress(iteration, iterations, record)


@dataclass
class Solution:
    """What a solver found.

    Attributes
    ----------
    volume : numpy.ndarray of float32, shape (x, y, z)
        Harmonized volume in target units, 0 outside the mask.
    trace : list of dict
        One record per iteration or stage from 0, the start: "iteration", "ncc" (with the source),
        "latent" (mean |z|^2/d), "bits_per_dim"; of "paper" also "objective" and "edge", of "map"
        the "stage".
    converged : bool
    iterations : int
        Iterations done.
    guards : list of str
        Sentences on what the solver had to leave out or doubts.
    mapping : bh_bids.mapping.mapping.Mapping or None
        What of the change is a mapping of intensities and a field, where the method has one.
    decisions : dict
        Whether each stage of the method was applied, and on what figures, ready for JSON.
    """

    volume: np.ndarray
    trace: list
    converged: bool
    iterations: int
    guards: list = field(default_factory=list)
    mapping: Any = None
    decisions: dict = field(default_factory=dict)


class Solver(Protocol):
    """A solver: a frozen dataclass of its parameters, and a function of problems and them."""

    Parameters: type

    def solve(self, problems: Sequence[Problem], parameters: Any) -> list[Solution]:
        """Harmonize one volume, or several of one head by one scanner."""


def _paper():
    from .paper import PaperSolver

    return PaperSolver()


def _map():
    from .map import MapSolver

    return MapSolver()


# Name of a method -> function that imports its solver, so that a method costs nothing unused.
SOLVERS = {"map": _map, "paper": _paper}


def get_solver(method):
    """The solver of a method's name.

    Raises
    ------
    InputError
        If there is no such method.
    """
    if method not in SOLVERS:
        raise InputError(f"There is no method {method!r}: choose one of {', '.join(SOLVERS)}.")
    return SOLVERS[method]()


def make_parameters(solver, method, given):
    """A solver's parameters from keyword arguments.

    Raises
    ------
    InputError
        If a name is unknown or a value out of range.
    """
    known = {f.name: f for f in fields(solver.Parameters)}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InputError(
            f"The method '{method}' has no parameter {', '.join(map(repr, unknown))}; "
            f"it has {', '.join(known)}."
        )
    missing = [n for n, f in known.items() if f.default is MISSING and n not in given]
    if missing:
        raise InputError(f"The method '{method}' needs the parameter {', '.join(missing)}.")
    return solver.Parameters(**given)


def check_number(name, value, low, high, *, integer=False, open_low=False, open_high=False):
    """Refuse a parameter that is no number in a range.

    Raises
    ------
    InputError
        With the parameter's name, its value and the range.
    """
    kind = int if integer else (int, float)
    ok = isinstance(value, kind) and not isinstance(value, bool) and np.isfinite(value)
    if ok:
        ok = (low < value if open_low else low <= value) and (
            value < high if open_high else value <= high
        )
    if not ok:
        span = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
        what = "an integer" if integer else "a number"
        raise InputError(f"The parameter {name} must be {what} in {span}, not {value!r}.")
