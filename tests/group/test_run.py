"""The group level on a small study: figures against other implementations, repeatability, folds."""

import dataclasses
import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bh_bids.errors import InputError, ModelError
from bh_bids.group.cases import open_case
from bh_bids.group.evaluate import voxel_volume
from bh_bids.group.fits import Fits
from bh_bids.group.run import run_group
from bh_bids.group.study import DEFAULT_SPACE, read_study
from bh_bids.group.volumes import Case
from bh_bids.settings import Settings


def settings(root, work, **options):
    return Settings(
        bids_dir=root / "bids", output_dir=root / "out", work_dir=work, analysis_level="group",
        **{"comparators": ("gain", "hm"), "nprocs": 1, **options},
    )  # fmt: skip


@pytest.fixture(scope="module")
def evaluated(small_study, tmp_path_factory):
    """The small study after a group level; its work folder."""
    work = tmp_path_factory.mktemp("work")
    assert run_group(settings(small_study, work, target="ses-A")) == 0
    return small_study, work


def table(root, name):
    return pd.read_csv(root / "out" / f"group_desc-{name}_metrics.tsv", sep="\t", na_values="n/a")


def volume(root, label, site, what):
    name = f"sub-{label}_ses-{site}_space-MNI152NLin2009aSym_res-1_desc-{what}.nii.gz"
    return nib.load(root / "out" / f"sub-{label}" / f"ses-{site}" / "anat" / name).get_fdata()


def test_every_table_has_a_dictionary_of_its_columns(evaluated):
    root, _ = evaluated
    for path in (root / "out").glob("group_desc-*_metrics.tsv"):
        columns = pd.read_csv(path, sep="\t").columns
        assert set(columns) == set(json.loads(path.with_suffix(".json").read_text())), path.name


def test_harmonized_scans_keep_the_participant_levels_columns(evaluated):
    found = table(evaluated[0], "harmonization").set_index("scan")
    assert len(found) == 12
    assert (found.loc[found.site == "A", "role"] == "target").all()
    assert found.loc["sub-02_ses-C", "bits_per_dim_after"] == 4
    assert found.loc["sub-02_ses-C", "psnr"] > 0 and np.isnan(found.loc["sub-02_ses-A", "psnr"])


def test_scores_are_those_of_the_images_on_disk(evaluated):
    """NCC with the source, and the Wasserstein distance, by numpy and scipy from the files."""
    from scipy.stats import wasserstein_distance

    root, _ = evaluated
    mask = volume(root, "03", "B", "brain_mask") > 0
    source = volume(root, "03", "B", "preproc_T1w")[mask]
    made = volume(root, "03", "B", "harmonized_T1w")[mask] / 1500
    row = table(root, "harmonization").set_index("scan").loc["sub-03_ses-B"]
    assert row.ncc_source == pytest.approx(np.corrcoef(source, made)[0, 1], abs=1e-4)
    # The reference is the mean of the quantiles of the other fold's target scans: 02 and 04.
    quantiles = []
    for label in ("02", "04"):
        brain = volume(root, label, "A", "preproc_T1w")[volume(root, label, "A", "brain_mask") > 0]
        quantiles.append(np.quantile(brain / np.percentile(brain, 99), np.linspace(0, 1, 4001)))
    expected = wasserstein_distance(made, np.mean(quantiles, axis=0))
    assert row.wasserstein == pytest.approx(expected, abs=2e-3)


def test_the_result_nearest_to_the_truth_leads(evaluated):
    found = table(evaluated[0], "summary")
    psnr = found[(found.metric == "psnr") & (found.site == "all")].set_index("method")
    assert psnr.loc["harmonized", "mean"] > psnr.loc["gain", "mean"] > psnr.loc["source", "mean"]
    own = table(evaluated[0], "harmonization").groupby("participant_id").psnr.mean()
    other = table(evaluated[0], "source").groupby("participant_id").psnr.mean()
    row = psnr.loc["source"]
    assert row["n"] == 4 and row["mean"] == pytest.approx(other.mean(), rel=1e-4)
    assert row["sd"] == pytest.approx(other.std(), abs=2e-4)
    assert row["difference"] == pytest.approx((own - other).mean(), abs=2e-4)
    assert row["ci_low"] <= row["difference"] <= row["ci_high"]
    assert row["p"] == pytest.approx(2 / 2**4)  # all four gain
    assert row["n_pairs"] == 4 and np.isnan(psnr.loc["harmonized", "n_pairs"])
    page = (evaluated[0] / "out" / "group.html").read_text(encoding="utf-8")
    assert "Too few participants (at least 6 are needed) to tell" in page
    assert "is better than the untouched source" in page and "4 participants with both" in page


def test_a_second_run_computes_nothing_and_writes_the_same(evaluated, monkeypatch):
    root, work = evaluated
    paths = sorted((root / "out").glob("group*"))
    before = {path.name: path.read_bytes() for path in paths}

    def never(*_, **__):
        raise AssertionError("an image was read")

    monkeypatch.setattr("bh_bids.group.volumes.read_volume", never)
    monkeypatch.setattr("bh_bids.group.fits.read_preproc", never)
    assert run_group(settings(root, work, target="ses-A")) == 0
    assert {p.name: p.read_bytes() for p in sorted((root / "out").glob("group*"))} == before


def test_several_at_once_find_the_same(evaluated, tmp_path):
    root, _ = evaluated
    before = {p.name: p.read_bytes() for p in sorted((root / "out").glob("group*"))}
    assert run_group(settings(root, tmp_path, target="ses-A", nprocs=3)) == 0
    assert {p.name: p.read_bytes() for p in sorted((root / "out").glob("group*"))} == before


def test_scans_of_two_contrasts_become_one_cloud(evaluated):
    """Site B and C are told apart before, and their tissues' contrast is the target's after."""
    after = table(evaluated[0], "harmonization")
    before = table(evaluated[0], "source")
    assert after[after.role == "source"].contrast_error.max() < 0.3 * before.contrast_error.min()
    effect = table(evaluated[0], "siteeffect").set_index("method")
    assert effect.loc["source", "site_chance"] == pytest.approx(1 / 3, abs=1e-5)
    assert effect.loc["source", "site_n"] == 12


def test_only_other_participants_are_fitted_on(small_study, tmp_path):
    from bh_bids.comparators import COMPARATORS
    from bh_bids.group.cases import scan_cases
    from bh_bids.group.fits import Fits
    from bh_bids.group.store import Store
    from bh_bids.group.study import read_study
    from bh_bids.group.target import choose_target, find_pairs

    study = read_study(small_study / "out", small_study / "bids", "MNI152NLin2009aSym")
    sites = choose_target(study, "ses-A")
    cases = scan_cases(study, sites, find_pairs(study, sites))
    targets = [r for r in study.records if sites.of[r.key] == "A"]
    options = dict(folds=2, seed=0, device="cpu", report=print)
    seen = []

    class Spy(COMPARATORS["gain"]):
        name, trains, needs_pairs = "spy", True, True

        def fit(self, sources, targets, **_):
            seen.append(([s.participant for s in sources], [t.participant for t in targets]))
            return super().fit(sources, targets)

        def settings(self):
            return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(COMPARATORS, "spy", Spy)
        for case in cases:
            seen.clear()
            # Another folder each: a fit that an earlier case left would be taken.
            fits = Fits(targets, cases, None, Store(tmp_path / case.scan.key), **options)
            fits.comparator("spy", case)
            ((sources, partners),) = seen
            assert case.participant not in sources and sources == partners
            assert len(sources) == 2
    assert fits.fewest_targets() == 2


def test_few_can_be_measured_with_what_is_fitted_on_all_others(evaluated, tmp_path):
    """The chosen participant's figures are those that they have among all."""
    root, work = evaluated
    before = table(root, "hm").set_index("scan")
    kept = {p: p.read_bytes() for p in (root / "out").glob("group*")}
    options = dataclasses.replace(settings(root, work, target="ses-A"), participant_label=("03",))
    assert run_group(options) == 0
    found = table(root, "hm").set_index("scan")
    assert list(found.index) == ["sub-03_ses-B", "sub-03_ses-C"]
    page = (root / "out" / "group.html").read_text(encoding="utf-8")
    assert "<b>2</b> source scans" in page and "<b>1</b> target scans" in page
    assert (found.psnr == before.loc[found.index].psnr).all()
    for path, content in kept.items():
        path.write_bytes(content)


def test_without_pairs_what_needs_none_is_told(scan_maker, tmp_path):
    for k, site in enumerate("BBCC"):
        scan_maker(tmp_path, f"{k + 1:02d}", site, seed=k)
    assert run_group(settings(tmp_path, tmp_path / "work")) == 0
    found = table(tmp_path, "source")
    assert "psnr" not in found and "gm_wm" in found
    page = (tmp_path / "out" / "group.html").read_text()
    assert "No participant has both a source and a target scan" in page


def test_a_broken_scan_does_not_stop_the_others(scan_maker, tmp_path, capsys):
    for k in range(2):
        for site in "AB":
            scan_maker(tmp_path, f"{k + 1:02d}", site, seed=k)
    broken = next(tmp_path.glob("out/sub-01/ses-B/anat/*harmonized_T1w.nii.gz"))
    broken.write_bytes(broken.read_bytes()[:500])
    assert run_group(settings(tmp_path, tmp_path / "work", target="ses-A")) == 1
    assert broken.name in capsys.readouterr().err
    found = table(tmp_path, "harmonization").set_index("scan")
    assert np.isnan(found.loc["sub-01_ses-B", "psnr"]) and found.loc["sub-02_ses-B", "psnr"] > 0
    assert broken.name in (tmp_path / "out" / "group.html").read_text()


def test_simulated_gaps_need_target_scans(small_study, tmp_path):
    with pytest.raises(InputError, match="give --target"):
        run_group(
            dataclasses.replace(
                settings(small_study, tmp_path, comparators=(), simulate_gaps=("exp",)),
                session_label=("B",),
            )
        )


def test_simulated_gaps_are_measured_against_the_scan_itself(small_study, tmp_path):
    run_group(
        dataclasses.replace(
            settings(
                small_study, tmp_path, target="ses-A", simulate_gaps=("none", "gamma0.7"),
                comparators=("hm",),
            ),
            session_label=("A",),
        )
    )  # fmt: skip
    found = table(small_study, "gaps")
    assert len(found) == 2 * 4 * 2 and set(found.gap) == {"none", "gamma0.7"}
    psnr = found.groupby(["gap", "method"]).psnr.mean()
    assert psnr["none", "source"] == 100
    # The histogram match undoes a gamma up to where two brains' histograms differ.
    assert psnr["gamma0.7", "hm"] > psnr["gamma0.7", "source"] + 10


def test_tissues_are_told_in_the_persons_own_millilitres(small_study, monkeypatch):
    """By the brain's volume, or by the transform where a target scan was not harmonized."""
    study = read_study(small_study / "out", small_study / "bids", DEFAULT_SPACE)
    (known,) = [r for r in study.records if r.key == "sub-01_ses-A"]
    opened = open_case(Case(known, "A"), None)
    voxels = np.count_nonzero(opened.mask)
    # What the conftest says of it: a head of 1.25 times the template's size.
    assert voxel_volume(Case(known, "A"), opened) == pytest.approx(1 / 800)
    other = dataclasses.replace(known, metrics={})
    assert np.isnan(voxel_volume(Case(other, "A"), opened))
    matrix = np.diag([0.8, 1.0, 1.0, 1.0])
    monkeypatch.setattr("bh_bids.group.evaluate.scan_to_model", lambda record: matrix)
    assert voxel_volume(Case(other, "A"), opened) == pytest.approx(1 / 800)
    # Of a gap that cuts the brain the voxels are as large as ever.
    gap = Case(known, "A", gap="fov")
    cut = open_case(gap, None)
    assert np.count_nonzero(cut.mask) < 0.9 * voxels
    assert voxel_volume(gap, cut) == pytest.approx(1 / 800)


def test_results_of_two_models_are_told_of(scan_maker, tmp_path, capsys):
    for k in range(2):
        scan_maker(tmp_path, f"0{k + 1}", "A", seed=k)
        scan_maker(tmp_path, f"0{k + 1}", "B", seed=k)
    path = next((tmp_path / "out").glob("sub-02/ses-B/anat/*_desc-harmonized_T1w.json"))
    sidecar = json.loads(path.read_text())
    sidecar["Harmonization"] |= {"Model": "other", "WeightsSHA256": "1"}
    path.write_text(json.dumps(sidecar))
    run_group(settings(tmp_path, tmp_path / "work", target="ses-A", comparators=()))
    said = capsys.readouterr().err
    assert "not all harmonized alike" in said and "model other" in said
    assert "not all harmonized alike" in (tmp_path / "out" / "group.html").read_text()


def test_what_diverges_is_not_trained_again_for_every_scan():
    fits = Fits([], [], None, None, folds=2, seed=0, device="cpu", report=print)
    tried = []

    def diverge():
        tried.append(1)
        raise ModelError("The training diverged.")

    for _ in range(3):
        with pytest.raises(ModelError, match="diverged"):
            fits._keep(("unet", 0, "B"), diverge)
    assert len(tried) == 1
