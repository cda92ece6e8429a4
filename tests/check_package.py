"""Whether sdist and wheel can be installed in empty environments, and hold what they must.

    python tests/check_package.py DIST

Run by ``make package``. Dependencies come from the environment that runs it: what is checked is the
package, not the indexes.
"""

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def data_files():
    """Packaged files, as they are named inside the package."""
    kinds = [*ROOT.glob("bh_bids/data/**/*"), *ROOT.glob("bh_bids/reports/templates/*")]
    files = {p.relative_to(ROOT).as_posix() for p in kinds if p.is_file()}
    return {name for name in files if "__pycache__" not in name}


def modules():
    """Python modules, by the path they are installed under."""
    found = {p.relative_to(ROOT).as_posix() for p in (ROOT / "bh_bids").rglob("*.py")}
    return found | {f"bh_bids/workflows/{p.name}" for p in (ROOT / "workflows").glob("*.py")}


def check_contents(wheel, sdist):
    """Both hold all modules and data; the wheel nothing else."""
    wanted = data_files() | modules()
    assert any(name.endswith("weights.safetensors") for name in wanted)
    assert any("head_T1w" in name for name in wanted)
    inside = set(zipfile.ZipFile(wheel).namelist())
    missing = sorted(wanted - inside)
    assert not missing, f"the wheel lacks {missing}"
    extra = sorted(n for n in inside - wanted if ".dist-info/" not in n)
    assert not extra, f"the wheel has more than the package: {extra}"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    source = {name.replace("bh_bids/workflows/", "workflows/") for name in wanted}
    missing = sorted((source | {"LICENSE", "README.md", "pyproject.toml"}) - names)
    assert not missing, f"the sdist lacks {missing}"
    print(f"{wheel.name}: {len(inside)} files, {wheel.stat().st_size / 1e6:.1f} MB")
    print(f"{sdist.name}: {len(names)} files, {sdist.stat().st_size / 1e6:.1f} MB")


def check_installation(package):
    """The package alone in an environment of its own, with the dependencies of this one."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        site = next(path for path in map(Path, sys.path) if path.name == "site-packages")
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, "setuptools>=70"], check=True)
        subprocess.run([*pip, "--no-deps", "--no-build-isolation", str(package)], check=True)
        own = subprocess.run(
            [str(python), "-c", "import bh_bids; print(bh_bids.__file__)"],
            capture_output=True, text=True, check=True, cwd=folder,
        ).stdout  # fmt: skip
        assert own.startswith(str(Path(folder).resolve())), own
        # After the environment's own, so that the installed package is the one that is found.
        own_site = next(Path(folder).glob("lib/python3*/site-packages"))
        (own_site / "dependencies.pth").write_text(f"{site}\n")
        for command in ("bh-bids --version", "bh-model verify default", "bh-model list",
                        "bh-simulate --version"):  # fmt: skip
            program, *words = command.split()
            done = subprocess.run(
                [str(Path(folder) / "bin" / program), *words],
                capture_output=True, text=True, cwd=folder,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}: {done.stderr}"
        print(f"{package.name}: installed and works")


def main():
    dist = Path(sys.argv[1])
    (wheel,), (sdist,) = list(dist.glob("*.whl")), list(dist.glob("*.tar.gz"))
    check_contents(wheel, sdist)
    for package in (wheel, sdist):
        check_installation(package)


if __name__ == "__main__":
    main()
