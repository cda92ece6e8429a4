"""One mapping per volume: a smooth field, a monotone intensity map, and the noise taken away.

Several scans of one head by one scanner may share the intensity map: each keeps its own gain, field
and noise, and what is told of the contrast is told of all of them at once.

Each stage first asks whether there is anything to do, and leaves alone what already looks like the
target's; what it decided, and on what figure, is in the solution's ``decisions``. Field and
contrast are measured by what the same stage finds on the target's own training scans
(:mod:`bh_bids.mapping.calibration`). Field and map hold on any grid; denoising is of the image.
"""

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..mapping.intensity import brain_quantiles, map_between
from ..mapping.tissue import BRIGHTNESS, Surroundings, tissue_gain, unevenness
from .contrast import decide
from .gates import tissue_gate
from .solvers import check_number
from .stages import VolumeRun

FLOWS = ("model", "gaussian", "identity")
# Scans of one contrast differ by less from their mean quantiles, gains made equal (root mean
# square, target units): people of the target differ from each other by 0.019.
ONE_CONTRAST = 0.05


@dataclass(frozen=True)
class MapParameters:
    """Parameters of the mapping.

    Parameters
    ----------
    bias : bool
        Estimate a bias field, and take it away where it is beyond the target's own.
    resolution : bool
        Sharpen a scan whose detail is blurred beyond the target's.
    tissue : bool
        Undo a gain that goes with a voxel's surroundings, where the local contrast is uneven beyond
        the target's.
    contrast : bool
        Map intensities where their distribution is unlike the target's.
    ruler : bool
        Let texture and steady places tell the participant's own contrast from the scanner's.
    slopes : bool
        Let what the flow asks of the contrast tell it, too, of a scan that is neither noisy nor
        blurred. It takes the ruler, the resolution's measurement, and the model's flow.
    division : bool
        Divide what the ruler leaves between scanner and participant, by what either usually does.
        Without both, the map is a histogram match.
    noise : bool
        Take the noise away where it is beyond the target's; without, it is estimated and stays.
    flow : {"model", "gaussian", "identity"}
        What judges and removes noise: the model's flow, which is then asked of the contrast, too;
        a Gaussian of the target's mean power spectrum (for flows without the conditions "noise" and
        "mask", and as an ablation); or nothing.
    batch_slices : int
        Slices that go through the flow at once: bounds the memory.

    Raises
    ------
    InputError
        If a value is out of range.
    """

    bias: bool = True
    resolution: bool = True
    tissue: bool = True
    contrast: bool = True
    ruler: bool = True
    slopes: bool = True
    division: bool = True
    noise: bool = True
    flow: str = "model"
    batch_slices: int = 8

    def __post_init__(self):
        for name in (
            "bias",
            "resolution",
            "tissue",
            "contrast",
            "ruler",
            "slopes",
            "division",
            "noise",
        ):
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

    def solve(self, problems, parameters):
        """Harmonize one volume, or several of one head with one intensity map.

        Parameters
        ----------
        problems : sequence of Problem
        parameters : MapParameters

        Returns
        -------
        list of Solution
            With its mapping, and one record of the trace per stage.

        Raises
        ------
        ModelError
            If the model has no calibration.
        """
        runs = [VolumeRun(problem, parameters) for problem in problems]
        for run in runs:
            run.verdict("source", run.problem.source)
            run.remove_field()
        for run in runs:
            run.mend_detail()
        _even_tissues(runs)
        seen = [run.look() for run in runs]
        contrast = decide(
            runs[0].calibration,
            seen,
            mapped=parameters.contrast,
            divided=parameters.division,
        )
        _tell_of_other_contrasts(runs, seen)
        for run, own in zip(runs, seen, strict=True):
            run.map_intensities(own, contrast)
            run.remove_noise()
        _restore_histogram(runs, contrast)
        return [run.solution() for run in runs]


def _tell_of_other_contrasts(runs, seen):
    """Tell of scans that share their map, although their quantiles are too far from the others'."""
    quantiles = np.array([s.own / s.scale for s in seen])
    apart = np.sqrt(np.mean((quantiles - quantiles.mean(axis=0)) ** 2, axis=1))
    for run, size in zip(runs, apart, strict=True):
        if size > ONE_CONTRAST:
            run.guards.append(
                f"Its quantiles are {size:.2f} (target units) from the mean of the scans that it "
                "shares its map of intensities with: if they are of different sequences, choose "
                "those of one with --bids-filter-file."
            )


def _even_tissues(runs):
    """Undo contrast that depends on the tissue, as far as each scan shows some."""
    calibration = runs[0].calibration

    def decide_on(decision):
        for run in runs:
            run.decisions["Tissue"] = dict(decision)

    if not runs[0].parameters.tissue:
        return decide_on({"Applied": False, "Reason": "switched off"})
    if any(run.little for run in runs):
        return decide_on({"Applied": False, "Reason": "too small"})
    if any(run.noisy for run in runs):
        # Noise has no surroundings, and changes the local contrast most where there is least.
        return decide_on({"Applied": False, "Reason": "too noisy"})
    around = [Surroundings(run.problem.mask, run.telling) for run in runs]
    found = []
    for run, own in zip(runs, around, strict=True):
        matched = run.match(run.volume)[own.box]
        found.append(own.local_contrast(matched, own.mean(matched)))
    # A scanner's contrast shows in all of its scans, a change in the head in some.
    size = min(unevenness(*own, calibration.local_contrast) for own in found)
    weight, decision = tissue_gate(size, calibration)
    if weight == 0:
        return decide_on(decision)
    brains = [(run.volume, own, run.match) for run, own in zip(runs, around, strict=True)]
    gains, curve = tissue_gain(brains, calibration.local_contrast)
    decision |= {
        "Brightness": [round(float(b), 4) for b in BRIGHTNESS],
        "LogGain": [round(weight * float(g), 4) for g in curve],
    }
    for run, gain in zip(runs, gains, strict=True):
        run.divide_by_tissue_gain(weight * gain)
    return decide_on(decision)


def _restore_histogram(runs, contrast):
    """Without its noise a brain's histogram is another: bring it to the one expected again."""
    cleaned = [run for run in runs if run.cleaned]
    if not cleaned or contrast.expected is None:
        for run in cleaned:
            run.finish(None)
        return
    own = np.mean([brain_quantiles(run.volume[run.telling]) for run in cleaned], axis=0)
    # Those with noise may differ from the others by more than their noise: that stays.
    apart = np.mean([run.mapped for run in cleaned], axis=0)
    apart -= np.mean([run.mapped for run in runs], axis=0)
    expected = np.maximum.accumulate(contrast.expected + apart)
    for run in cleaned:
        run.finish(map_between(own, expected, run.brightest))
