"""Workflows as graphs: built from a skeleton of a dataset, not run."""

import json
from dataclasses import replace

import pytest
from bh_bids.workflows.base import init_bh_bids_wf, participant_log
from bh_bids.workflows.harmonization import memory_gb

from bh_bids.dataset import find_scans
from bh_bids.settings import METHODS, Settings

SPACE = "MNI152NLin2009aSym"
SCANS = (
    "sub-01/ses-A/anat/sub-01_ses-A_run-1_T1w.nii.gz",
    "sub-01/ses-A/anat/sub-01_ses-A_run-2_T1w.nii.gz",
    "sub-01/ses-B/anat/sub-01_ses-B_T1w.nii.gz",
    "sub-02/anat/sub-02_T1w.nii.gz",
)
ANATOMY = {"conform", "brain_mask", "bias_field", "register", "resample", "native_mask"}
HARMONIZATION = {"harmonize", "native_grid", "metrics", "plot_harmonization"}


@pytest.fixture(scope="module")
def skeleton(tmp_path_factory, dataset_maker):
    root = dataset_maker(tmp_path_factory.mktemp("skeleton") / "bids")
    for name in SCANS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not read when a graph is built")
    return root


@pytest.fixture(scope="module")
def scans(skeleton):
    return find_scans(skeleton)


@pytest.fixture(scope="module")
def model(small_model):
    return json.loads((small_model / "model.json").read_text())


@pytest.fixture
def settings(skeleton, tmp_path, small_model):
    return Settings(
        skeleton,
        tmp_path / "out",
        work_dir=tmp_path / "work",
        model=str(small_model),
        device="cpu",
        output_spaces=("T1w", SPACE),
        nprocs=4,
        omp_nthreads=3,
        run_uuid="20260101-000000_test",
    )


@pytest.fixture
def build(scans, model):
    def graph(settings, only=None):
        return init_bh_bids_wf(
            settings=settings,
            scans=only or scans,
            model=model,
            keys={scan.key: "key" for scan in scans},
        )

    return graph


def names_of(workflow, scan=None):
    """Full names of the nodes of one scan's workflow, or of all."""
    part = f".{scan.replace('-', '_')}_scan_wf." if scan else ""
    return [name for name in workflow.list_node_names() if part in name]


def nodes_of(workflow, scan=None):
    """Nodes by their own name, of one scan's workflow or of all."""
    names = names_of(workflow, scan)
    return {name.rsplit(".", 1)[-1]: workflow.get_node(name) for name in names}


def test_every_scan_of_every_session_and_run_has_all_steps(build, settings, scans):
    workflow = build(settings)
    for scan in scans:
        names = set(nodes_of(workflow, scan.key))
        assert ANATOMY | HARMONIZATION <= names, scan.key
    assert len(workflow.list_node_names()) == len(set(workflow.list_node_names()))
    conforms = [name for name in workflow.list_node_names() if name.endswith(".conform")]
    assert len(conforms) == len(scans)
    files = {str(workflow.get_node(name).inputs.in_file) for name in conforms}
    assert files == {str(scan.path) for scan in scans}


def test_participants_do_not_depend_on_one_another(build, settings):
    import networkx as nx

    graph = build(settings)._create_flat_graph()
    for part in nx.weakly_connected_components(graph):
        assert len({node.fullname.split(".")[1] for node in part}) == 1


def test_all_that_a_finished_scan_needs_has_a_sink(build, settings, scans, model):
    """As many sinks as expected files, sidecars not counted."""
    from bh_bids.derivatives import expected_outputs

    workflow = build(settings)
    for scan in scans:
        files = expected_outputs(scan, SPACE, settings)
        images = [p for p in files if p.suffix != ".json" or p.parent.name == "figures"]
        sinks = [name for name in names_of(workflow, scan.key) if ".ds_" in name]
        assert len(sinks) == len(images)


def test_without_harmonization_there_is_no_harmonization(build, settings):
    nodes = nodes_of(build(replace(settings, anat_only=True)))
    assert set(nodes) >= ANATOMY | {"ds_preproc", "ds_mask", "ds_to_space", "plot_brain"}
    assert not set(nodes) & HARMONIZATION
    assert not any("harmoni" in name or name in ("ds_native", "ds_trace") for name in nodes)


@pytest.mark.parametrize(
    ("spaces", "present", "absent"),
    [
        (("T1w",), "ds_native", "ds_harmonized"),
        ((SPACE,), "ds_harmonized", "ds_native"),
    ],
)
def test_only_the_grids_asked_for_are_written(build, settings, spaces, present, absent):
    nodes = nodes_of(build(replace(settings, output_spaces=spaces)))
    assert present in nodes and absent not in nodes


def test_every_step_says_what_it_needs(build, settings):
    workflow = build(settings)
    for name in workflow.list_node_names():
        node = workflow.get_node(name)
        assert 0 < node.mem_gb <= 4, name
        assert node.n_procs in (1, settings.omp_nthreads), name
    harmonize = nodes_of(workflow, "sub-02")["harmonize"]
    assert harmonize.n_procs == harmonize.inputs.num_threads == 3
    assert harmonize.mem_gb >= 0.8


@pytest.mark.parametrize(("device", "wanted"), [("cpu", False), ("cuda", True), ("cuda:1", True)])
def test_the_harmonization_takes_a_gpu_slot_if_it_runs_on_one(build, settings, device, wanted):
    nodes = nodes_of(build(replace(settings, device=device)))
    assert nodes["harmonize"].inputs.device == device
    assert nodes["harmonize"].is_gpu_node() is wanted
    if wanted:
        assert nodes["harmonize"].n_procs == 1, "nipype counts GPU slots in processes"
    assert not any(node.is_gpu_node() for name, node in nodes.items() if name != "harmonize")


def test_crash_files_go_to_the_participant_s_own_log(build, settings, scans):
    workflow = build(settings)
    for name in workflow.list_node_names():
        label = name.split(".")[0].split("_")[1]
        expected = participant_log(settings, label)
        execution = workflow.get_node(name).config["execution"]
        assert execution["crashdump_dir"] == str(expected), name
        assert execution["crashfile_format"] == "txt"
    assert participant_log(settings, "01") == (
        settings.output_dir / "sub-01" / "log" / settings.run_uuid
    )


def test_choices_reach_the_steps(build, settings, small_model):
    chosen = replace(
        settings, skull_strip_t1w="force", template="OASIS30ANTs", random_seed=11, sloppy=True
    )
    nodes = nodes_of(build(chosen))
    assert nodes["brain_mask"].inputs.mode == "force"
    assert nodes["brain_mask"].inputs.template == "OASIS30ANTs"
    assert nodes["brain_mask"].inputs.sloppy is True
    assert nodes["brain_mask"].inputs.seed == nodes["register"].inputs.seed == 11
    assert nodes["harmonize"].inputs.seed == 11
    assert nodes["harmonize"].inputs.model == str(small_model)
    assert nodes["resample"].inputs.shape == [40, 48, 40]
    assert [row[:3] for row in nodes["resample"].inputs.affine[:3]] == [
        [4, 0, 0], [0, 4, 0], [0, 0, 4],
    ]  # fmt: skip


def test_a_mask_made_elsewhere_is_used_for_its_scan_alone(build, settings, scans, tmp_path):
    mask = tmp_path / "masks" / "sub-02" / "anat" / "sub-02_desc-brain_mask.nii.gz"
    mask.parent.mkdir(parents=True)
    mask.touch()
    workflow = build(replace(settings, derivatives={"masks": tmp_path / "masks"}))
    assert str(nodes_of(workflow, "sub-02")["brain_mask"].inputs.mask) == str(mask)
    others = [
        workflow.get_node(name)
        for name in workflow.list_node_names()
        if name.endswith("brain_mask") and "sub_02" not in name
    ]
    assert len(others) == 3
    assert not any(str(mask) in str(node.inputs.mask) for node in others)


@pytest.mark.parametrize("method", METHODS)
def test_a_sloppy_run_gives_each_method_parameters_that_it_has(build, settings, method):
    from bh_bids.harmonization.solvers import get_solver, make_parameters

    node = nodes_of(build(replace(settings, method=method, sloppy=True)))["harmonize"]
    assert node.inputs.method == method
    solver = get_solver(method)
    sloppy = make_parameters(solver, method, node.inputs.parameters)
    assert sloppy != solver.Parameters()


def test_a_wider_flow_needs_more_memory_to_denoise(model):
    wide = {**model, "Config": {**model["Config"], "hidden_channels": 64, "steps": 8}}
    usual = {**model, "Config": {**model["Config"], "hidden_channels": 32, "steps": 4, "blocks": 2}}
    assert memory_gb(model, "map") < memory_gb(usual, "map") <= 2
    assert memory_gb(wide, "map") > memory_gb(model, "map")
    assert memory_gb(wide, "paper") == memory_gb(model, "paper")


@pytest.mark.parametrize("file", ["WeightsSHA256", "CalibrationSHA256", "MeanSHA256"])
def test_another_model_at_the_same_place_is_another_computation(
    build, settings, scans, model, file
):
    """nipype's cache in the work folder goes by a node's inputs."""
    first = nodes_of(build(settings))["harmonize"].inputs.get_hashval()[1]
    assert file in model
    changed = {**model, file: "0" * 64}
    workflow = init_bh_bids_wf(
        settings=settings, scans=scans, model=changed, keys={scan.key: "k" for scan in scans}
    )
    assert nodes_of(workflow)["harmonize"].inputs.get_hashval()[1] != first


def test_names_with_every_kind_of_label_make_workflows(settings, scans, model, tmp_path):
    """Labels of letters and digits in any mixture; nipype allows no hyphen in a name."""
    odd = replace(
        scans[3],
        participant="0X9",
        path=tmp_path / "sub-0X9_acq-a1B_rec-2nd_T1w.nii.gz",
    )
    odd.path.touch()
    workflow = init_bh_bids_wf(
        settings=settings,
        scans=[*scans, odd],
        model=model,
        keys={scan.key: "k" for scan in [*scans, odd]},
    )
    assert "conform" in nodes_of(workflow, odd.key)


def test_scans_of_one_participant_share_a_template_if_asked(build, settings, scans):
    """One mask and one registration for all, those who have one scan have their own."""
    workflow = build(replace(settings, longitudinal=True))
    counts = {scan.participant: 0 for scan in scans}
    for scan in scans:
        counts[scan.participant] += 1
    assert min(counts.values()) == 1 < max(counts.values())
    for scan in scans:
        own = set(nodes_of(workflow, scan.key))
        shared = {"conform", "bias_field", "resample", "checks", "from_template"}
        if counts[scan.participant] > 1:
            after = HARMONIZATION - {"harmonize"}
            assert shared | after <= own and not own & {"brain_mask", "register", "harmonize"}
        else:
            assert own >= ANATOMY | HARMONIZATION and "from_template" not in own
    names = [name for name in workflow.list_node_names() if name.endswith(".within_template")]
    assert len(names) == sum(count > 1 for count in counts.values())
    for name in names:
        files = workflow.get_node(name).inputs.in_files
        part = next(part for part in name.split(".") if part.startswith("sub_"))
        participant = part.removeprefix("sub_").removesuffix("_wf")
        assert files == [str(scan.path) for scan in scans if scan.participant == participant]


def shared_scans(workflow):
    """Names of the scans of each step that harmonizes several."""
    names = [n for n in workflow.list_node_names() if ".shared_map" in n]
    return [workflow.get_node(n).inputs.scans for n in names if n.endswith("_wf.harmonize")]


def test_scans_of_one_scanner_share_their_map_if_asked(build, settings, scans):
    own = [scan for scan in scans if scan.participant == "01"]
    names = [scan.path.name for scan in own]
    assert shared_scans(build(settings)) == []
    asked = replace(settings, longitudinal=True)
    assert shared_scans(build(asked)) == [names]
    for method, anat_only in (("paper", False), ("map", True)):
        other = replace(asked, method=method, anat_only=anat_only)
        assert shared_scans(build(other)) == [], "there is no map to share"
    trio, skyra = {"ManufacturersModelName": "TrioTim"}, {"ManufacturersModelName": "Skyra"}
    moved = [replace(s, metadata=m) for s, m in zip(own, (trio, skyra, trio), strict=True)]
    workflow = build(asked, moved)
    assert shared_scans(workflow) == [[names[0], names[2]]]
    assert "harmonize" in nodes_of(workflow, own[1].key)
    assert "harmonize" not in nodes_of(workflow, own[0].key)


def test_each_scan_gets_its_own_of_a_shared_map(build, settings, scans):
    """The k-th brain in, the k-th result out."""
    own = [scan for scan in scans if scan.participant == "01"]
    graph = build(replace(settings, longitudinal=True))._create_flat_graph()
    parts = [f".{scan.key.replace('-', '_')}_scan_wf." for scan in own]

    def edges_of(name):
        (node,) = (n for n in graph.nodes if ".shared_map" in n.fullname and n.name == name)
        for before, _, data in graph.in_edges(node, data=True):
            yield from ((into, before.fullname) for _, into in data["connect"])

    for name, source in (
        ("list_preproc", "require_checks"),
        ("list_preproc_mask", "anatomical_wf.outputnode"),
    ):
        fed = dict(edges_of(name))
        for k, part in enumerate(parts):
            assert part in fed[f"in{k + 1}"] and fed[f"in{k + 1}"].endswith(source)
    (harmonize,) = (n for n in graph.nodes if n.fullname.endswith("shared_map0_wf.harmonize"))
    taken = set()
    for _, after, data in graph.out_edges(harmonize, data=True):
        for source, field in data["connect"]:
            k = next(k for k, part in enumerate(parts) if part in after.fullname)
            assert source[2] == (k,)
            taken.add((k, field))
    assert taken == {(k, field) for k in range(len(own)) for field in ("harmonized", "result")}


def test_another_version_starts_from_an_empty_work_folder(settings, scans, build, monkeypatch):
    """Steps of the same inputs would be taken as done, and the results told as this version's."""
    from bh_bids.workflows import base

    first = base.work_folder(settings, scans[0])
    assert first.parts[:-3] == (*settings.work_dir.parts, build(settings).base_dir.split("/")[-1])
    monkeypatch.setattr(base, "software_versions", lambda: {"bh-bids": "99"})
    assert base.work_folder(settings, scans[0]) not in (first, *first.parents)
    assert str(base.work_folder(settings, scans[0])).startswith(build(settings).base_dir)


@pytest.mark.parametrize("longitudinal", [False, True])
@pytest.mark.parametrize(("anat_only", "mark"), [(False, "ds_metrics"), (True, "ds_preproc")])
def test_what_marks_a_scan_as_done_is_written_last(
    build, settings, scans, anat_only, mark, longitudinal
):
    import networkx as nx

    asked = replace(settings, anat_only=anat_only, longitudinal=longitudinal)
    graph = build(asked)._create_flat_graph()
    for scan in scans:
        part = f".{scan.key.replace('-', '_')}_scan_wf."
        sinks = {n for n in graph if part in n.fullname and n.name.startswith("ds_")}
        last = {node for node in sinks if node.name == mark}
        before = nx.ancestors(graph, *last)
        assert len(sinks & before) >= 4
        # A scan has its results where a figure fails.
        assert {".figures_wf." in n.fullname for n in sinks - before - last} == {True}
        assert not any(".figures_wf." in n.fullname for n in before)


@pytest.mark.parametrize("anat_only", [False, True])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("lacking", [0, 1, 3])
def test_masks_that_a_common_template_leaves_out_are_told(
    build, settings, scans, tmp_path, lacking, shared, anat_only
):
    own = [scan for scan in scans if scan.participant == "01"]
    if not shared:
        own = [replace(s, metadata={"ManufacturersModelName": s.key}) for s in own]
    for scan in own[lacking:]:
        mask = tmp_path / "masks" / scan.folder / f"{scan.key}_desc-brain_mask.nii.gz"
        mask.parent.mkdir(parents=True, exist_ok=True)
        mask.write_bytes(b"mask")
    given = {"masks": tmp_path / "masks"}
    asked = replace(settings, longitudinal=True, derivatives=given, anat_only=anat_only)
    workflow = build(asked, own)
    template, brain = (
        workflow.get_node(next(n for n in workflow.list_node_names() if n.endswith(name)))
        for name in ("longitudinal_wf.within_template", "longitudinal_wf.brain_mask")
    )
    names = ", ".join(scan.path.name for scan in own[:lacking])
    said = brain.inputs.warnings
    if lacking == 0:
        assert not isinstance(said, list) and len(template.inputs.masks) == 3
    else:
        assert not isinstance(template.inputs.masks, list) or not template.inputs.masks
        (sentence,) = said
        assert "masks (--derivatives)" in sentence
        assert lacking == 3 or sentence.endswith(f"without one: {names}.")
    for scan in own:
        nodes = nodes_of(workflow, scan.key)
        account = nodes["ds_mask"].inputs.meta_dict["Provenance"]
        assert account["InputSHA256"] and ("MaskSHA256" in account) == (lacking == 0)
        assert "--derivatives masks=PATH" in account["CommandLine"]
        if not anat_only:
            for name in ("sidecar_harmonized", "sidecar_native"):
                assert nodes[name].inputs.mask_used is (lacking == 0)


def test_the_sidecar_of_the_result_leaves_an_unused_mask_out(monkeypatch, tmp_path):
    from bh_bids.workflows import outputs

    from bh_bids import sidecars

    for name, value in (
        ("harmonization_block", {"InputSHA256": "a", "MaskSHA256": "b"}),
        ("anatomical_checks", {}),
        ("image_sidecar", {}),
    ):
        monkeypatch.setattr(sidecars, name, lambda *_, value=value, **__: dict(value))
    path = tmp_path / "a.json"
    path.write_text("{}")
    for used in (True, False):
        told = outputs._harmonized_sidecar(path, path, None, None, {"Name": "a"}, "", used)
        assert ("MaskSHA256" in told["Harmonization"]) is used
        assert told["Harmonization"]["InputSHA256"] == "a"


def test_each_scan_takes_its_own_transform_to_the_template(build, settings, scans):
    workflow = build(replace(settings, longitudinal=True))
    for participant in {scan.participant for scan in scans}:
        own = [scan for scan in scans if scan.participant == participant]
        if len(own) > 1:
            picks = [nodes_of(workflow, s.key)["sidecar_own_transform"].inputs.index for s in own]
            assert picks == [[k] for k in range(len(own))]


def test_a_forced_run_forces_the_steps_that_refuse(build, settings, scans):
    for force in (False, True):
        nodes = nodes_of(build(replace(settings, force=force)), scans[0].key)
        assert nodes["require_checks"].inputs.force is force
        assert nodes["brain_mask"].inputs.force is force
