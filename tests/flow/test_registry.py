"""Which model a name means: never one by surprise."""

import json
import os

import pytest

from bh_bids.errors import ModelError
from bh_bids.flow import registry
from bh_bids.flow.registry import find_model, list_models, user_folders


def place(folder, name, **description):
    (folder / name).mkdir(parents=True)
    (folder / name / "model.json").write_text(json.dumps({"Name": name, **description}))
    return folder / name


@pytest.fixture
def shelves(tmp_path, monkeypatch):
    """A package with one model, two user folders, and an empty working directory."""
    package, first, second, here = (tmp_path / n for n in ("package", "first", "second", "here"))
    for folder in (package, first, second, here):
        folder.mkdir()
    place(package, "default")
    monkeypatch.setattr(registry, "PACKAGED_MODELS", package)
    monkeypatch.setenv("BH_MODELS", os.pathsep.join(map(str, (first, tmp_path / "gone", second))))
    monkeypatch.chdir(here)
    return package, first, second, here


def test_names_are_found_in_package_and_user_folders(shelves):
    package, first, second, _ = shelves
    place(first, "philips")
    place(second, "trio")
    (second / "no-model").mkdir()
    (second / "file").write_text("")
    assert find_model("default") == package / "default"
    assert find_model("philips") == first / "philips"
    assert find_model("trio") == second / "trio"
    assert [(e.name, e.packaged) for e in list_models()] == [
        ("default", True),
        ("philips", False),
        ("trio", False),
    ]


@pytest.mark.parametrize("value", ["", os.pathsep, "~/models", "/nowhere/at/all"])
def test_values_of_the_variable(shelves, monkeypatch, value):
    monkeypatch.setenv("BH_MODELS", value)
    assert [entry.name for entry in list_models()] == ["default"]
    assert all("~" not in str(folder) for folder in user_folders())
    monkeypatch.delenv("BH_MODELS")
    assert [entry.name for entry in list_models()] == ["default"]


def test_homes_of_nobody(shelves, monkeypatch):
    _, first, _, _ = shelves
    place(first, "philips")
    monkeypatch.setenv("BH_MODELS", os.pathsep.join(["~bh-nobody/models", str(first)]))
    assert [entry.name for entry in list_models()] == ["default", "philips"]
    assert find_model("philips") == first / "philips"
    with pytest.raises(ModelError, match="There is no model '~bh-nobody/m'"):
        find_model("~bh-nobody/m")


def test_a_name_that_two_models_have_is_refused(shelves):
    package, first, second, here = shelves
    for folder, name in ((first, "default"), (first, "trio"), (second, "trio")):
        place(folder, name)
    for name, places in (("default", (package, first)), ("trio", (first, second))):
        with pytest.raises(ModelError, match="More than one model") as caught:
            find_model(name)
        assert all(str(folder / name) in str(caught.value) for folder in places)
        for folder in places:
            assert find_model(folder / name) == folder / name


def test_working_directory(shelves, tmp_path):
    """A folder there is found by its bare name, but replaces no named model."""
    package, first, _, here = shelves
    place(here, "mine")
    assert find_model("mine").resolve() == here / "mine"
    place(here, "default")
    with pytest.raises(ModelError, match="More than one model"):
        find_model("default")
    assert find_model("./default").resolve() == here / "default"
    assert find_model("../first/../here/mine").resolve() == here / "mine"


def test_the_same_folder_is_no_second_model(shelves, monkeypatch):
    _, first, second, _ = shelves
    place(first, "trio")
    (second / "trio").symlink_to(first / "trio")
    assert find_model("trio") == first / "trio"
    monkeypatch.chdir(first)
    assert find_model("trio") == first / "trio"


def test_a_folder_without_a_model_hides_none(shelves):
    package, _, _, here = shelves
    (here / "default").mkdir()
    assert find_model("default") == package / "default"


@pytest.mark.parametrize("name", ["nowhere", "../default", "~/nowhere", "", "a/b", ".."])
def test_unknown_names(shelves, name):
    with pytest.raises(ModelError, match="no model"):
        find_model(name)


def test_what_was_searched_is_said(shelves):
    _, first, _, here = shelves
    place(first, "trio")
    with pytest.raises(ModelError) as caught:
        find_model("siemens")
    assert str(first) in str(caught.value) and "default, trio" in str(caught.value)
    (here / "empty").mkdir()
    with pytest.raises(ModelError, match="empty is no model: it has no model.json"):
        find_model("empty")
