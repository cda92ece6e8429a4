"""Sites from TOML, and what is said of wrong ones."""

import pytest

from bh_bids.errors import InputError
from bh_bids.simulation.sites import PRESETS, Site, load_sites


def write(path, text):
    path.write_text(text)
    return path


def test_toml_builds_on_presets(tmp_path):
    path = write(
        tmp_path / "sites.toml",
        '[siteX]\nlike = "siteB"\nfield = 3\nvoxel_size = [1, 1, 2]\n[siteA]\nnoise = 0.1\n',
    )
    sites = load_sites(path)
    assert list(sites) == ["siteX", "siteA"]
    assert sites["siteX"].sequence == "spgr" and sites["siteX"].field == 3
    assert sites["siteX"].voxel_size == (1.0, 1.0, 2.0) and sites["siteX"].name == "siteX"
    assert sites["siteA"].noise == 0.1 and sites["siteA"].model == PRESETS["siteA"].model


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[siteX\n", "not valid TOML"),
        ("", "one table per site"),
        ("noise = 1\n", "one table per site"),
        ("[siteX]\nspeed = 3\n", "'speed' is not a setting"),
        ('[siteX]\nfield = "high"\n', "wrong type"),
        ("[siteX]\nechoes = 10.5\n", "wrong type"),
        ('[siteX]\nlike = "siteQ"\n', "no preset 'siteQ'"),
        ('[siteX]\nsequence = "mp2rage"\n', "mp2rage"),
        ('[siteX]\norientation = "RAR"\n', "not like RAS"),
        ("[siteX]\nvoxel_size = [1, 1]\n", "three positive"),
        ("[siteX]\nnoise = -1\n", "must not be negative"),
        ("[siteX]\nti = 100\n", "does not fit"),
        ("[siteX]\nfield = 40\n", "relaxation model"),
        ('["site-X"]\nfield = 3\n', "letters and digits"),
        ("[siteX]\nechoes = -5\n", "echoes must be positive"),
        ("[siteX]\nti = -1.0\n", "ti must be positive"),
        ("[siteX]\ntr = inf\n", "tr must be positive and finite"),
        ("[siteX]\nte = nan\n", "te must be positive and finite"),
        ("[siteX]\nnoise = inf\n", "noise must not be negative or infinite"),
        ("[siteX]\nvoxel_size = [1, 1, inf]\n", "three positive"),
        ("[siteX]\nflip_angle = 180\n", "less than 180"),
        ("x = " + "[" * 9999, "not valid TOML"),
    ],
)
def test_wrong_sites_are_named(tmp_path, text, sentence):
    with pytest.raises(InputError, match=sentence):
        load_sites(write(tmp_path / "sites.toml", text))


def test_other_encodings_are_named(tmp_path):
    (tmp_path / "sites.toml").write_bytes('[siteX]\nmanufacturer = "Hänsel"\n'.encode("latin-1"))
    with pytest.raises(InputError, match="sites.toml is not valid TOML: 'utf-8' codec"):
        load_sites(tmp_path / "sites.toml")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="none.toml cannot be read"):
        load_sites(tmp_path / "none.toml")


def test_sidecar_is_in_bids_units():
    sidecar = PRESETS["siteC"].sidecar()
    assert sidecar["RepetitionTime"] == pytest.approx(2.3)
    assert sidecar["InversionTime"] == pytest.approx(0.9)
    assert sidecar["EchoTime"] == pytest.approx(0.00298)
    assert sidecar["MagneticFieldStrength"] == 3
    assert "InversionTime" not in Site("x", sequence="spgr", tr=20, flip_angle=30).sidecar()
