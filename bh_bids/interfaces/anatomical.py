"""Interfaces of the anatomical fit."""

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


class _ConformInputSpec(BaseInterfaceInputSpec):
    in_file = File(mandatory=True, desc="T1w image as in the dataset")
    notes = traits.List(traits.Str, desc="what was noticed before")


class _ConformOutputSpec(TraitedSpec):
    out_file = File(desc="checked image on RAS axes, float32")
    warnings = traits.List(traits.Str, desc="what was noticed, the notes first")


class ConformT1w(SimpleInterface):
    """Check a T1w image and bring it to RAS axes; the file given may have any valid extension."""

    input_spec = _ConformInputSpec
    output_spec = _ConformOutputSpec

    def _run_interface(self, runtime):
        from ..anatomy.images import load_t1w, save_nifti

        image = load_t1w(self.inputs.in_file)
        out = Path(runtime.cwd) / "conformed.nii.gz"
        save_nifti(image.volume, image.affine, out)
        notes = self.inputs.notes if isdefined(self.inputs.notes) else []
        self._results.update(out_file=str(out), warnings=[*notes, *image.warnings])
        return runtime


class _ExtractInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="T1w image on RAS axes")
    mode = traits.Enum("auto", "skip", "force", usedefault=True, desc="as --skull-strip-t1w")
    mask = File(exists=True, desc="brain mask made before, on any axes")
    mask_by = traits.Str("mask from --derivatives", usedefault=True, desc="what made it")
    template = traits.Str(desc="TemplateFlow head template; the packaged one without")
    seed = traits.Int(0, usedefault=True)
    sloppy = traits.Bool(False, usedefault=True)
    force = traits.Bool(False, usedefault=True, desc="take a mask of no brain's volume, too")
    warnings = traits.List(traits.Str, desc="what was noticed before")
    lacking = traits.Str(desc="names of --derivatives that hold no mask of the scan")


class _ExtractOutputSpec(TraitedSpec):
    out_mask = File(desc="brain mask on the image's grid")
    details = File(desc="JSON: Method, Volume_ml, Warnings")


class ExtractBrain(SimpleInterface):
    """Brain mask: given, of a skull-stripped scan, or by the warped head template."""

    input_spec = _ExtractInputSpec
    output_spec = _ExtractOutputSpec

    def _run_interface(self, runtime):
        from ..anatomy.brain import brain_mask
        from ..anatomy.images import load_mask, read_ras, save_nifti

        volume, affine = read_ras(self.inputs.in_file)
        given = None
        if isdefined(self.inputs.mask):
            given = load_mask(self.inputs.mask, volume.shape, affine)
        mask, details = brain_mask(
            volume,
            affine,
            mode=self.inputs.mode,
            given=given,
            given_by=self.inputs.mask_by,
            template=self.inputs.template if isdefined(self.inputs.template) else None,
            seed=self.inputs.seed,
            sloppy=self.inputs.sloppy,
            force=self.inputs.force,
        )
        if isdefined(self.inputs.warnings):
            details["Warnings"] = [*self.inputs.warnings, *details["Warnings"]]
        if isdefined(self.inputs.lacking):
            details["Warnings"].append(
                f"No brain mask of this scan was found in {self.inputs.lacking} (--derivatives): "
                "one was made."
            )
        out = save_nifti(mask, affine, Path(runtime.cwd) / "mask.nii.gz", np.uint8)
        details_file = Path(runtime.cwd) / "details.json"
        details_file.write_text(json.dumps(details))
        self._results.update(out_mask=str(out), details=str(details_file))
        return runtime


_LESION = "lesion mask as in the dataset, on any axes: nothing is estimated there"


class _CorrectInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    sloppy = traits.Bool(False, usedefault=True)
    # Not checked when the workflow is built: one missing file must not stop the others.
    lesion = File(desc=_LESION)


class _OneFileOutputSpec(TraitedSpec):
    out_file = File()


class CorrectBias(SimpleInterface):
    """N4 inside the brain mask, lesions left out."""

    input_spec = _CorrectInputSpec
    output_spec = _OneFileOutputSpec

    def _run_interface(self, runtime):
        from ..anatomy.bias import n4_bias_field
        from ..anatomy.images import load_mask, read_ras, save_nifti
        from ..anatomy.lesions import usable_lesion

        volume, affine = read_ras(self.inputs.in_file)
        mask = read_ras(self.inputs.mask)[0] > 0
        if isdefined(self.inputs.lesion):
            lesion = load_mask(self.inputs.lesion, volume.shape, affine, of="lesion")
            lesion = usable_lesion(lesion, mask)
            mask = mask if lesion is None else mask & ~lesion
        out = Path(runtime.cwd) / "corrected.nii.gz"
        effort = {"iterations": (10,)} if self.inputs.sloppy else {}
        save_nifti(volume / n4_bias_field(volume, affine, mask, **effort), affine, out)
        self._results["out_file"] = str(out)
        return runtime


class _RegisterInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="bias-corrected image")
    mask = File(exists=True, mandatory=True)
    space = traits.Str(mandatory=True, desc="the model's")
    sloppy = traits.Bool(False, usedefault=True)
    seed = traits.Int(0, usedefault=True)


class _RegisterOutputSpec(TraitedSpec):
    to_space = File(desc="composite transform, moves images from the scan to the model's space")
    from_space = File(desc="its inverse")


class RegisterBrain(SimpleInterface):
    """Rigid and affine registration to the template brain of the model's space."""

    input_spec = _RegisterInputSpec
    output_spec = _RegisterOutputSpec

    def _run_interface(self, runtime):
        from ..anatomy.images import read_ras
        from ..anatomy.registration import register_brain, write_affine
        from ..anatomy.templates import space_brain

        volume, affine = read_ras(self.inputs.in_file)
        matrix = register_brain(
            volume,
            affine,
            read_ras(self.inputs.mask)[0] > 0,
            *space_brain(self.inputs.space),
            seed=self.inputs.seed,
            sloppy=self.inputs.sloppy,
        )
        folder = Path(runtime.cwd)
        self._results.update(
            to_space=str(write_affine(matrix, folder / "to_space.h5")),
            from_space=str(write_affine(np.linalg.inv(matrix), folder / "from_space.h5")),
        )
        return runtime


class _ResampleInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="bias-corrected image")
    mask = File(exists=True, mandatory=True)
    transform = File(exists=True, mandatory=True, desc="from the scan to the model's space")
    lesion = File(desc=_LESION)
    shape = traits.List(traits.Int, mandatory=True, desc="of the model's grid")
    affine = traits.List(traits.List(traits.Float), mandatory=True, desc="of the model's grid")


class _ResampleOutputSpec(TraitedSpec):
    out_file = File(desc="brain on the model's grid")
    out_mask = File(desc="its mask")
    out_lesion = File(desc="lesion mask on the model's grid, if one was given")


class ResampleToModel(SimpleInterface):
    """The bias-corrected brain on the model's grid, in one interpolation."""

    input_spec = _ResampleInputSpec
    output_spec = _ResampleOutputSpec

    def _run_interface(self, runtime):
        from ..anatomy.fit import to_model_grid
        from ..anatomy.images import load_mask, read_ras, save_nifti
        from ..anatomy.registration import image_matrix
        from ..anatomy.resampling import resample

        volume, affine = read_ras(self.inputs.in_file)
        mask = read_ras(self.inputs.mask)[0] > 0
        grid = np.array(self.inputs.affine)
        matrix = image_matrix(self.inputs.transform)
        moved, moved_mask = to_model_grid(
            volume, affine, mask, matrix, tuple(self.inputs.shape), grid
        )
        folder = Path(runtime.cwd)
        self._results.update(
            out_file=str(save_nifti(moved, grid, folder / "preproc.nii.gz", code=4)),
            out_mask=str(save_nifti(moved_mask, grid, folder / "mask.nii.gz", np.uint8, code=4)),
        )
        if isdefined(self.inputs.lesion):
            lesion = load_mask(self.inputs.lesion, volume.shape, affine, of="lesion")
            moved = resample(lesion, affine, moved_mask.shape, grid, matrix) > 0.5
            out = save_nifti(moved, grid, folder / "lesion.nii.gz", np.uint8, code=4)
            self._results["out_lesion"] = str(out)
        return runtime


class _CheckInputSpec(BaseInterfaceInputSpec):
    mask = File(exists=True, mandatory=True, desc="brain mask on the scan's RAS grid")
    transform = File(exists=True, mandatory=True, desc="from the scan to the model's space")
    preproc = File(exists=True, mandatory=True, desc="brain on the model's grid")
    preproc_mask = File(exists=True, mandatory=True)
    details = File(exists=True, mandatory=True, desc="JSON of the brain extraction")
    space = traits.Str(mandatory=True, desc="the model's")


class _CheckOutputSpec(TraitedSpec):
    details = File(desc="the same with Checks, and their cautions among the Warnings")


class CheckAnatomy(SimpleInterface):
    """Automatic checks of the anatomical fit."""

    input_spec = _CheckInputSpec
    output_spec = _CheckOutputSpec

    def _run_interface(self, runtime):
        from ..anatomy.checks import check_anatomy
        from ..anatomy.images import read_ras
        from ..anatomy.registration import image_matrix

        mask, affine = read_ras(self.inputs.mask)
        preproc, grid = read_ras(self.inputs.preproc)
        checks = check_anatomy(
            mask > 0,
            affine,
            preproc,
            read_ras(self.inputs.preproc_mask)[0] > 0,
            grid,
            image_matrix(self.inputs.transform),
            self.inputs.space,
        )
        details = json.loads(Path(self.inputs.details).read_text())
        doubts = [c["Sentence"] for c in checks.values() if c["State"] != "pass"]
        details["Warnings"] = [*details["Warnings"], *doubts]
        details["Checks"] = checks
        out = Path(runtime.cwd) / "details.json"
        out.write_text(json.dumps(details))
        self._results["details"] = str(out)
        return runtime


class _RequireInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="brain on the model's grid")
    details = File(exists=True, mandatory=True, desc="JSON with the checks")
    scan = traits.Str(mandatory=True, desc="name of the scan's file")
    force = traits.Bool(False, usedefault=True, desc="let it pass whatever the checks say")
    shared = traits.Bool(False, usedefault=True, desc="other scans share its intensity map")


class RequireChecks(SimpleInterface):
    """Let a brain pass to the harmonization only if none of its checks failed."""

    input_spec = _RequireInputSpec
    output_spec = _OneFileOutputSpec

    def _run_interface(self, runtime):
        from ..errors import InputError

        checks = json.loads(Path(self.inputs.details).read_text())["Checks"]
        failed = [c["Sentence"] for c in checks.values() if c["State"] == "fail"]
        if failed and not self.inputs.force:
            others = (
                " The participant's other scans of this scanner share their intensity map with it "
                "and wait for it: leave it out with --bids-filter-file to go on without."
                if self.inputs.shared
                else ""
            )
            raise InputError(
                f"{self.inputs.scan} was not harmonized, its anatomy failed a check: "
                f"{' '.join(failed)} Look at its mask and registration in the report; give a mask "
                f"with --derivatives, or harmonize it all the same with --force.{others}"
            )
        self._results["out_file"] = self.inputs.in_file
        return runtime


class _OnGridInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="volume on RAS axes")
    # Not checked when the workflow is built: one missing scan must not stop the others.
    reference = File(mandatory=True, desc="image whose grid and header to take")


class MaskOnGrid(SimpleInterface):
    """A mask on RAS axes, written on the grid that the scan has in the dataset."""

    input_spec = _OnGridInputSpec
    output_spec = _OneFileOutputSpec

    def _run_interface(self, runtime):
        from ..anatomy.images import read_ras, save_on_grid_of

        volume, _ = read_ras(self.inputs.in_file)
        out = Path(runtime.cwd) / "mask.nii.gz"
        save_on_grid_of(volume > 0, self.inputs.reference, out, np.uint8)
        self._results["out_file"] = str(out)
        return runtime
