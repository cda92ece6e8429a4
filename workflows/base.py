"""The whole run: participants, and each participant's scans."""

import hashlib
import json
from pathlib import Path

from bh_bids.provenance import software_versions

_ALL = "bh_bids_wf"


def init_bh_bids_wf(*, settings, scans, model, keys):
    """Build the workflow of a run.

    Workflow Graph
        one single-participant workflow each, independent of one another

    Parameters
    ----------
    settings : bh_bids.settings.Settings
    scans : list of bh_bids.dataset.Scan
        Those still to be done.
    model : dict
        Description of the target-domain model.
    keys : dict
        Scan's key to provenance key.

    Inputs
    ------
    None

    Outputs
    -------
    None
    """
    from .once import RunOnceWorkflow

    workflow = RunOnceWorkflow(name=_ALL)
    workflow.base_dir = str(_software_folder(settings))
    execution = {
        "crashfile_format": "txt",
        "stop_on_first_crash": settings.stop_on_first_crash,
        "hash_method": "content",
        "remove_unnecessary_outputs": False,
        "poll_sleep_duration": 0.5,
    }
    workflow.config["execution"] = execution
    for participant in sorted({scan.participant for scan in scans}):
        single = init_single_participant_wf(
            participant=participant,
            settings=settings,
            scans=[scan for scan in scans if scan.participant == participant],
            model=model,
            keys=keys,
        )
        crashes = participant_log(settings, participant)
        single.config["execution"] = {**execution, "crashdump_dir": str(crashes)}
        for node in single._get_all_nodes():
            node.config = {"execution": dict(single.config["execution"])}
        workflow.add_nodes([single])
    return workflow


def participant_log(settings, participant):
    """Folder of a participant's settings and crash files of this run.

    Parameters
    ----------
    settings : bh_bids.settings.Settings
    participant : str

    Returns
    -------
    pathlib.Path
    """
    return Path(settings.output_dir) / f"sub-{participant}" / "log" / settings.run_uuid


def work_folder(settings, scan):
    """Folder of a scan's intermediate results.

    Parameters
    ----------
    settings : bh_bids.settings.Settings
    scan : bh_bids.dataset.Scan

    Returns
    -------
    pathlib.Path
    """
    return _participant_work_folder(settings, scan.participant) / scan_wf_name(scan)


def common_work_folders(settings, participant):
    """Folders of the intermediate results that a participant's scans have in common.

    Parameters
    ----------
    settings : bh_bids.settings.Settings
    participant : str

    Returns
    -------
    list of pathlib.Path
        Only those that exist.
    """
    folder = _participant_work_folder(settings, participant)
    return [*folder.glob("longitudinal_wf"), *folder.glob("shared_map*_wf")]


def _participant_work_folder(settings, participant):
    return _software_folder(settings) / _ALL / f"sub_{_name(participant)}_wf"


def _software_folder(settings):
    """Folder of what this software makes: nipype would take another version's steps as done."""
    versions = json.dumps(software_versions(), sort_keys=True)
    return Path(settings.work_dir) / f"software_{hashlib.sha256(versions.encode()).hexdigest()[:8]}"


def init_single_participant_wf(*, participant, settings, scans, model, keys):
    """Build the workflow of one participant: every T1w scan of every session and run.

    Workflow Graph
        per scan: anatomical fit → harmonization → derivatives, figures; with ``--longitudinal``
        the scans' common template before, and one harmonization for those of a scanner

    Parameters
    ----------
    participant : str
        Without ``sub-``.
    settings : bh_bids.settings.Settings
    scans : list of bh_bids.dataset.Scan
        Of this participant.
    model : dict
        Description of the target-domain model.
    keys : dict
        Scan's key to provenance key.

    Inputs
    ------
    None

    Outputs
    -------
    None
    """
    import nipype.pipeline.engine as pe

    from bh_bids.derivatives import find_lesion

    from .harmonization import shared_maps

    workflow = pe.Workflow(name=f"sub_{_name(participant)}_wf")
    within = scans if settings.longitudinal and len(scans) > 1 else []
    if within:
        from .longitudinal import init_longitudinal_wf

        longitudinal = init_longitudinal_wf(scans=scans, settings=settings, model=model)
    groups = shared_maps(within, settings)
    sharing = {scan.key for group in groups for scan in group}
    singles = {}
    for scan in scans:
        build = init_anatomy_of_scan_wf if scan.key in sharing else init_scan_wf
        singles[scan.key] = build(scan, settings, model, keys[scan.key], within)
        workflow.add_nodes([singles[scan.key]])
        for name in ("mask", "details", "to_space", "to_template") if within else ():
            destination = f"anatomical_wf.inputnode.{name}"
            workflow.connect(longitudinal, f"outputnode.{name}", singles[scan.key], destination)
    for number, group in enumerate(groups):
        together = init_shared_map_wf(
            scans=group,
            settings=settings,
            model=model,
            keys=keys,
            within=within,
            name=f"shared_map{number}_wf",
        )
        for k, scan in enumerate(group, start=1):
            pairs = [
                (source, f"{scan_wf_name(scan)}.{destination}")
                for source, destination in _anatomy_to_results(scan, settings)
            ]
            pairs += [
                ("require_checks.out_file", f"list_preproc.in{k}"),
                ("anatomical_wf.outputnode.preproc_mask", f"list_preproc_mask.in{k}"),
            ]
            if find_lesion(scan, settings.lesion_roi):
                pairs.append(("anatomical_wf.outputnode.lesion", f"list_lesion.in{k}"))
            for source, destination in pairs:
                workflow.connect(singles[scan.key], source, together, destination)
    return workflow


def init_shared_map_wf(*, scans, settings, model, keys, within, name):
    """Harmonize several scans of one participant and one scanner, with one intensity map.

    Workflow Graph
        brains, masks and lesions of all → harmonize → derivatives, figures of each

    Parameters
    ----------
    scans : list of bh_bids.dataset.Scan
    settings : bh_bids.settings.Settings
    model : dict
        Description of the target-domain model.
    keys : dict
        Scan's key to provenance key.
    within : sequence of bh_bids.dataset.Scan
        The scans of their common template.
    name : str

    Inputs
    ------
    None
        The participant's workflow feeds the lists and the scans' workflows in it.

    Outputs
    -------
    None
    """
    import nipype.pipeline.engine as pe
    from nipype.interfaces.utility import Merge

    from bh_bids.interfaces.harmonization import HarmonizeTogether
    from bh_bids.memory import step_gb

    from .harmonization import harmonize_node

    workflow = pe.Workflow(name=name)
    harmonize = harmonize_node(HarmonizeTogether, settings, model, scans=len(scans))
    harmonize.inputs.scans = [scan.path.name for scan in scans]
    lists = {"preproc": "in_files", "preproc_mask": "masks", "lesion": "lesions"}
    for field, destination in lists.items():
        merge = Merge(len(scans))
        if field == "lesion":  # an empty name where nothing is connected
            merge.inputs.trait_set(**{f"in{k + 1}": "" for k in range(len(scans))})
        node = pe.Node(merge, name=f"list_{field}", mem_gb=step_gb("sink", scans[0]))
        workflow.connect(node, "out", harmonize, destination)
    for k, scan in enumerate(scans):
        single = pe.Workflow(name=scan_wf_name(scan))
        _add_results(single, scan, settings, model, keys[scan.key], within, shared=True)
        for outputs, field in (("out_files", "harmonized"), ("results", "result")):
            destination = f"harmonization_wf.inputnode.{field}"
            workflow.connect([(harmonize, single, [((outputs, _one_of, k), destination)])])
    return workflow


def _one_of(values, k):
    """What one scan gets of a list of all."""
    return values[k]


def init_scan_wf(scan, settings, model, key, within=()):
    """Build the workflow of one scan.

    Workflow Graph
        anatomical fit → harmonization → derivatives, figures

    Parameters
    ----------
    scan : bh_bids.dataset.Scan
    settings : bh_bids.settings.Settings
    model : dict
        Description of the target-domain model.
    key : str
        Provenance key.
    within : sequence of bh_bids.dataset.Scan
        The scans whose template gives this one's brain mask and registration, if any.

    Inputs
    ------
    None

    Outputs
    -------
    None
    """
    workflow = init_anatomy_of_scan_wf(scan, settings, model, key, within)
    _add_results(workflow, scan, settings, model, key, within)
    for source, destination in _anatomy_to_results(scan, settings):
        (before, field), (after, into) = source.split(".", 1), destination.split(".", 1)
        workflow.connect(workflow.get_node(before), field, workflow.get_node(after), into)
    return workflow


def init_anatomy_of_scan_wf(scan, settings, model, key, within=()):
    """Build the first part of a scan's workflow, of one that others share the second part with.

    Workflow Graph
        anatomical fit → checks

    Parameters
    ----------
    scan, settings, model, key, within
        As of :func:`init_scan_wf`.

    Inputs
    ------
    None

    Outputs
    -------
    None
    """
    import nipype.pipeline.engine as pe

    from bh_bids.interfaces.anatomical import RequireChecks
    from bh_bids.memory import step_gb

    from .anatomical import init_anatomical_wf
    from .harmonization import shared_maps

    workflow = pe.Workflow(name=scan_wf_name(scan))
    anatomical = init_anatomical_wf(scan=scan, settings=settings, model=model, within=within)
    workflow.add_nodes([anatomical])
    if settings.anat_only:
        return workflow
    gate = pe.Node(
        RequireChecks(
            scan=scan.path.name,
            force=settings.force,
            shared=any(scan in group for group in shared_maps(within, settings)),
        ),
        name="require_checks",
        mem_gb=step_gb("sink", scan),
    )
    workflow.connect(anatomical, "outputnode.preproc", gate, "in_file")
    workflow.connect(anatomical, "outputnode.details", gate, "details")
    return workflow


def _add_results(workflow, scan, settings, model, key, within, shared=False):
    """Add what comes after the anatomical fit: harmonization, derivatives, figures."""
    import nipype.pipeline.engine as pe

    from bh_bids.interfaces.anatomical import MaskOnGrid
    from bh_bids.memory import step_gb

    from .harmonization import init_harmonization_wf
    from .outputs import init_figures_wf, init_outputs_wf

    common = dict(scan=scan, settings=settings, model=model)
    outputs = init_outputs_wf(**common, key=key, within=within)
    figures = init_figures_wf(**common)
    native_mask = pe.Node(
        MaskOnGrid(reference=str(scan.path)),
        name="native_mask",
        mem_gb=step_gb("native_mask", scan),
    )
    workflow.connect(native_mask, "out_file", outputs, "inputnode.mask")
    workflow.add_nodes([figures])
    if settings.anat_only:
        return
    harmonization = init_harmonization_wf(**common, shared=shared)
    results = {
        outputs: ("harmonized", "native", "result", "metrics", "trace"),
        figures: ("harmonized", "result"),
    }
    for destination, fields in results.items():
        for field in fields:
            workflow.connect(
                harmonization, f"outputnode.{field}", destination, f"inputnode.{field}"
            )


def _anatomy_to_results(scan, settings):
    """What goes from the anatomical fit to the rest, as pairs of names inside the workflows."""
    from bh_bids.derivatives import find_lesion

    fields = {
        "outputs_wf": ["to_space", "from_space", "preproc", "preproc_mask", "details"],
        "figures_wf": ["t1w", "mask", "preproc", "preproc_mask"],
    }
    pairs = [("anatomical_wf.outputnode.mask", "native_mask.in_file")]
    if not settings.anat_only:
        brain = ["preproc_mask", "corrected", "mask", "to_space", "details"]
        lesion = ["lesion"] if find_lesion(scan, settings.lesion_roi) else []
        fields["harmonization_wf"] = brain + lesion
        pairs.append(("require_checks.out_file", "harmonization_wf.inputnode.preproc"))
    pairs += [
        (f"anatomical_wf.outputnode.{field}", f"{workflow}.inputnode.{field}")
        for workflow, names in fields.items()
        for field in names
    ]
    return pairs


def scan_wf_name(scan):
    """Name of a scan's workflow.

    Parameters
    ----------
    scan : bh_bids.dataset.Scan

    Returns
    -------
    str
    """
    return f"{_name(scan.key)}_scan_wf"


def _name(label):
    return "".join(c if c.isalnum() else "_" for c in label)
