"""Interfaces of the harmonization, its summary, and its way back to the native grid."""

import json
from pathlib import Path

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)


class _MethodInputSpec(BaseInterfaceInputSpec):
    model = traits.Str(mandatory=True, desc="name or folder of the model")
    model_sha256 = traits.Str(mandatory=True, desc="so that another model is another result")
    method = traits.Str("map", usedefault=True)
    device = traits.Str("auto", usedefault=True)
    seed = traits.Int(0, usedefault=True)
    parameters = traits.Dict(desc="of the method; its defaults without")
    num_threads = traits.Int(1, usedefault=True, nohash=True)
    use_gpu = traits.Bool(False, usedefault=True, nohash=True, desc="takes a GPU slot")


class _HarmonizeInputSpec(_MethodInputSpec):
    in_file = File(exists=True, mandatory=True, desc="brain on the model's grid")
    mask = File(exists=True, mandatory=True, desc="brain mask on the model's grid")
    lesion = File(exists=True, desc="lesion mask on the model's grid")


class _HarmonizeOutputSpec(TraitedSpec):
    out_file = File(desc="harmonized brain on the model's grid, in the target's intensity scale")
    result = File(desc="JSON: what the method found, with its trace")


class Harmonize(SimpleInterface):
    """Harmonize one brain to the model's target domain."""

    input_spec = _HarmonizeInputSpec
    output_spec = _HarmonizeOutputSpec

    def _run_interface(self, runtime):
        lesion = self.inputs.lesion
        brain = (self.inputs.in_file, self.inputs.mask, lesion if isdefined(lesion) else "")
        ((out, record),) = _harmonize([brain], self.inputs, Path(runtime.cwd))
        self._results.update(out_file=out, result=record)
        return runtime


class _TogetherInputSpec(_MethodInputSpec):
    in_files = traits.List(File(exists=True), mandatory=True, desc="brains on the model's grid")
    masks = traits.List(File(exists=True), mandatory=True, desc="their masks")
    lesions = traits.List(traits.Str, mandatory=True, desc="their lesion masks, empty for none")
    scans = traits.List(traits.Str, mandatory=True, desc="names of the scans")


class _TogetherOutputSpec(TraitedSpec):
    out_files = traits.List(File, desc="harmonized brains, in the order of the inputs")
    results = traits.List(File, desc="JSON of each")


class HarmonizeTogether(SimpleInterface):
    """Harmonize one participant's scans of one contrast, with one intensity map for all."""

    input_spec = _TogetherInputSpec
    output_spec = _TogetherOutputSpec

    def _run_interface(self, runtime):
        inputs = self.inputs
        brains = list(zip(inputs.in_files, inputs.masks, inputs.lesions, strict=True))
        written = _harmonize(brains, inputs, Path(runtime.cwd), shared=inputs.scans)
        outs, records = zip(*written, strict=True)
        self._results.update(out_files=list(outs), results=list(records))
        return runtime


def _harmonize(brains, inputs, folder, shared=()):
    """Harmonize (brain, mask, lesion or "") files in one call; (image, JSON) paths of each."""
    import torch

    from .. import load_model
    from ..anatomy.images import read_ras, save_nifti
    from ..harmonization import harmonize_together

    torch.set_num_threads(inputs.num_threads)
    volumes, grids = zip(*[read_ras(brain) for brain, _, _ in brains], strict=True)
    results = harmonize_together(
        volumes,
        [read_ras(mask)[0] > 0 for _, mask, _ in brains],
        load_model(inputs.model),
        method=inputs.method,
        device=inputs.device,
        seed=inputs.seed,
        lesions=[read_ras(lesion)[0] > 0 if lesion else None for _, _, lesion in brains],
        names=list(shared) or None,
        **(inputs.parameters or {}),
    )
    names = ("method", "device", "seed", "converged", "iterations", "guards", "parameters",
             "source_scale", "target_scale", "contrast", "structure", "clipping", "lesion",
             "decisions", "trace")  # fmt: skip
    written = []
    for k, (result, grid) in enumerate(zip(results, grids, strict=True)):
        number = k if shared else ""
        out = save_nifti(result.volume, grid, folder / f"harmonized{number}.nii.gz", code=4)
        found = {name: getattr(result, name) for name in names}
        found |= {"mapping": result.mapping.to_dict(), "shared": list(shared), "tissue_gain": None,
                  "threads": inputs.num_threads}  # fmt: skip
        if result.mapping.tissue_gain is not None:
            # Beside the record: where that is, this is.
            gain = folder / f"gain{number}.nii.gz"
            found["tissue_gain"] = gain.name
            save_nifti(result.mapping.tissue_gain, grid, gain, code=4)
        record = folder / f"result{number}.json"
        record.write_text(json.dumps(found))
        written.append((str(out), str(record)))
    return written


class _NativeInputSpec(BaseInterfaceInputSpec):
    native = File(exists=True, mandatory=True, desc="bias-corrected scan on its RAS grid")
    mask = File(exists=True, mandatory=True, desc="brain mask on the same grid")
    source = File(exists=True, mandatory=True, desc="brain on the model's grid, before")
    harmonized = File(exists=True, mandatory=True, desc="brain on the model's grid, after")
    result = File(exists=True, mandatory=True, desc="JSON of the harmonization")
    transform = File(exists=True, mandatory=True, desc="from the scan to the model's space")
    reference = File(mandatory=True, desc="the scan in the dataset")


class _NativeOutputSpec(TraitedSpec):
    out_file = File(desc="harmonized brain on the scan's grid, with the scan's header")


class ApplyOnNativeGrid(SimpleInterface):
    """The harmonization on the grid that the scan has in the dataset."""

    input_spec = _NativeInputSpec
    output_spec = _NativeOutputSpec

    def _run_interface(self, runtime):
        from ..anatomy.fit import to_native_grid
        from ..anatomy.images import read_ras, save_on_grid_of
        from ..anatomy.registration import image_matrix
        from ..mapping.mapping import Mapping

        found = json.loads(Path(self.inputs.result).read_text())
        native, affine = read_ras(self.inputs.native)
        source, grid = read_ras(self.inputs.source)
        gain = found["tissue_gain"]
        if gain is not None:
            gain = read_ras(Path(self.inputs.result).parent / gain)[0]
        volume = to_native_grid(
            native / found["source_scale"],
            read_ras(self.inputs.mask)[0] > 0,
            affine,
            image_matrix(self.inputs.transform),
            source / found["source_scale"],
            read_ras(self.inputs.harmonized)[0] / found["target_scale"],
            grid,
            Mapping.from_dict(found["mapping"], gain),
        )
        volume *= found["target_scale"]
        out = Path(runtime.cwd) / "native.nii.gz"
        save_on_grid_of(volume, self.inputs.reference, out)
        self._results["out_file"] = str(out)
        return runtime


class _SummaryInputSpec(BaseInterfaceInputSpec):
    source = File(exists=True, mandatory=True)
    harmonized = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    result = File(exists=True, mandatory=True)
    details = File(exists=True, mandatory=True, desc="JSON of the brain extraction")
    model = traits.Dict(mandatory=True, desc="the model's description")
    scan = traits.Dict(mandatory=True, desc="participant_id, session_id, filename")


class _SummaryOutputSpec(TraitedSpec):
    metrics = File(desc="table with one row")
    trace = File(desc="table with one row per iteration or stage")


class Summarize(SimpleInterface):
    """Tables of the metrics and of the method's trace."""

    input_spec = _SummaryInputSpec
    output_spec = _SummaryOutputSpec

    def _run_interface(self, runtime):
        from ..anatomy.images import read_ras
        from ..evaluation.participant import summarize, write_tsv

        found = json.loads(Path(self.inputs.result).read_text())
        details = json.loads(Path(self.inputs.details).read_text())
        row = summarize(
            read_ras(self.inputs.source)[0] / found["source_scale"],
            read_ras(self.inputs.harmonized)[0] / found["target_scale"],
            read_ras(self.inputs.mask)[0] > 0,
            trace=found["trace"],
            decisions=found["decisions"],
            target_modes=self.inputs.model["Intensity"]["Modes"],
            found=found,
            brain_volume_ml=details["Volume_ml"],
        )
        guards = [*details["Warnings"], *found["guards"]]
        row = {
            **self.inputs.scan,
            "model": self.inputs.model["Name"],
            "method": found["method"],
            "converged": found["converged"],
            "iterations": found["iterations"],
            **row,
            "guards": " | ".join(guards),
        }
        folder = Path(runtime.cwd)
        self._results.update(
            metrics=str(write_tsv([row], folder / "metrics.tsv")),
            trace=str(write_tsv(found["trace"], folder / "trace.tsv")),
        )
        return runtime
