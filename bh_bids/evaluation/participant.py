"""One scan's metrics, and tables as BIDS writes them."""

from pathlib import Path

import numpy as np

from .similarity import ncc
from .tissue import tissue_modes

METRICS = {
    "participant_id": "Participant's identifier",
    "session_id": "Session's identifier",
    "filename": "T1w image in the source dataset",
    "model": "Name of the target domain's model",
    "method": "Harmonization method",
    "converged": "Whether the method met its convergence criterion",
    "iterations": "Iterations made; of the method map, stages that were carried out",
    "ncc_source": "Centred correlation of harmonized and source intensities inside the brain",
    "latent_before": "Mean squared latent value of the trace's start; to compare within one model",
    "latent_after": "Mean squared latent value of the result; to compare within one model",
    "bits_per_dim_before": "Bits per dimension of the trace's start under the target's model",
    "bits_per_dim_after": "Bits per dimension of the result under the target's model",
    "csf_mode_before": "Mode of cerebrospinal fluid in the source, target units",
    "gm_mode_before": "Mode of grey matter in the source, target units",
    "wm_mode_before": "Mode of white matter in the source, target units",
    "csf_mode_after": "Mode of cerebrospinal fluid in the result, target units",
    "gm_mode_after": "Mode of grey matter in the result, target units",
    "wm_mode_after": "Mode of white matter in the result, target units",
    "csf_mode_target": "Mode of cerebrospinal fluid in the target domain, target units",
    "gm_mode_target": "Mode of grey matter in the target domain, target units",
    "wm_mode_target": "Mode of white matter in the target domain, target units",
    "bias_field_sd": "Standard deviation of the log bias field found in the brain; method map",
    "blur": "Size of the blur found against target scans: root of the summed squares of its "
    "variances along the axes, voxels squared; method map",
    "tissue_unevenness": "How unevenly the local contrast at each brightness of the surroundings "
    "differs from that of target scans, log units; method map",
    "contrast_unlikeness": "Distance of the brain's quantiles from those of target scans, about 1 "
    "for a target scan; method map",
    "noise_sigma": "Standard deviation of the noise found, target units; method map",
    "brain_volume_ml": "Volume of the brain mask in ml, on the scan's own grid",
    "ncc_target": "Correlation of the source with the target domain's mean inside the brain",
    "edges_lost": "Share of the source's edges that are not in the result, in the worst cube of 15 "
    "voxels",
    "edges_invented": "Share of the result's edges that are not in the source, in the worst cube",
    "local_ncc": "Local correlation of source and result that 1 % of the places with structure "
    "stay below",
    "fine_difference": "Change of fine structure in the worst cube, over the brain's standard "
    "deviation",
    "slice_steps": "Relative steps of gain between axial slices",
    "clipped_voxels": "Voxels of the brain that were negative in the source or became 0",
    "lesion_contrast_before": "Contrast of the lesion to its surroundings in the source",
    "lesion_contrast_after": "The same in the result",
    "guards": "What a reader should look at, separated by |",
}
_VERDICT = {
    "ncc": "Centred correlation with the source inside the brain",
    "latent": "Mean squared latent value, |z|^2/d",
    "bits_per_dim": "Bits per dimension under the target's model",
}
# Columns of the trace, by method.
TRACE = {
    "map": {
        "iteration": "0 is the source",
        "stage": "What was done last: source (nothing), field (bias field removed), "
        "resolution (sharpened), tissue (gain by surroundings removed), contrast (intensities "
        "mapped), noise (denoised); stages that changed nothing are left out, but for contrast",
        **_VERDICT,
    },
    "paper": {
        "iteration": "0 is the first guess",
        "objective": "Distance to the source plus weighted latent term",
        "ncc": _VERDICT["ncc"],
        "edge": "Edge term",
        "latent": _VERDICT["latent"],
        "bits_per_dim": _VERDICT["bits_per_dim"],
    },
}
# What a method measured of a scan before it decided: (column, stage, figure).
_MEASURED = (
    ("bias_field_sd", "Bias", "Spread"),
    ("blur", "Resolution", "Blur"),
    ("tissue_unevenness", "Tissue", "Unevenness"),
    ("contrast_unlikeness", "Contrast", "Unlikeness"),
    ("noise_sigma", "Noise", "Sigma"),
)
_STRUCTURE = (
    ("edges_lost", "EdgesLost"),
    ("edges_invented", "EdgesInvented"),
    ("local_ncc", "LocalNCC"),
    ("fine_difference", "Difference"),
    ("slice_steps", "Stripes"),
)


def summarize(
    source,
    harmonized,
    mask,
    *,
    trace,
    target_modes,
    decisions=None,
    found=None,
    brain_volume_ml=None,
):
    """Metrics of one harmonized scan.

    Parameters
    ----------
    source, harmonized : numpy.ndarray, shape (x, y, z)
        Target units.
    mask : numpy.ndarray of bool, shape (x, y, z)
    trace : list of dict
        Records of :class:`bh_bids.harmonization.HarmonizationResult`.
    target_modes : dict
        ``CSF``, ``GM``, ``WM`` in target units.
    decisions : dict, optional
        What the method's stages found.
    found : dict, optional
        ``contrast``, ``structure``, ``clipping`` and ``lesion`` of
        :class:`bh_bids.harmonization.HarmonizationResult`.
    brain_volume_ml : float, optional
        Of the brain mask, on the scan's own grid.

    Returns
    -------
    dict
        Names of :data:`METRICS`.
    """
    row = {"ncc_source": ncc(source, harmonized, mask)}
    for name in ("latent", "bits_per_dim"):
        row[f"{name}_before"] = trace[0].get(name) if trace else None
        row[f"{name}_after"] = trace[-1].get(name) if trace else None
    modes = {
        "before": tissue_modes(source, mask),
        "after": tissue_modes(harmonized, mask),
        "target": target_modes,
    }
    for when, peaks in modes.items():
        for tissue in ("CSF", "GM", "WM"):
            row[f"{tissue.lower()}_mode_{when}"] = peaks.get(tissue)
    for column, stage, figure in _MEASURED:
        row[column] = (decisions or {}).get(stage, {}).get(figure)
    row["brain_volume_ml"] = brain_volume_ml
    found = found or {}
    structure, clipped, lesion = (
        found.get(name) or {} for name in ("structure", "clipping", "lesion")
    )
    row["ncc_target"] = found.get("contrast")
    for column, figure in _STRUCTURE:
        row[column] = structure.get(figure)
    cut = [clipped.get(name) for name in ("SourceNegative", "ResultZero")]
    row["clipped_voxels"] = None if None in cut else sum(cut)
    row["lesion_contrast_before"] = lesion.get("ContrastBefore")
    row["lesion_contrast_after"] = lesion.get("ContrastAfter")
    return row


def write_tsv(rows, path):
    """Write a BIDS table.

    Parameters
    ----------
    rows : list of dict
        Columns are the first row's keys; None and NaN become ``n/a``.
    path : path-like

    Returns
    -------
    pathlib.Path
    """
    columns = list(rows[0]) if rows else []
    lines = ["\t".join(columns)]
    lines += ["\t".join(_cell(row.get(name)) for name in columns) for row in rows]
    path = Path(path)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _cell(value):
    if value is None or value == "":
        return "n/a"
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value)).lower()
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}" if np.isfinite(value) else "n/a"
    return str(value).replace("\t", " ").replace("\n", " ")
