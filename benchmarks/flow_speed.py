"""Speed and memory of the flow: the engine against plain nflows and the published procedure.

    python benchmarks/flow_speed.py [iteration] [volume] [growth] [memory] [accelerator]
                                    [--threads N] [--repeats N] [--full] [--scan IMAGE MASK]
                                    [--clock wall|cpu] [--device cpu] [--quick] [--output FILE]

Everything compared is interleaved in one run, and ratios are medians of the ratios of neighbours,
so that what else the machine does weighs on both sides alike. ``volume`` runs both procedures on
every 20th slice and projects to all of them; ``--full`` runs them all (about half an hour). It
prints Markdown tables and asserts nothing.
"""

import argparse
import statistics
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from published import CENTRE, harmonize_as_published, plain_flow, randomise

from bh_bids import load_model
from bh_bids.evaluation.similarity import psnr
from bh_bids.flow.config import FlowConfig
from bh_bids.flow.engine import FlowEngine
from bh_bids.flow.network import TargetFlow
from bh_bids.harmonization import harmonize
from bh_bids.harmonization.distance import Correlation, EdgeTerm
from bh_bids.harmonization.latent import LatentStep
from bh_bids.harmonization.paper import PaperParameters
from bh_bids.harmonization.slices import SliceBox
from bh_bids.intensity import to_target_units
from bh_bids.simulation.gaps import apply_gap

SHAPE = (144, 176)
PAPER = FlowConfig(
    levels=4, steps=7, hidden_channels=96, blocks=3, batch_norm=True, bits=12, slice_shape=SHAPE
)
SMALL = replace(PAPER, steps=1, hidden_channels=48, blocks=1)
# Dense TF32 peaks, TFLOP/s, of the maker's data sheets.
PEAKS = {"H200": 494.7, "H100 PCIe": 378.0, "H100": 494.7, "A100": 156.0}


def flops(config, shape):
    """Floating-point operations of one pass over one slice by the definition of convolution."""
    total, channels, positions = 0, 4, shape[0] * shape[1] // 4
    hidden = config.hidden_channels
    for _ in range(config.levels):
        kept = channels // 2
        layers = kept * hidden + 18 * config.blocks * hidden**2
        layers += hidden * (channels - kept) * (3 * config.bins - 1)
        total += 2 * positions * (config.steps * (layers + channels**2) + channels**2)
        channels, positions = 2 * channels, positions // 4
    return total


def slices_of_brain(n, shape, seed=0):
    """Smooth slices with a little noise in an ellipse, 0 around it."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((n, 1, shape[0] // 8, shape[1] // 8), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=shape, mode="bicubic")
    grid = torch.meshgrid(*[torch.linspace(-1, 1, side) for side in shape], indexing="ij")
    noise = 0.01 * torch.randn((n, 1, *shape), generator=generator)
    return (0.15 + 0.8 * smooth + noise).clamp(0, 1) * (grid[0] ** 2 + grid[1] ** 2 < 0.8)


def flow_of(config):
    """A TargetFlow with weights of the kind training leaves."""
    torch.manual_seed(0)
    return randomise(TargetFlow(config), slices_of_brain(2, SHAPE))


@torch.no_grad()
def interleaved(functions, repeats, clock, synchronise=lambda: None, warm_up=True):
    """Seconds of each of some functions, run in turns; a first turn warms up."""
    seconds = {name: [] for name in functions}
    for turn in range(-int(warm_up), repeats):
        for name, function in functions.items():
            synchronise()
            began = clock()
            function()
            synchronise()
            if turn >= 0:
                seconds[name].append(clock() - began)
    return seconds


def median_ratio(slow, fast):
    """Median of the ratios of neighbours, and its range."""
    ratios = sorted(a / b for a, b in zip(slow, fast, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def table(header, rows):
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def iteration(options):
    """Forward, shrink and inverse: the engine and its parts against plain nflows."""
    flow = flow_of(options.config)
    plain = plain_flow(options.config, SHAPE)
    plain.load_state_dict(flow.state_dict())
    engines = {
        "engine": FlowEngine.from_flow(flow),
        "engine, direct convolution": FlowEngine.from_flow(flow, winograd=False),
    }
    if options.compile:
        engines["engine, compiled"] = FlowEngine.from_flow(flow, compile=True)
    rows = []
    for n in options.batches:
        x = slices_of_brain(n, SHAPE, seed=1)

        def by_nflows(x=x):
            plain.inverse(0.999 * plain(x - CENTRE)[0])

        def by_module(x=x):
            flow.inverse(0.999 * flow(x)[0], SHAPE)

        def by(engine, logabsdet=True, x=x):
            return lambda: engine.inverse(0.999 * engine(x, logabsdet=logabsdet)[0], SHAPE)

        functions = {"plain nflows": by_nflows, "the training module": by_module}
        functions |= {name: by(engine) for name, engine in engines.items()}
        functions["engine, no log-determinant"] = by(engines["engine"], logabsdet=False)
        seconds = interleaved(functions, options.repeats, options.clock)
        for name, found in seconds.items():
            each = statistics.median(found) / n
            rate = 2 * flops(options.config, SHAPE) / each / 1e9
            ratio = median_ratio(seconds["plain nflows"], found)
            rows.append((name, n, f"{each:.3f}", f"{rate:.0f}", ratio))
    header = ("", "slices at once", "s per slice", "GFLOP/s, nominal", "times faster than nflows")
    return table(header, rows)


def volume(options):
    """The published procedure and the `paper` method on one volume, with their quality."""
    model = load_model()
    truth, mask = read_scan(options.scan, model)
    source = apply_gap("gamma0.7", truth, mask)
    used = np.zeros_like(mask)
    first = np.flatnonzero(mask.any(axis=(0, 1)))[0] + options.step // 2
    chosen = slice(None) if options.full else slice(first % options.step, None, options.step)
    used[:, :, chosen] = mask[:, :, chosen]
    flow = flow_of(options.config)
    config = replace(
        options.config, slice_shape=model.config.slice_shape, slices=model.config.slices
    )
    paper_sized = replace(model, config=config, flow=flow)
    plain = plain_flow(options.config, model.config.slice_shape)
    plain.load_state_dict(flow.state_dict())
    candidates = {"`paper`, same network": paper_sized, "`paper`, default model": model}
    brainy, counted = (int(m.any(axis=(0, 1)).sum()) for m in (mask, used))
    results = {}

    def by_publication():
        found, run = run_published(plain, source, used, model.mean, options)
        results["published procedure"] = found, 10, mask.shape[2] / run

    def by(name, candidate):
        def run():
            found = harmonize(source, used, candidate, method="paper", device=options.device)
            scaled = found.volume / np.float32(found.target_scale)
            results[name] = scaled, found.iterations, brainy / counted

        return run

    functions = {"published procedure": by_publication}
    functions |= {name: by(name, candidate) for name, candidate in candidates.items()}
    turns = 1 if options.full else options.repeats
    seconds = interleaved(functions, turns, options.clock, warm_up=False)
    # What a volume costs once, whatever its slices: everything but the flow, and the engine.
    bare = by("bare", replace(paper_sized, flow=IdentityFlow()))
    once = interleaved({"bare": bare}, 1, options.clock)["bare"][0]
    del results["bare"]
    for name, model in candidates.items():
        build = partial(FlowEngine.from_flow, model.flow)
        fixed = once + interleaved({name: build}, 1, options.clock)[name][0]
        seconds[name] = [fixed + (s - fixed) * results[name][2] for s in seconds[name]]
    name = "published procedure"
    seconds[name] = [s * results[name][2] for s in seconds[name]]
    rows = []
    for name, (found, iterations, _) in results.items():
        value, ncc = objective(found, source, used, flow)
        each = f"{statistics.median(seconds[name]):.0f}"
        ratio = median_ratio(seconds["published procedure"], seconds[name])
        quality = f"{psnr(truth, found, used):.1f}"
        rows.append((name, iterations, each, ratio, f"{value:.4f}", f"{ncc:.4f}", quality))
    header = ("", "iterations", "s per volume", "times faster", "Eq. 2", "NCC", "PSNR, dB")
    note = "all slices" if options.full else f"projected from {counted} slices with brain"
    return table(header, rows) + f"\n\n{brainy} of {mask.shape[2]} slices hold brain; {note}."


def read_scan(scan, model):
    """A scan in target units and its mask; without one, the model's mean volume."""
    if scan is None:
        mask = model.mean > 0.3
        return np.where(mask, model.mean, 0).astype(np.float32), mask
    image, mask = (np.asarray(nib.load(path).dataobj, dtype=np.float32) for path in scan)
    return to_target_units(image, mask > 0)[0], mask > 0


def run_published(plain, source, used, mean, options):
    """The published procedure on whole slices; its volume and the number of slices run."""
    numbers = np.arange(used.shape[2]) if options.full else np.flatnonzero(used.any(axis=(0, 1)))

    def stack(array):
        part = array[:, :, numbers].transpose(2, 0, 1)[:, None]
        return torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32))

    found = harmonize_as_published(plain, stack(source), stack(mean).clamp(0, 1), batch=8)
    result = np.zeros(used.shape, dtype=np.float32)
    result[:, :, numbers] = found[:, 0].numpy().transpose(1, 2, 0)
    return result * used, len(numbers)


class IdentityFlow:
    """What is left of a method's cost without its flow."""

    def __call__(self, x):
        return x.flatten(1), x.new_zeros(len(x))

    def inverse(self, z, slice_shape):
        """Slices of latents."""
        return z.reshape(-1, 1, *slice_shape)

    def to(self, device):
        """The identity has no place."""
        return self


def objective(found, source, mask, flow):
    """Eq. 2 of a volume as the `paper` method states it, and its correlation with the source."""
    p, box = PaperParameters(), SliceBox(mask, flow.config.side_multiple)
    x, s, m = (
        torch.from_numpy(np.ascontiguousarray(box.extract(v.astype(np.float32))))
        for v in (found, source, mask)
    )
    correlation, m = Correlation(s, m > 0), m > 0
    edges = EdgeTerm(s, m, p.edge_percentile, delta=p.smoothing)(x)
    ncc, power = correlation(x)
    square = LatentStep(flow, box.occupied, flow.config.bits)(x).square
    return (1 - ncc) + (p.edge_weight * edges + p.shrink * square / (2 * p.step)) / power, ncc


def growth(options):
    """How an iteration's cost grows with slices, voxels and the network's size."""
    few = replace(options.config, levels=3, steps=4, hidden_channels=32, blocks=2, batch_norm=False)
    cases = [(f"{n} slices", few, SHAPE, n) for n in (1, 2, 4, 8, 16)]
    cases += [(f"{h} x {w}", few, (h, w), 4) for h, w in ((72, 88), (104, 128), (160, 192))]
    cases += [
        (f"{c} channels", replace(few, hidden_channels=c), SHAPE, 4) for c in (16, 48, 64, 96)
    ]
    cases += [(f"{k} steps", replace(few, steps=k), SHAPE, 4) for k in (2, 8)]
    cases += [(f"{k} levels", replace(few, levels=k), SHAPE, 4) for k in (2, 4)]
    functions, work = {}, {}
    for name, config, shape, n in cases:
        engine, x = FlowEngine.from_flow(flow_of(config)), slices_of_brain(n, shape)
        functions[name] = lambda e=engine, x=x, s=shape: e.inverse(e(x)[0], s)
        work[name] = n, 2 * flops(config, shape)
    rows = []
    for name, found in interleaved(functions, options.repeats, options.clock).items():
        n, operations = work[name]
        each = statistics.median(found) / n
        rows.append(
            (
                name,
                f"{1000 * each:.0f}",
                f"{operations / 1e9:.1f}",
                f"{operations / each / 1e9:.0f}",
            )
        )
    header = ("", "ms per slice", "GFLOP per slice", "GFLOP/s, nominal")
    return "3 levels x 4 steps, 32 channels, 4 slices of 144 x 176 but for:\n\n" + table(
        header, rows
    )


MEMORY = """
import resource, sys
sys.path.insert(0, {here!r})
from flow_speed import *
torch.set_num_threads({threads})
model = load_model()
volume, mask = read_scan(None, model)
noise = np.random.default_rng(0).normal(0, 0.03, mask.shape).astype(np.float32)
volume = np.maximum(volume + noise, 0) * mask
parameters = {parameters!r}
if parameters.pop("papers"):
    mask[:, :, :60], mask[:, :, 76:] = False, False
    grid = dict(slice_shape=model.config.slice_shape, slices=model.config.slices)
    model = replace(model, config=replace(PAPER, **grid), flow=flow_of(PAPER))
harmonize(1000 * volume, mask, model, device="cpu", **parameters)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def memory(options):
    """Peak resident memory of whole runs, each in a process of its own."""
    rows = []
    for name, parameters in {
        "default model, `map`, a noisy volume": {"method": "map", "papers": False},
        "default model, `paper`, a volume": {"method": "paper", "papers": False},
        "paper's network, `paper`, 16 slices": {"method": "paper", "papers": True, "iterations": 1},
    }.items():
        script = MEMORY.format(
            here=str(Path(__file__).parent), threads=options.threads, parameters=parameters
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        rows.append((name, f"{float(done.stdout.splitlines()[-1]):.0f}"))
    return table(("", "peak memory, MB"), rows)


def accelerator(options):
    """160 slices x 10 iterations at the paper's size on CUDA, and the share of the peak."""
    if not torch.cuda.is_available():
        return "No CUDA device here."
    flow, x = flow_of(options.config).cuda(), slices_of_brain(160, SHAPE).cuda()
    device, rows = torch.cuda.get_device_name(), []
    peak = next((p for name, p in PEAKS.items() if name in device), None)
    for name, parameters in {
        "float32": {"tf32": False},
        "TF32": {},
        "TF32, no graphs": {"graphs": False},
        "TF32, compiled": {"compile": True},
    }.items():
        engine = FlowEngine.from_flow(flow, **parameters)

        def ten(engine=engine):
            with torch.inference_mode():
                for _ in range(10):
                    engine.inverse(0.999 * engine(x)[0], SHAPE)

        torch.cuda.reset_peak_memory_stats()
        found = interleaved(
            {name: ten}, options.repeats, time.perf_counter, torch.cuda.synchronize
        )[name]
        seconds = statistics.median(found)
        rate = 20 * len(x) * flops(options.config, SHAPE) / seconds / 1e12
        share = f"{100 * rate / peak:.0f} %" if peak else "n/a"
        gigabytes = torch.cuda.max_memory_allocated() / 2**30
        rows.append((name, f"{seconds:.2f}", f"{rate:.0f}", share, f"{gigabytes:.1f}"))
    header = ("", "s", "TFLOP/s", "of the TF32 peak", "GB")
    return f"{device}, 160 slices x 10 iterations:\n\n" + table(header, rows)


TABLES = {f.__name__: f for f in (iteration, volume, growth, memory, accelerator)}


def main():
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", help=f"some of {', '.join(TABLES)}; all by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--step", type=int, default=20, help="of the slices of `volume`")
    parser.add_argument("--full", action="store_true", help="run every slice of `volume`")
    parser.add_argument("--scan", nargs=2, metavar=("IMAGE", "MASK"), help="on the model's grid")
    parser.add_argument("--compile", action="store_true", help="torch.compile as well")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: processor time, for one thread on a machine that has other work",
    )
    parser.add_argument("--device", default="cpu", help="of bh-bids in `volume`")
    parser.add_argument("--quick", action="store_true", help="a small network: a trial")
    parser.add_argument("--output", type=Path, help="Markdown file, written as well")
    options = parser.parse_args()
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"no such table: {', '.join(sorted(unknown))}")
    options.clock = {"wall": time.perf_counter, "cpu": time.process_time}[options.clock]
    options.config = SMALL if options.quick else PAPER
    torch.set_num_threads(options.threads)
    # nflows' triangular_solve is deprecated.
    warnings.filterwarnings("ignore", message="torch.triangular_solve")
    parts = []
    for name in options.tables or TABLES:
        parts.append(f"### {name}\n\n{TABLES[name](options)}\n")
        print(parts[-1], flush=True)
    if options.output:
        options.output.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
