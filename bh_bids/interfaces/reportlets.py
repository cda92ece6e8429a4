"""Interfaces that draw a scan's figures."""

import json
from pathlib import Path

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)


class _BrainMaskInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="scan on its RAS grid")
    mask = File(exists=True, mandatory=True)


class _SVGOutputSpec(TraitedSpec):
    out_file = File()


class PlotBrainMask(SimpleInterface):
    """The brain mask's outline on the scan."""

    input_spec = _BrainMaskInputSpec
    output_spec = _SVGOutputSpec

    def _run_interface(self, runtime):
        from ..anatomy.images import read_ras
        from ..anatomy.resampling import voxel_sizes
        from ..reports.plots import plot_brain_mask, save_svg

        volume, affine = read_ras(self.inputs.in_file)
        mask = read_ras(self.inputs.mask)[0] > 0
        figure = plot_brain_mask(volume, mask, voxel_sizes(affine))
        self._results["out_file"] = str(save_svg(figure, Path(runtime.cwd) / "brain.svg"))
        return runtime


class _RegistrationInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="brain on the model's grid")
    mask = File(exists=True, mandatory=True)
    space = traits.Str(mandatory=True, desc="the model's")


class PlotRegistration(SimpleInterface):
    """The brain in the model's space, in turn with the template it was registered to."""

    input_spec = _RegistrationInputSpec
    output_spec = _SVGOutputSpec

    def _run_interface(self, runtime):
        from ..anatomy.images import read_ras
        from ..anatomy.resampling import resample
        from ..anatomy.templates import space_brain
        from ..reports.plots import plot_registration, save_svg

        volume, affine = read_ras(self.inputs.in_file)
        mask = read_ras(self.inputs.mask)[0] > 0
        template, template_affine = space_brain(self.inputs.space)
        template = resample(template, template_affine, volume.shape, affine)
        figure = plot_registration(
            volume, template, mask, affine=affine, names=("Participant", "Template")
        )
        self._results["out_file"] = str(save_svg(figure, Path(runtime.cwd) / "registration.svg"))
        return runtime


class _HarmonizationInputSpec(BaseInterfaceInputSpec):
    source = File(exists=True, mandatory=True, desc="brain on the model's grid, before")
    harmonized = File(exists=True, mandatory=True, desc="brain on the model's grid, after")
    mask = File(exists=True, mandatory=True)
    result = File(exists=True, mandatory=True, desc="JSON of the harmonization")
    intensity = traits.Dict(mandatory=True, desc="the model's Quantiles and Modes")
    model = traits.Str(mandatory=True, desc="name or folder of the model")


class _HarmonizationOutputSpec(TraitedSpec):
    flicker = File()
    difference = File()
    ncc = File()
    histogram = File()
    trace = File()
    viewer = File(desc="JSON with the volumes of the slice viewer")


class PlotHarmonization(SimpleInterface):
    """Before and after, their difference, their intensities, and the objective's trace."""

    input_spec = _HarmonizationInputSpec
    output_spec = _HarmonizationOutputSpec

    def _run_interface(self, runtime):
        from ..anatomy.images import read_ras
        from ..evaluation.harm import local_ncc_map
        from ..evaluation.tissue import tissue_modes
        from ..reports import plots
        from ..reports.svg import write_text
        from ..reports.viewer import as_script_text, viewer_bundle

        found = json.loads(Path(self.inputs.result).read_text())
        source, affine = read_ras(self.inputs.source)
        source = source / found["source_scale"]
        harmonized = read_ras(self.inputs.harmonized)[0] / found["target_scale"]
        mask = read_ras(self.inputs.mask)[0] > 0
        target = self.inputs.intensity
        modes = {
            "source": tissue_modes(source, mask),
            "harmonized": tissue_modes(harmonized, mask),
            "target": target["Modes"],
        }
        correlation = local_ncc_map(source, harmonized, mask)
        figures = {
            "flicker": plots.flicker_svg(source, harmonized, mask, affine=affine),
            "difference": plots.plot_difference(source, harmonized, mask, affine=affine),
            "ncc": plots.plot_local_ncc(correlation, mask, affine=affine),
            "histogram": plots.plot_histograms(
                source,
                harmonized,
                mask,
                target["Quantiles"],
                modes,
                labels=_labels(source, mask, affine),
            ),
            "trace": plots.plot_trace(found["trace"]),
        }
        for name, figure in figures.items():
            path = Path(runtime.cwd) / f"{name}.svg"
            self._results[name] = str(plots.save_svg(figure, path))
        volumes = {"source": source, "harmonized": harmonized, "ncc": correlation}
        mean = _target_mean(self.inputs.model)
        if mean is not None:
            volumes["target"] = mean
        bundle = as_script_text(viewer_bundle(volumes, mask, affine))
        self._results["viewer"] = str(write_text(Path(runtime.cwd) / "viewer.json", bundle))
        return runtime


def _labels(source, mask, affine):
    """Tissues of the source, with an average brain's as a prior."""
    from ..anatomy.resampling import resample
    from ..anatomy.templates import mni_tissues
    from ..evaluation.tissue import label_tissues

    priors, grid = mni_tissues()
    moved = [resample(prior, grid, source.shape, affine) for prior in priors]
    return label_tissues(source, mask, moved)


def _target_mean(name):
    """The model's mean volume in target units, None if it has none."""
    from .. import load_model

    return load_model(name).mean
