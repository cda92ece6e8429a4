"""What the program must not do whatever it is given: run code from files, call out, break out."""

import ast
import json
import os
import re
from pathlib import Path

import pytest

import bh_bids
from bh_bids.reports.assemble import write_participant_report

ROOT = Path(bh_bids.__file__).resolve().parent
SOURCES = sorted([*ROOT.rglob("*.py"), *(ROOT.parent / "workflows").glob("*.py")])

FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {
    *("pickle", "cPickle", "dill", "shelve", "marshal", "joblib", "cloudpickle", "code"),
    *("urllib.request", "http.client", "requests", "urllib3", "socket", "ftplib", "smtplib"),
    *("telnetlib", "xmlrpc", "aiohttp", "httpx"),
}
# (module, attribute): calls that run code, shells, or programs from strings.
FORBIDDEN_CALLS = {
    ("os", "system"), ("os", "popen"), ("os", "startfile"), ("subprocess", "getoutput"),
    ("subprocess", "getstatusoutput"), ("yaml", "load"), ("yaml", "unsafe_load"),
    ("yaml", "full_load"), ("torch", "jit"), ("importlib", "import_module"),
    ("np", "loadtxt"), ("np", "fromregex"), ("tempfile", "mktemp"), ("os", "execv"),
}  # fmt: skip


def findings(path):
    """What of a module's source is forbidden."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in FORBIDDEN_MODULES)
        if isinstance(node, ast.ImportFrom) and node.module in FORBIDDEN_MODULES and not node.level:
            yield node.module
        if not isinstance(node, ast.Call):
            continue
        called, given = node.func, {word.arg: word.value for word in node.keywords}
        if isinstance(called, ast.Name) and called.id in FORBIDDEN_NAMES:
            yield called.id
        if isinstance(called, ast.Attribute):
            owner = called.value.id if isinstance(called.value, ast.Name) else ""
            if (owner, called.attr) in FORBIDDEN_CALLS:
                yield f"{owner}.{called.attr}"
            if (owner, called.attr) == ("torch", "load"):
                safe = given.get("weights_only")
                if not (isinstance(safe, ast.Constant) and safe.value is True):
                    yield "torch.load without weights_only=True"
            if (owner, called.attr) == ("np", "load"):
                pickled = given.get("allow_pickle")
                if isinstance(pickled, ast.Constant) and pickled.value:
                    yield "np.load of pickles"
        shell = given.get("shell")
        if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
            yield "shell="


# What is known and harmless: where, what, why.
ALLOWED = {
    ("flow/foreign.py", "pickle"): "the name of the error that torch.load raises",
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT.parent)))
def test_no_source_runs_code_or_shells_from_what_it_reads(path):
    name = str(path.relative_to(ROOT)) if ROOT in path.parents else path.name
    found = {what for what in findings(path) if (name, what) not in ALLOWED}
    assert found == set()


def test_the_search_finds_what_it_looks_for(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(
        "import pickle, os, torch, subprocess, numpy as np\nfrom urllib.request import urlopen\n"
        "eval('1')\nos.system('x')\ntorch.load('x')\ntorch.load('x', weights_only=False)\n"
        "subprocess.run('x', shell=True)\nnp.load('x', allow_pickle=True)\n"
    )
    assert set(findings(path)) == {
        *("pickle", "urllib.request", "eval", "os.system", "shell=", "np.load of pickles"),
        "torch.load without weights_only=True",
    }
    path.write_text("import torch\ntorch.load('x', weights_only=True)\nprint('eval')\n")
    assert list(findings(path)) == []


def test_pickle_is_imported_for_its_errors_alone():
    source = (ROOT / "flow" / "foreign.py").read_text()
    assert set(re.findall(r"pickle\.\w+", source)) == {"pickle.UnpicklingError"}


def test_every_exception_is_there():
    """An exception that is no more is to be taken off the list."""
    assert {(name, what) for name, _ in ALLOWED for what in findings(ROOT / name)} == set(ALLOWED)


def test_libraries_are_told_to_ask_no_server(monkeypatch, tmp_path):
    from bh_bids.cli.run import prepare_environment
    from bh_bids.settings import Settings

    for name in ("NIPYPE_NO_ET", "NO_ET", "TEMPLATEFLOW_AUTOUPDATE"):
        monkeypatch.delenv(name, raising=False)
    kept = dict(os.environ)
    try:
        prepare_environment(Settings(tmp_path, tmp_path))
        said = {name: os.environ[name] for name in ("NIPYPE_NO_ET", "NO_ET")}
        assert said == {"NIPYPE_NO_ET": "1", "NO_ET": "1"}
        assert os.environ["TEMPLATEFLOW_AUTOUPDATE"] == "0"
    finally:
        os.environ.clear()
        os.environ.update(kept)


def test_a_run_opens_no_connection(small_dataset, small_model, tmp_path, run_here, monkeypatch):
    """Sockets of the network's families are refused while a plan is made, all libraries loaded."""
    import socket

    asked = []

    class Watched(socket.socket):
        def connect(self, address):
            if self.family != socket.AF_UNIX:
                asked.append(address)
                raise OSError("no network in this test")
            return super().connect(address)

    monkeypatch.setattr(socket, "socket", Watched)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: asked.append(a) or [])
    code, out, err = run_here(small_dataset, tmp_path, small_model, "--dry-run")
    assert code == 0, err
    assert asked == []


EVIL = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>\"'>&{{7*7}}"
ADDRESS = "https://example.org/x.png"


@pytest.fixture(scope="module")
def evil_page(tmp_path_factory):
    """A participant's page made of sidecars and tables that are one attack."""
    root = tmp_path_factory.mktemp("evil")
    anat = root / "sub-01" / "anat"
    anat.mkdir(parents=True)
    values = {"a": EVIL, EVIL: EVIL, "list": [EVIL, {EVIL: EVIL}]}
    block = dict.fromkeys(
        ("Model", "ModelVersion", "WeightsSHA256", "Method", "Device", "CommandLine", "Space"), EVIL
    )
    block |= {
        "TargetDomain": {"Description": EVIL, "URL": f"javascript:window.hacked=1//{ADDRESS}"}
    }
    block |= {"Parameters": values, "SoftwareVersions": values, "Guards": [EVIL, ADDRESS]}
    block |= {"Decisions": {"Bias": values, EVIL: values}, "Structure": values, "Clipping": values}
    sidecar = {"Manufacturer": EVIL, "ManufacturersModelName": ADDRESS, "Sources": [EVIL],
               "Harmonization": block}  # fmt: skip
    (anat / "sub-01_desc-harmonized_T1w.json").write_text(json.dumps(sidecar))
    table = f"participant_id\tguards\t{EVIL}\n{EVIL}\t{EVIL}\t{ADDRESS}\n"
    (anat / "sub-01_desc-harmonization_metrics.tsv").write_text(table)
    log = root / "sub-01" / "log" / "run"
    log.mkdir(parents=True)
    (log / "crash-1.txt").write_text(f"Node: {EVIL}\n\nTraceback:\n\nValueError: {EVIL}\n")
    return write_participant_report(root, "01", version=EVIL)


@pytest.mark.browser
def test_nothing_of_a_dataset_runs_or_asks_in_a_browser(evil_page, browser):
    context = browser.new_context()
    page, asked, dialogs = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (dialogs.append(1), dialog.dismiss()))
    page.goto(evil_page.as_uri())
    page.wait_for_timeout(300)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("window.hacked") is None and dialogs == []
    assert [url for url in asked if not url.startswith("data:")] == [evil_page.as_uri()]
    assert page.locator("script:not([type='application/json'])").count() <= 1
    links = page.evaluate("[...document.querySelectorAll('a')].map(a => a.protocol)")
    assert set(links) <= {"file:", "https:", "http:"}
    assert "{{7*7}}" in page.inner_text("body")
    context.close()


def test_pages_allow_no_outside_source_in_their_policy(evil_page):
    for text in (evil_page.read_text(), (ROOT / "reports/templates/group.html.j2").read_text()):
        (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        assert rules["default-src"] == "'none'"
        assert rules["script-src"].startswith("'sha256-") or "script_hash" in rules["script-src"]
        assert "unsafe-inline" not in rules["script-src"] and "unsafe-eval" not in policy
        assert rules["img-src"] == "data:" and rules["form-action"] == rules["base-uri"] == "'none'"
        assert "connect-src" not in rules  # default-src holds
