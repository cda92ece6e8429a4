"""Writing derivatives under their BIDS names, whole or not at all."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from nipype.interfaces.base import isdefined
from templateflow.client import TemplateFlowClient

from ..folders import ASIDE


def _import_sink():
    """niworkflows' sink, without the index of all TemplateFlow that its import makes.

    That index takes seconds in every process, for names of spaces that are not looked up here.
    """
    templates = TemplateFlowClient.templates
    TemplateFlowClient.templates = lambda self, **query: []
    try:
        from niworkflows.interfaces.bids import DerivativesDataSink
    finally:
        TemplateFlowClient.templates = templates
    return DerivativesDataSink


_DerivativesDataSink: Any = _import_sink()

_SCAN = (
    "sub-{subject}[_ses-{session}][_task-{task}][_acq-{acquisition}][_ce-{ceagent}]"
    "[_rec-{reconstruction}][_run-{run}][_echo-{echo}][_part-{part}]"
)
_ANAT = "sub-{subject}[/ses-{session}]/{datatype<anat>|anat}/" + _SCAN
_GRID = "[_space-{space}][_res-{resolution}]"
# niworkflows' own patterns leave out what tells echoes and parts of one scan apart.
_PATTERNS = (
    _ANAT + _GRID + "[_desc-{desc}]_{suffix<T1w|mask>}.{extension<nii|nii.gz|json>|nii.gz}",
    _ANAT + "_from-{from}_to-{to}_mode-{mode<image>}_{suffix<xfm>}.{extension<h5|txt|json>}",
    _ANAT + _GRID + "[_desc-{desc}]_{suffix<metrics>}.{extension<tsv|json>|tsv}",
    "sub-{subject}/{datatype<figures>}/"
    + _SCAN
    + "[_desc-{desc}]_{suffix<T1w>}.{extension<svg|json>}",
)


_GIVEN = ("datatype", "suffix", "extension", "space", "resolution", "desc", "from", "to", "mode")


class DerivativesDataSink(_DerivativesDataSink):
    """niworkflows' sink: into the output folder itself, and never half a file under a final name.

    Files are written aside in the output folder and moved into place, the sidecar before the image
    it describes.
    """

    out_path_base = ""
    _file_patterns = (*_PATTERNS, *_DerivativesDataSink._file_patterns)

    def __init__(self, **inputs):
        # niworkflows gives each sink an input for each of BIDS' entities, which takes most of the
        # time of building a workflow; only these are ever given.
        self._config_entities = frozenset(_GIVEN)
        super().__init__(**inputs)
        del self._config_entities

    def _run_interface(self, runtime):
        final = Path(self.inputs.base_directory)
        final.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=ASIDE, dir=final) as aside:
            self.inputs.base_directory = aside
            meta = self.inputs.meta_dict
            said = dict(meta) if isdefined(meta) else {}  # the sink writes into what it is given
            try:
                runtime = super()._run_interface(runtime)
            finally:
                self.inputs.base_directory = str(final)
            results = self._results
            if isdefined(results.get("out_meta")) and results.get("out_meta"):
                _restore(results["out_meta"], said)
                results["out_meta"] = _move(results["out_meta"], aside, final)
            out = results["out_file"]
            moved = [_move(path, aside, final) for path in ([out] if isinstance(out, str) else out)]
            results["out_file"] = moved[0] if isinstance(out, str) else moved
        return runtime


def _restore(sidecar, given):
    """Let what we say of an image stand: niworkflows claims grids of its own for ours."""
    if "Resolution" in given:
        path = Path(sidecar)
        content = {**json.loads(path.read_text()), "Resolution": given["Resolution"]}
        path.write_text(json.dumps(content, sort_keys=True, indent=2))


def _move(path, aside, final):
    destination = final / Path(path).relative_to(aside)
    destination.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, destination)
    return str(destination)
