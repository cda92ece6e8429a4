"""What all tests share: a quiet, repeatable environment, real-data folders, and small heads.

The small head is the MNI152 average, read here by nibabel alone and averaged over blocks of voxels,
so that what tests hold the code against does not come from the code.
"""

import json
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

# Read by libraries when they are first imported: no question to the network, no file in the home
# folder, the same threads everywhere.
os.environ.update(
    NIPYPE_NO_ET="1",
    NO_ET="1",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="1",
    ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS="1",
    TEMPLATEFLOW_AUTOUPDATE="0",
)
os.environ.setdefault(
    "TEMPLATEFLOW_HOME", os.path.join(tempfile.gettempdir(), f"bh-bids-tests-{os.getuid()}")
)

import nibabel as nib  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from scipy.ndimage import gaussian_filter  # noqa: E402

SPACE = "MNI152NLin2009aSym"
COARSE = 4
"""mm; voxel size of the small heads and of the small model."""
GRID = (40, 48, 40)
"""Shape of the small model's grid: the packaged models' field of view."""


BROWSER_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture
def set_threads():
    """Sets torch's number of threads for a test."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def browser():
    """A real browser, Debian's Chromium driven by Playwright, started once."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is missing: pip install playwright"
    )
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("chromium is missing: install it, such as with apt-get install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=list(BROWSER_ARGUMENTS))
        yield started
        started.close()


@pytest.fixture
def clean_environment():
    """Whatever a command line sets in this process's environment is undone."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def data_dir():
    """Folder of the public scans, or a skip that says what is missing."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("BH_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the public scans are not here: set BH_DATA to their folder")
    return folder


def block_mean(volume, affine, factor):
    """Mean over cubes of voxels, and the affine of the result."""
    shape = np.array(volume.shape) // factor
    cut = volume[tuple(slice(n * factor) for n in shape)]
    sides = [part for n in shape for part in (n, factor)]
    coarse = np.diag([factor, factor, factor, 1.0])
    coarse[:3, 3] = (factor - 1) / 2
    return cut.reshape(sides).mean(axis=(1, 3, 5)).astype(np.float32), affine @ coarse


@pytest.fixture(scope="session")
def mni():
    """The MNI152 brain at 1 mm as nilearn ships it: volume on RAS axes, affine."""
    folder = Path(find_spec("nilearn").origin).parent / "datasets" / "data"
    image = nib.load(folder / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
    image = nib.as_closest_canonical(image)
    return np.asarray(image.dataobj, dtype=np.float32), image.affine


@pytest.fixture(scope="session")
def small_brain(mni):
    """A skull-stripped brain at 4 mm: volume (0 outside), affine, mask."""
    volume, affine = block_mean(*mni, COARSE)
    mask = block_mean((mni[0] > 0).astype(np.float32), mni[1], COARSE)[0] > 0.5
    return SimpleNamespace(
        volume=np.where(mask, volume, 0).astype(np.float32), affine=affine, mask=mask
    )


def _write_t1w(path, volume, affine, dtype=np.int16):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.rint(volume).astype(dtype), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, path)
    return path


@pytest.fixture(scope="session")
def write_t1w():
    """Write a volume as a scanner's converter does: int16, mm, both codes 1."""
    return _write_t1w


@pytest.fixture(scope="session")
def dataset_maker():
    """Make an empty BIDS dataset: folder, and dataset_description.json."""

    def make(folder, **description):
        folder.mkdir(parents=True, exist_ok=True)
        content = {"Name": "Small heads", "BIDSVersion": "1.10.0", "License": "CC0", **description}
        (folder / "dataset_description.json").write_text(json.dumps(content))
        (folder / "README").write_text("Small heads, to test with.\n")
        return folder

    return make


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory, dataset_maker, write_t1w, small_brain):
    """A dataset of two participants with one scan each; not to be changed."""
    root = dataset_maker(tmp_path_factory.mktemp("raw") / "bids")
    for label, gain in (("01", 3.0), ("02", 4.0)):
        path = root / f"sub-{label}" / "anat" / f"sub-{label}_T1w.nii.gz"
        write_t1w(path, gain * small_brain.volume, small_brain.affine)
        path.with_name(f"sub-{label}_T1w.json").write_text(
            json.dumps({"Manufacturer": "Siemens", "MagneticFieldStrength": 3})
        )
    return root


@pytest.fixture(scope="session")
def model_maker(mni):
    """Write the folder of an untrained, tiny model on a coarse grid of the usual space.

    Like the packaged one its flow has conditions, and it has the constants of the method map.
    """

    def make(folder, *, space=SPACE, seed=0, constants=True):
        import torch

        from bh_bids.flow.config import FlowConfig
        from bh_bids.flow.model import save_model
        from bh_bids.flow.network import TargetFlow

        config = FlowConfig(
            levels=2,
            steps=1,
            hidden_channels=4,
            blocks=1,
            bins=4,
            slice_shape=GRID[:2],
            slices=GRID[2],
            voxel_size=(COARSE,) * 3,
            origin=(-78.5, -111.5, -70.5),
            space=space,
            conditions=("mask", "previous", "mean", "noise"),
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            flow = TargetFlow(config)
        volume, affine = mni
        first = np.rint(np.linalg.inv(affine) @ [-80, -113, -72, 1]).astype(int)[:3]
        box = tuple(slice(i, i + COARSE * n) for i, n in zip(first, GRID, strict=True))
        mean = block_mean(np.pad(volume[box], _missing(volume[box])), np.eye(4), COARSE)[0]
        brain = mean[mean > 30]
        mean = mean / np.percentile(brain, 99)
        quantiles = np.percentile(brain / np.percentile(brain, 99), np.linspace(0, 100, 257))
        save_model(
            folder,
            flow,
            mean,
            {
                "Name": "small",
                "Version": "0",
                "TargetDomain": {"Description": "the MNI152 average"},
                "TrainingParticipants": ["mni"],
                "ValidationParticipants": [],
                "Intensity": {
                    "ScalePercentile": 99,
                    "TargetScale": 700.0,
                    "Quantiles": quantiles.tolist(),
                    "Modes": {"CSF": 0.3, "GM": 0.6, "WM": 0.9},
                },
                "Training": {"BitsPerDimension": 8.0},
                "License": "CC0",
            },
            _constants(mean) if constants else None,
        )
        return folder

    return make


def _constants(mean):
    """Constants of a target domain of one brain in six contrasts."""
    from bh_bids.mapping.calibration import calibrate

    mask = mean > 0.05
    volumes = []
    for k, power in enumerate((0.85, 0.9, 0.95, 1.0, 1.05, 1.1)):
        noise = 0.01 * np.random.default_rng(k).standard_normal(mean.shape)
        volumes.append(np.where(mask, np.clip(mean, 0.05, None) ** power + noise, 0))
    volumes = [np.maximum(volume, 0).astype(np.float32) for volume in volumes]
    return calibrate(lambda: iter(volumes), mean, (COARSE,) * 3)


def _missing(box):
    return [(0, COARSE * n - size) for n, size in zip(GRID, box.shape, strict=True)]


@pytest.fixture(scope="session")
def small_model(tmp_path_factory, model_maker):
    """Folder of a tiny untrained model."""
    return model_maker(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="session")
def layered_head():
    """Maker of a head of known shapes, voxels of 1 mm.

    Of white matter in a shell of grey in one of fluid, and one ball of fluid, 7 voxels in radius,
    in its middle: volume, brain mask and distance from the ball's centre.
    """
    shape, centre = (64, 72, 64), (32.0, 40.0, 36.0)

    def make(texture=0.02):
        axes = np.meshgrid(*[np.arange(n, dtype=float) for n in shape], indexing="ij")
        out = sum(((a - n / 2) / (n / 2 - 3)) ** 2 for a, n in zip(axes, shape, strict=True)) ** 0.5
        from_centre = sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) ** 0.5
        mask = out < 1
        volume = np.select([out < 0.72, out < 0.92], [0.9, 0.55], 0.2)
        volume = np.where(from_centre < 7.0, 0.2, volume)
        volume = volume + texture * np.random.default_rng(0).standard_normal(shape)
        volume = gaussian_filter(volume, 0.5)
        return np.where(mask, volume, 0).astype(np.float32), mask, from_centre

    return make


@pytest.fixture(scope="session")
def make_flow():
    """Makes flows of a configuration whose parameters all differ from their initial values."""
    import torch

    from bh_bids.flow.network import TargetFlow

    def make(config, seed=0, spread=0.2, dtype=torch.float64):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            flow = TargetFlow(config)
            with torch.no_grad():
                for parameter in flow.parameters():
                    parameter.add_(spread * torch.randn_like(parameter))
                for name, buffer in flow.named_buffers():
                    if name.endswith("initialized"):
                        buffer.fill_(True)
        return flow.to(dtype).eval()

    return make
