"""The whole run: participants, and each participant's scans."""

from pathlib import Path


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

    workflow = RunOnceWorkflow(name="bh_bids_wf")
    workflow.base_dir = str(settings.work_dir)
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
    participant = f"sub_{_name(scan.participant)}_wf"
    return Path(settings.work_dir) / "bh_bids_wf" / participant / scan_wf_name(scan)


def init_single_participant_wf(*, participant, settings, scans, model, keys):
    """Build the workflow of one participant: every T1w scan of every session and run.

    Workflow Graph
        per scan: anatomical fit → harmonization → derivatives, figures; with ``--longitudinal``
        the scans' common template before

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

    workflow = pe.Workflow(name=f"sub_{_name(participant)}_wf")
    within = scans if settings.longitudinal and len(scans) > 1 else []
    if within:
        from .longitudinal import init_longitudinal_wf

        longitudinal = init_longitudinal_wf(scans=scans, settings=settings)
    for scan in scans:
        single = init_scan_wf(scan, settings, model, keys[scan.key], within)
        workflow.add_nodes([single])
        for name in ("mask", "details", "to_space", "to_template") if within else ():
            destination = f"anatomical_wf.inputnode.{name}"
            workflow.connect(longitudinal, f"outputnode.{name}", single, destination)
    return workflow


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
    import nipype.pipeline.engine as pe

    from bh_bids.derivatives import find_lesion
    from bh_bids.interfaces.anatomical import MaskOnGrid, RequireChecks
    from bh_bids.memory import step_gb

    from .anatomical import init_anatomical_wf
    from .harmonization import init_harmonization_wf
    from .outputs import init_figures_wf, init_outputs_wf

    common = dict(scan=scan, settings=settings, model=model)
    workflow = pe.Workflow(name=scan_wf_name(scan))
    anatomical = init_anatomical_wf(**common, within=within)
    outputs = init_outputs_wf(**common, key=key)
    figures = init_figures_wf(**common)
    native_mask = pe.Node(
        MaskOnGrid(reference=str(scan.path)),
        name="native_mask",
        mem_gb=step_gb("native_mask", scan),
    )

    def wire(source, destination, *fields):
        for name in fields:
            workflow.connect(source, f"outputnode.{name}", destination, f"inputnode.{name}")

    workflow.connect(anatomical, "outputnode.mask", native_mask, "in_file")
    workflow.connect(native_mask, "out_file", outputs, "inputnode.mask")
    wire(anatomical, outputs, "to_space", "from_space", "preproc", "preproc_mask", "details")
    wire(anatomical, figures, "t1w", "mask", "preproc", "preproc_mask")
    if settings.anat_only:
        return workflow
    harmonization = init_harmonization_wf(**common)
    gate = pe.Node(
        RequireChecks(scan=scan.path.name, force=settings.force),
        name="require_checks",
        mem_gb=step_gb("sink", scan),
    )
    workflow.connect(anatomical, "outputnode.preproc", gate, "in_file")
    workflow.connect(anatomical, "outputnode.details", gate, "details")
    workflow.connect(gate, "out_file", harmonization, "inputnode.preproc")
    brain = ("preproc_mask", "corrected", "mask", "to_space", "details")
    wire(anatomical, harmonization, *brain)
    if find_lesion(scan, settings.lesion_roi):
        wire(anatomical, harmonization, "lesion")
    wire(harmonization, outputs, "harmonized", "native", "result", "metrics", "trace")
    wire(harmonization, figures, "harmonized", "result")
    return workflow


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
