"""One mapping per volume: a smooth field, a monotone intensity map, and the noise taken away.

Each stage first asks whether there is anything to do, and leaves alone what already looks like the
target's; what it decided, and on what figure, is in the solution's ``decisions``. The thresholds
come from what the same stage finds on the target's own training scans
(:mod:`bh_bids.mapping.calibration`). Field and map hold on any grid; denoising is of the image.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ..errors import InputError, ModelError
from ..flow.context import slice_context
from ..mapping import spectrum
from ..mapping.field import (
    WHOLE,
    Lattice,
    field_spread,
    log_field,
    regional_shift,
    standard_field,
)
from ..mapping.intensity import brain_quantiles, map_between
from ..mapping.mapping import Mapping
from ..mapping.texture import texture_profile
from .denoise import CANDIDATES, FlowDenoiser
from .latent import LatentStep
from .slices import SliceBox
from .solvers import Solution, check_number

FLOWS = ("model", "gaussian", "identity")
# A field is applied from the spread that 95 % of target scans stay below, in full this much above.
FIELD_RAMP = 0.010
# What is added to the usual spread where all of the brain is missing, in proportion.
MISSING = 0.12
# Noise of this level and more is taken away; the texture ruler trusts no noisier scan.
NOISY = 0.012
# Unlikeness (about 1 for a target scan) up to which the contrast is left as it is, and from which
# it is mapped in full.
LIKE, UNLIKE = 1.8, 2.3
# Distance of a texture profile from the target's up to which the ruler counts in full, and not.
NEAR, FAR = 1.5, 2.0
# The same for the mean sharpness, in standard deviations.
SHARP, BLURRED = 3.0, 5.0
# A deviation that the ruler tells counts from this many times the ruler's own error, and in full.
ERROR, SURE = 1.2, 1.6
# Slices of which the flow's verdict on each stage is taken.
VERDICT_SLICES = 8


@dataclass(frozen=True)
class MapParameters:
    """Parameters of the mapping.

    Parameters
    ----------
    bias : bool
        Estimate a bias field, and take it away where it is beyond the target's own.
    contrast : bool
        Map intensities where their distribution is unlike the target's.
    ruler : bool
        Let the texture tell the participant's own contrast from the scanner's; without, the map
        is a histogram match.
    noise : bool
        Estimate the noise, and take it away where it is beyond the target's.
    flow : {"model", "gaussian", "identity"}
        What judges and removes noise: the model's flow; a Gaussian of the target's mean power
        spectrum (for flows without the condition "noise", and as an ablation); or nothing.
    batch_slices : int
        Slices that go through the flow at once: bounds the memory.

    Raises
    ------
    InputError
        If a value is out of range.
    """

    bias: bool = True
    contrast: bool = True
    ruler: bool = True
    noise: bool = True
    flow: str = "model"
    batch_slices: int = 8

    def __post_init__(self):
        for name in ("bias", "contrast", "ruler", "noise"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"The parameter {name} must be true or false.")
        if self.flow not in FLOWS:
            raise InputError(
                f"The parameter flow must be one of {', '.join(FLOWS)}, not {self.flow!r}."
            )
        check_number("batch_slices", self.batch_slices, 1, 10_000, integer=True)


class MapSolver:
    """One mapping per volume; see the module."""

    Parameters = MapParameters

    def solve(self, problem, parameters):
        """Harmonize one volume.

        Parameters
        ----------
        problem : Problem
        parameters : MapParameters

        Returns
        -------
        Solution
            With its mapping, and one record of the trace per stage.

        Raises
        ------
        ModelError
            If the model has no calibration.
        """
        run = _Run(problem, parameters)
        run.verdict("source", problem.source)
        flat = run.remove_field()
        mapped = run.map_intensities(flat)
        volume = run.remove_noise(mapped)
        return Solution(
            volume=volume,
            trace=run.trace,
            converged=True,
            iterations=len(run.trace) - 1,
            guards=run.guards,
            mapping=Mapping(run.intensity_map, run.coefficients, problem.source.shape),
            decisions=run.decisions,
        )


class _Run:
    """The stages of one volume; volumes are (x, y, z), target units, 0 outside the mask."""

    def __init__(self, problem, parameters):
        model = problem.model
        if model.calibration is None:
            raise ModelError(
                f"The model '{model.name}' lacks the constants of the method 'map', or has those "
                "of another version of bh-bids: calibrate it once with 'bh-model calibrate', or "
                "choose the method 'paper'."
            )
        self.problem, self.parameters, self.calibration = problem, parameters, model.calibration
        self.coefficients, self.intensity_map, self.sigma = None, None, None
        self.guards, self.trace = [], []
        self.box = SliceBox(problem.mask, model.config.side_multiple)
        self.mask, self.mean = self._stack(problem.mask), self._stack(model.mean)
        self.lattice = Lattice(problem.source.shape, model.config.voxel_size)
        self.telling = problem.telling
        self.shift, self.coverage = regional_shift(
            self.lattice(problem.source) > 0,
            self.lattice,
            model.calibration.histograms,
            len(model.calibration.null_spread),
        )
        self.quantiles = np.maximum.accumulate(model.calibration.quantiles + self.shift)
        self.decisions = {"Coverage": round(self.coverage, 3)}
        self.flow = parameters.flow
        if self.flow == "model" and not {"mask", "noise"} <= set(model.config.conditions):
            self.flow = "gaussian"
            self.guards.append(
                "The model's flow knows of no noise levels: a Gaussian took its place in judging "
                "the noise."
            )
        chosen = np.unique(np.linspace(0, len(self.box.occupied) - 1, VERDICT_SLICES).round())
        self._latent = LatentStep(
            model.flow,
            self.box.occupied[chosen.astype(int)],
            model.config.bits,
            parameters.batch_slices,
            context=self._context if model.config.conditions else None,
        )

    def remove_field(self):
        """Divide the source by its bias field, as far as that is beyond the target's own."""
        source, calibration = self.problem.source, self.calibration
        if not self.parameters.bias:
            self.decisions["Bias"] = {"Applied": False, "Reason": "switched off"}
            return source
        lattice, values = self.lattice, self.lattice(np.where(self.telling, source, 0))
        found, power = standard_field(values, lattice, calibration.histograms, self.quantiles)
        found = found - calibration.null_field
        spread = field_spread(found, lattice, values > 0) if (values > 0).any() else 0.0
        usual = float(np.quantile(calibration.null_spread, 0.95))
        if self.coverage < WHOLE:
            # What is found on whole target scans says less of a part of one.
            usual += MISSING * (1 - self.coverage)
        weight = _ramp(spread, usual, usual + FIELD_RAMP)
        self.decisions["Bias"] = {
            "Applied": weight > 0,
            "Weight": round(weight, 4),
            "Spread": round(spread, 4),
            "UsualSpread": round(usual, 4),
        }
        if weight == 0:
            return source
        self.coefficients = weight / power * found
        flat = source * np.exp(-log_field(self.coefficients, source.shape))
        self.verdict("field", flat)
        return flat

    def map_intensities(self, flat):
        """Bring the brain's quantiles to those that the target would have given it."""
        mask, calibration = self.problem.mask, self.calibration
        own = brain_quantiles(flat[self.telling])
        matched_map = map_between(own, self.quantiles)
        matched = np.where(mask, matched_map(flat), 0)
        self._judge_noise(matched)
        scale = float(np.quantile(flat[self.telling], 0.99))
        change, ruler = self._own_contrast(matched)
        told = ruler["Weight"]
        unlikeness = (1 - told) * calibration.unlikeness(own / scale - self.shift)
        if told > 0:
            as_told = np.maximum.accumulate(self.quantiles + told * change)
            unlikeness += told * calibration.unlikeness_told(own / scale, as_told)
        # A deviation no larger than the ruler's error may as well be none.
        expected = np.maximum.accumulate(self.quantiles + told * ruler.get("Share", 0.0) * change)
        weight = _ramp(unlikeness, LIKE, UNLIKE) if self.parameters.contrast else 0.0
        self.decisions["Contrast"] = {
            "Applied": weight > 0,
            "Weight": round(weight, 4),
            "Unlikeness": round(unlikeness, 3),
            "UsualUnlikeness": LIKE,
            "Ruler": ruler,
        }
        self.expected = expected if weight == 1 else None
        self.intensity_map = map_between(own, weight * expected + (1 - weight) * own / scale)
        mapped = np.where(mask, self.intensity_map(flat), 0).astype(np.float32)
        self.verdict("contrast", mapped)
        return mapped

    def _judge_noise(self, matched):
        """Estimate the noise in a brain whose histogram was matched."""
        if self.flow == "identity" or not self.parameters.noise:
            return
        if self.flow == "gaussian":
            self.sigma = spectrum.noise_level(
                matched, self.problem.model.mean, self.calibration.spectrum, CANDIDATES
            )
        else:
            self.sigma = self._denoiser().noise_level(self._stack(matched))

    def _own_contrast(self, matched):
        """Deviation of this brain's quantiles from the target's mean ones, and how it was told."""
        calibration, ruler = self.calibration, self.calibration.ruler
        if not self.parameters.ruler:
            return np.zeros_like(self.quantiles), {"Weight": 0.0, "Reason": "switched off"}
        profile, sharpness = texture_profile(matched, self.telling, calibration.quantiles)
        mean, deviation = calibration.sharpness
        unsharp = abs(sharpness - mean) / deviation
        distance = ruler.distance(profile)
        weight = (1 - _ramp(distance, NEAR, FAR)) * (1 - _ramp(unsharp, SHARP, BLURRED))
        if self.sigma is not None and self.sigma >= NOISY:
            weight = 0.0
        if calibration.ruler_gain <= 0:
            weight = 0.0
        change = ruler.predict(profile)
        size = float(np.sqrt(np.mean(change**2)) / calibration.ruler_error)
        account = {
            "Weight": round(float(weight), 4),
            "Distance": round(distance, 3),
            "Sharpness": round(float((sharpness - mean) / deviation), 3),
            "Deviation": round(size, 3),
            "Share": round(_ramp(size, ERROR, SURE), 4),
        }
        # The deviation goes with the intensity: of a part of a brain, shares are others.
        return np.interp(self.quantiles, calibration.quantiles, change), account

    def remove_noise(self, mapped):
        """Take the noise away where it is beyond the target's."""
        if self.sigma is None:
            reason = "switched off" if self.flow != "identity" else "no flow"
            self.decisions["Noise"] = {"Applied": False, "Reason": reason}
            return mapped
        noisy = self.sigma >= NOISY
        self.decisions["Noise"] = {
            "Applied": noisy,
            "Sigma": float(self.sigma),
            "UsualSigma": NOISY,
            "Judge": self.flow,
        }
        if not noisy:
            return mapped
        if self.flow == "gaussian":
            model = self.problem.model
            cleaned = spectrum.wiener(mapped, model.mean, self.calibration.spectrum, self.sigma)
        else:
            stack, kept = self._denoiser().clean(self._stack(mapped), self.sigma, self._progress)
            cleaned = self.box.insert(stack.cpu().numpy())
            if kept:
                self.guards.append(f"The flow could not denoise {kept} slices: they stay noisy.")
        mask = self.problem.mask
        cleaned = np.where(mask, np.maximum(cleaned, 0), 0)
        if self.expected is not None:
            # Without its noise the brain's histogram is another.
            cleaned = map_between(brain_quantiles(cleaned[self.telling]), self.expected)(cleaned)
        cleaned = np.where(mask, cleaned, 0).astype(np.float32)
        self.verdict("noise", cleaned)
        return cleaned

    def verdict(self, stage, volume):
        """Append to the trace what the flow says of some slices after a stage."""
        from ..evaluation.similarity import ncc

        report = self._latent(self._stack(volume))
        record = {
            "iteration": len(self.trace),
            "stage": stage,
            "ncc": ncc(self.problem.source, volume, self.problem.mask),
            "latent": report.latent,
            "bits_per_dim": report.bits_per_dim,
        }
        self.trace.append(record)
        self.problem.report(len(self.trace), 4, record)

    def _progress(self, done, of):
        self.problem.report(len(self.trace), 4, {"stage": "noise", "slices": done, "of": of})

    def _denoiser(self):
        return FlowDenoiser(
            self.problem.model.flow, self.box, self.mask, self.mean, self.parameters.batch_slices
        )

    def _context(self, stack, positions):
        config = self.problem.model.config
        return slice_context(config, stack, positions, mask=self.mask, mean=self.mean)

    def _stack(self, volume):
        array = np.ascontiguousarray(self.box.extract(np.asarray(volume, dtype=np.float32)))
        return torch.from_numpy(array).to(self.problem.device)


def _ramp(value, low, high):
    """0 up to ``low``, 1 from ``high``, straight between."""
    return float(np.clip((value - low) / (high - low), 0, 1))
