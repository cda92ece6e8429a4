"""Interfaces of the anatomical fit of several scans of one participant at once."""

import json
from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)


class _TemplateInputSpec(BaseInterfaceInputSpec):
    # Not checked when the workflow is built: one missing scan must not stop other participants.
    in_files = traits.List(File, mandatory=True, desc="T1w scans as in the dataset")
    masks = traits.List(File(exists=True), desc="their brain masks from --derivatives")
    mode = traits.Enum("auto", "skip", "force", usedefault=True, desc="as --skull-strip-t1w")
    seed = traits.Int(0, usedefault=True)


class _TemplateOutputSpec(TraitedSpec):
    template = File(desc="average of the scans, in the space halfway between them")
    transforms = traits.List(File, desc="rigid, from each scan to the template")
    mask = File(desc="the scans' own masks in one, where they have such")
    mask_by = traits.Str(desc="what made it")


class WithinTemplate(SimpleInterface):
    """An unbiased template of one participant's scans."""

    input_spec = _TemplateInputSpec
    output_spec = _TemplateOutputSpec

    def _run_interface(self, runtime):
        from ..anatomy.images import load_t1w, save_nifti
        from ..anatomy.longitudinal import vote, within_template
        from ..anatomy.registration import write_affine

        images = [load_t1w(path) for path in self.inputs.in_files]
        scans = [(image.volume, image.affine) for image in images]
        volumes, affines = zip(*scans, strict=True)
        masks, made_by = self._masks(scans)
        template, grid, matrices = within_template(volumes, affines, seed=self.inputs.seed)
        folder = Path(runtime.cwd)
        self._results["template"] = str(save_nifti(template, grid, folder / "template.nii.gz"))
        self._results["transforms"] = [
            str(write_affine(matrix, folder / f"scan{k}_to_template.h5"))
            for k, matrix in enumerate(matrices)
        ]
        self._results["mask_by"] = made_by
        if masks:
            mask = vote(masks, affines, matrices, template.shape, grid)
            path = save_nifti(mask, grid, folder / "mask.nii.gz", np.uint8)
            self._results["mask"] = str(path)
        return runtime

    def _masks(self, scans):
        """The scans' own masks, if they have any, and what made them."""
        from ..anatomy.brain import is_skull_stripped, mask_of_skull_stripped
        from ..anatomy.images import load_mask
        from ..errors import InputError

        if isdefined(self.inputs.masks) and self.inputs.masks:
            pairs = zip(self.inputs.masks, scans, strict=True)
            return [load_mask(p, v.shape, a) for p, (v, a) in pairs], "masks from --derivatives"
        if self.inputs.mode == "force":
            return [], ""
        stripped = [self.inputs.mode == "skip" or is_skull_stripped(*scan) for scan in scans]
        if not any(stripped):
            return [], ""
        if not all(stripped):
            raise InputError(
                "Some of the participant's scans are skull-stripped and others are not: "
                "--longitudinal needs scans of one kind."
            )
        return [mask_of_skull_stripped(v) for v, _ in scans], "none (already skull-stripped)"


class _FromTemplateInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="T1w scan on RAS axes")
    mask = File(exists=True, mandatory=True, desc="brain mask of the template")
    to_template = File(exists=True, mandatory=True, desc="from the scan to the template")
    to_space = File(exists=True, mandatory=True, desc="from the template to the model's space")
    details = File(exists=True, mandatory=True, desc="JSON of the template's brain extraction")
    scans = traits.List(traits.Str, mandatory=True, desc="names of the template's scans")
    warnings = traits.List(traits.Str, desc="what was noticed about this scan")


class _FromTemplateOutputSpec(TraitedSpec):
    out_mask = File(desc="the template's brain mask on the scan's grid")
    to_space = File(desc="from the scan to the model's space")
    from_space = File(desc="its inverse")
    details = File(desc="JSON: Method, Volume_ml, WithinTemplate, Warnings")


class FromWithinTemplate(SimpleInterface):
    """One scan's brain mask and transforms from those of the participant's template."""

    input_spec = _FromTemplateInputSpec
    output_spec = _FromTemplateOutputSpec

    def _run_interface(self, runtime):
        from ..anatomy.brain import (
            foreground,
            is_skull_stripped,
            negative_intensities,
            without_empty,
        )
        from ..anatomy.images import read_ras, save_nifti
        from ..anatomy.registration import image_matrix, write_affine
        from ..anatomy.resampling import resample, voxel_volume
        from ..intensity import few_intensities

        volume, affine = read_ras(self.inputs.in_file)
        brain, grid = read_ras(self.inputs.mask)
        to_template = image_matrix(self.inputs.to_template)
        back = np.linalg.inv(to_template)
        mask = resample(brain > 0, grid, volume.shape, affine, back) > 0.5
        if is_skull_stripped(volume, affine):
            # Where the scan itself shows nothing there is nothing to harmonize.
            mask &= foreground(volume)
        mask, empty = without_empty(volume, mask)
        matrix = image_matrix(self.inputs.to_space) @ to_template
        details = json.loads(Path(self.inputs.details).read_text())
        details["Volume_ml"] = round(float(mask.sum() * voxel_volume(affine)), 1)
        details["WithinTemplate"] = self.inputs.scans
        if isdefined(self.inputs.warnings):
            details["Warnings"] = [*self.inputs.warnings, *details["Warnings"]]
        details["Warnings"] += [
            *empty,
            *negative_intensities(volume, mask),
            *few_intensities(volume[mask]),
        ]
        folder = Path(runtime.cwd)
        (folder / "details.json").write_text(json.dumps(details))
        self._results.update(
            out_mask=str(save_nifti(mask, affine, folder / "mask.nii.gz", np.uint8)),
            to_space=str(write_affine(matrix, folder / "to_space.h5")),
            from_space=str(write_affine(np.linalg.inv(matrix), folder / "from_space.h5")),
            details=str(folder / "details.json"),
        )
        return runtime
