"""The anatomical fit of all scans of one participant at once."""


def init_longitudinal_wf(*, scans, settings, model, name="longitudinal_wf"):
    """Average a participant's scans without bias, mask the average and register it.

    Workflow Graph
        template halfway between all scans → brain mask → N4 → registration

    Parameters
    ----------
    scans : list of bh_bids.dataset.Scan
        At least two, of one participant.
    settings : bh_bids.settings.Settings
    model : dict
        Description of the target-domain model.
    name : str

    Inputs
    ------
    None
        The scans' files are set when the workflow is built.

    Outputs
    -------
    mask
        Brain mask of the template.
    details
        JSON of the brain extraction.
    to_space
        Composite transform from the template to the model's space.
    to_template
        Rigid transforms from each scan to the template, in the order of ``scans``.
    """
    import nipype.pipeline.engine as pe
    from nipype.interfaces.utility import IdentityInterface

    from bh_bids.derivatives import find_mask, masks_left_out
    from bh_bids.interfaces import anatomical as anat
    from bh_bids.interfaces.longitudinal import WithinTemplate
    from bh_bids.memory import step_gb

    largest = max(scans, key=lambda scan: step_gb("brain_mask", scan))

    def step(interface, name, scans=1):
        return pe.Node(interface, name=name, mem_gb=step_gb(name, largest, scans))

    files = [str(scan.path) for scan in scans]
    template = step(
        WithinTemplate(in_files=files, mode=settings.skull_strip_t1w, seed=settings.random_seed),
        "within_template",
        len(scans),
    )
    masks = [find_mask(scan, settings.derivatives) for scan in scans]
    if all(masks):
        template.inputs.masks = [str(mask) for mask in masks]
    brain = step(
        anat.ExtractBrain(
            mode="force",
            seed=settings.random_seed,
            sloppy=settings.sloppy,
            force=settings.force,
        ),
        "brain_mask",
    )
    left_out = masks_left_out(scans, settings.derivatives)
    if left_out:
        brain.inputs.warnings = [left_out]
    if settings.template:
        brain.inputs.template = settings.template
    correct = step(anat.CorrectBias(sloppy=settings.sloppy), "bias_field")
    register = step(
        anat.RegisterBrain(
            space=model["Config"]["space"], seed=settings.random_seed, sloppy=settings.sloppy
        ),
        "register",
    )
    outputs = pe.Node(
        IdentityInterface(["mask", "details", "to_space", "to_template"]), name="outputnode"
    )
    workflow = pe.Workflow(name=name)
    workflow.connect([
        (template, brain, [("template", "in_file"), ("mask", "mask"), ("mask_by", "mask_by")]),
        (template, correct, [("template", "in_file")]),
        (brain, correct, [("out_mask", "mask")]),
        (correct, register, [("out_file", "in_file")]),
        (brain, register, [("out_mask", "mask")]),
        (template, outputs, [("transforms", "to_template")]),
        (brain, outputs, [("out_mask", "mask"), ("details", "details")]),
        (register, outputs, [("to_space", "to_space")]),
    ])  # fmt: skip
    return workflow
