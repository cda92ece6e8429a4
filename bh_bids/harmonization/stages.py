"""The stages of the method map, for one volume; :mod:`bh_bids.harmonization.map` orders them.

Volumes are (x, y, z), target units, 0 outside the mask.
"""

import numpy as np
import torch

from ..errors import ModelError
from ..flow.context import slice_context
from ..flow.engine import FlowEngine
from ..flow.slopes import ContrastSlopes
from ..mapping import spectrum
from ..mapping.field import Lattice, field_spread, find_field, log_field, regional_shift
from ..mapping.intensity import brain_quantiles, map_between
from ..mapping.mapping import Mapping
from ..mapping.resolution import blur_between, detail_spectrum, sharpened, smoothed
from ..mapping.ruler import contrast_profile
from .contrast import Seen, finer_than_usual, told_deviation, told_with_slopes
from .denoise import CANDIDATES, FlowDenoiser
from .gates import LITTLE, NOISY, QUIET, blur_gate, field_gate
from .latent import LatentStep
from .slices import SliceBox
from .solvers import Solution

# Slices of which the flow's verdict on each stage is taken.
VERDICT_SLICES = 8
# Records of a trace, the source's included, if every stage changes something.
RECORDS = 6
# Where less of the target's mean brain was scanned, a user is told (whole brains: 0.81 and more).
PARTIAL = 0.75


class VolumeRun:
    """One volume on its way: ``volume`` is it as far as the stages have come.

    Parameters
    ----------
    problem : bh_bids.harmonization.solvers.Problem
    parameters : bh_bids.harmonization.map.MapParameters

    Raises
    ------
    ModelError
        If the model has no calibration.
    """

    def __init__(self, problem, parameters):
        model = problem.model
        if model.calibration is None:
            raise ModelError(
                f"The model '{model.name}' lacks the constants of the method 'map', or has those "
                "of another version of bh-bids: calibrate it once with 'bh-model calibrate', or "
                "choose the method 'paper'."
            )
        self.problem, self.parameters, self.calibration = problem, parameters, model.calibration
        self.coefficients, self.tissue_gain, self.blur = None, None, None
        self.intensity_map, self.mapped, self.sigma = None, None, None
        self.guards, self.trace, self.cleaned = [], [], False
        self.volume = problem.source
        self.box = SliceBox(problem.mask, model.config.side_multiple)
        self.mask, self.mean = self._stack(problem.mask), self._stack(model.mean)
        self.lattice = Lattice(problem.source.shape, model.config.voxel_size)
        self.telling = problem.telling
        # Of a brain with a lesion, what is told from is a part.
        self.shift, self.coverage = self._regional_shift(self.telling)
        scanned = self._regional_shift(problem.mask)[1]
        self.quantiles = np.maximum.accumulate(model.calibration.quantiles + self.shift)
        # No target brain was seen to be brighter anywhere.
        self.brightest = (model.intensity.get("Quantiles") or [None])[-1]
        self.decisions = {"Coverage": round(scanned, 3)}
        if scanned < PARTIAL:
            self.guards.append(
                f"Only {scanned:.0%} of the target's average brain was scanned: contrast and field "
                "of a part are told less surely."
            )
        self.flow = parameters.flow
        if self.flow == "model" and not {"mask", "noise"} <= set(model.config.conditions):
            self.flow = "gaussian"
            self.guards.append(
                "The model's flow is not told mask and noise level: a Gaussian took its place in "
                "judging the noise."
            )
        chosen = np.unique(np.linspace(0, len(self.box.occupied) - 1, VERDICT_SLICES).round())
        # A network as small as this is no faster in TF32, whose 10 bits move denoised voxels.
        self._engine = FlowEngine.from_flow(model.flow, tf32=False)
        self._latent = LatentStep(
            self._engine,
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
            return
        if self.little:
            self.decisions["Bias"] = {"Applied": False, "Reason": "too small"}
            return
        lattice, values = self.lattice, self.lattice(np.where(self.telling, source, 0))
        found, power = find_field(
            values, lattice, calibration.histograms, self.quantiles, calibration.null_field
        )
        field, weight, decision = field_gate(found, self.coverage, calibration)
        spread = field_spread(field, lattice, values > 0) if (values > 0).any() else 0.0
        self.decisions["Bias"] = decision | {"Spread": round(spread, 4)}
        if weight == 0:
            return
        self.coefficients = weight / power * field
        self.volume = source * np.exp(-log_field(self.coefficients, source.shape))
        self.verdict("field", self.volume)

    def mend_detail(self):
        """Estimate the noise, and undo a blur where there is none."""
        matched = self.match(self.volume)
        self._judge_noise(matched)
        self._sharpen(matched)

    def divide_by_tissue_gain(self, log_gain):
        """Take a gain by surroundings away; ``log_gain`` is its logarithm, (x, y, z)."""
        self.tissue_gain = log_gain
        self.volume = self.volume * np.exp(-log_gain)
        self.verdict("tissue", self.volume)

    def look(self):
        """What this brain's intensities are, and what the ruler says of them."""
        own = brain_quantiles(self.volume[self.telling])
        matched = self.match(self.volume)
        change, ruler = self._own_contrast(matched)
        scale = float(np.quantile(self.volume[self.telling], 0.99))
        return Seen(own, scale, self.quantiles, self.shift, change, ruler)

    def map_intensities(self, seen, contrast):
        """Map this brain's intensities, its gain made that of the map."""
        self.decisions["Contrast"] = {**contrast.decision, "Ruler": seen.ruler}
        own = contrast.own * (seen.scale / contrast.scale)
        # A brain that keeps its contrast keeps its brightest voxels too.
        limit = self.brightest / contrast.weight if self.brightest and contrast.weight else None
        self.intensity_map = map_between(own, contrast.target, limit)
        mapped = np.where(self.problem.mask, self.intensity_map(self.volume), 0)
        self.volume = mapped.astype(np.float32)
        # What this scan, and not all of a participant's together, is to show.
        self.mapped = self.intensity_map(seen.own)
        self.verdict("contrast", self.volume)

    @property
    def little(self):
        """Whether there is too little brain to tell what is smooth over it, or of a tissue."""
        return self.coverage < LITTLE

    @property
    def noisy(self):
        """Whether there is noise to be taken away."""
        return self.sigma is not None and self.sigma >= NOISY

    def match(self, volume):
        """A volume of this brain with the quantiles that are usual."""
        mask, matched = self.problem.mask, np.zeros(volume.shape, np.float32)
        intensity_map = map_between(brain_quantiles(volume[self.telling]), self.quantiles)
        matched[mask] = intensity_map(volume[mask])
        return matched

    def _sharpen(self, matched):
        """Undo a blur, as far as the detail of the matched brain shows one."""
        if not self.parameters.resolution:
            self.decisions["Resolution"] = {"Applied": False, "Reason": "switched off"}
            return
        if self.noisy:
            # Noise hides a blur, and would be sharpened with the rest.
            self.decisions["Resolution"] = {"Applied": False, "Reason": "too noisy"}
            return
        calibration, mask = self.calibration, self.problem.mask
        spectrum = detail_spectrum(matched, self.telling)
        if spectrum is None:
            self.decisions["Resolution"] = {"Applied": False, "Reason": "too small"}
            return
        blur = blur_between(spectrum, calibration.detail)
        weight, self.decisions["Resolution"] = blur_gate(blur, calibration)
        self.blur = blur
        if weight == 0:
            return
        self.volume = sharpened(self.volume, mask, weight * blur)
        self.verdict("resolution", self.volume)

    def _judge_noise(self, matched):
        """Estimate the noise in a brain whose histogram was matched."""
        if self.flow == "identity":
            return
        if self.flow == "gaussian":
            self.sigma = spectrum.noise_level(
                matched, self.problem.model.mean, self.calibration.spectrum, CANDIDATES
            )
        else:
            self.sigma = self._denoiser().noise_level(self._stack(matched))

    def _own_contrast(self, matched):
        """Deviation of this brain's quantiles from the usual ones, and how it was told."""
        calibration = self.calibration
        if not self.parameters.ruler:
            return np.zeros_like(self.quantiles), {"Weight": 0.0, "Reason": "switched off"}
        profile, sharpness = contrast_profile(
            matched, self.telling, calibration.quantiles, self.lattice, calibration.steady
        )
        evened = self.decisions["Tissue"].get("Weight", 0.0)
        change, account = told = told_deviation(calibration, profile, sharpness, self.sigma, evened)
        untouched = 1 - max(evened, self.decisions["Resolution"].get("Weight", 0.0))
        if self._can_be_asked and account["Weight"] * untouched > 0:
            shown, blurs = self._coarse_as_the_target(matched)
            change, account = told_with_slopes(
                calibration, told, self._slopes(shown, self.telling), blurs, untouched
            )
        # The deviation goes with the intensity: of a part of a brain, shares are others.
        return np.interp(self.quantiles, calibration.quantiles, change), account

    @property
    def _can_be_asked(self):
        """Whether the flow can be asked of the contrast: it was learned, and there is no noise."""
        return (
            self.parameters.slopes
            and self.flow == "model"
            and self.calibration.slopes is not None
            and self.blur is not None
            and self.sigma <= QUIET
        )

    def _coarse_as_the_target(self, matched):
        """A matched brain as the flow is shown it: without detail that the target's have not.

        Returns
        -------
        shown : numpy.ndarray, shape (x, y, z)
        blurs : list of numpy.ndarray, shape (AXES,)
            Of the scan and, where that is smoothed, of what is shown.
        """
        lacking = finer_than_usual(self.calibration, self.blur)
        if not lacking.any():
            return matched, [self.blur]
        shown = self.match(smoothed(matched, self.telling, lacking))
        blur = blur_between(detail_spectrum(shown, self.telling), self.calibration.detail)
        return shown, [self.blur, blur]

    def _slopes(self, matched, telling):
        """What the flow asks of the contrast of a matched brain."""
        model = self.problem.model
        slopes = ContrastSlopes(
            self._engine,
            model.mean,
            model.intensity["Quantiles"],
            self.parameters.batch_slices,
        )
        return slopes(matched, telling)

    def remove_noise(self):
        """Take the noise away where it is beyond the target's."""
        if self.sigma is None:
            self.decisions["Noise"] = {"Applied": False, "Reason": "no flow"}
            return
        wanted = self.parameters.noise
        self.decisions["Noise"] = {
            "Applied": self.noisy and wanted,
            "Sigma": float(self.sigma),
            "UsualSigma": NOISY,
            "Judge": self.flow,
            **({} if wanted else {"Reason": "switched off"}),
        }
        if not (self.noisy and wanted):
            return
        if self.flow == "gaussian":
            model = self.problem.model
            cleaned = spectrum.wiener(
                self.volume, model.mean, self.calibration.spectrum, self.sigma
            )
        else:
            stack = self._stack(self.volume)
            stack, kept = self._denoiser().clean(stack, self.sigma, self._progress)
            cleaned = self.box.insert(stack.cpu().numpy())
            if kept:
                self.guards.append(f"The flow could not denoise {kept} slices: they stay noisy.")
        self.volume = np.where(self.problem.mask, np.maximum(cleaned, 0), 0)
        self.cleaned = True

    def finish(self, intensity_map):
        """The last of a brain without its noise: its histogram, unless the map is None."""
        volume = self.volume if intensity_map is None else intensity_map(self.volume)
        self.volume = np.where(self.problem.mask, volume, 0).astype(np.float32)
        self.verdict("noise", self.volume)

    def solution(self):
        """What the stages came to."""
        return Solution(
            volume=self.volume,
            trace=self.trace,
            converged=True,
            iterations=len(self.trace) - 1,
            guards=self.guards,
            mapping=Mapping(
                self.intensity_map, self.coefficients, self.volume.shape, self.tissue_gain
            ),
            decisions=self.decisions,
        )

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
        self.problem.report(record["iteration"], RECORDS - 1, record)

    def _progress(self, done, of):
        record = {"stage": "noise", "slices": done, "of": of}
        self.problem.report(len(self.trace), RECORDS - 1, record)

    def _regional_shift(self, voxels):
        brain = self.lattice(np.where(voxels, self.problem.source, 0)) > 0
        calibration = self.calibration
        return regional_shift(brain, self.lattice, calibration.histograms, calibration.scans)

    def _denoiser(self):
        return FlowDenoiser(
            self._engine, self.box, self.mask, self.mean, self.parameters.batch_slices
        )

    def _context(self, stack, positions):
        config = self.problem.model.config
        return slice_context(config, stack, positions, mask=self.mask, mean=self.mean)

    def _stack(self, volume):
        array = np.ascontiguousarray(self.box.extract(np.asarray(volume, dtype=np.float32)))
        return torch.from_numpy(array).to(self.problem.device)
