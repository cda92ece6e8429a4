"""The program ``bh-simulate``: a BIDS dataset of simulated traveling subjects."""

import argparse
import sys
import time
from pathlib import Path

from .. import __version__
from ..errors import BHError
from .arguments import Parser, add_completion
from .pipes import quiet_on_closed_pipe

_EXAMPLES = """\
sites:
  siteA  Philips 3 T MPRAGE        siteD  Siemens 1.5 T MPRAGE, 1.25 mm, noisy
  siteB  GE 1.5 T SPGR, 1.2 mm     siteE  GE 3 T MPRAGE with a short inversion time
  siteC  Siemens 3 T MPRAGE, strong bias field

examples:
  bh-simulate demo                                two participants at siteA, siteB and siteC
  bh-simulate demo --participants 5 --n-sites 5   five participants at all sites
  bh-simulate demo --heads label_maps/            whole heads from label maps, one after another
  bh-simulate demo --voxel-size 3 --noise 0       small, fast and noise-free
"""


def _count(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _seed(text):
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def _voxel_size(text):
    value = float(text)
    if not 0.5 <= value <= 8:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.5 and 8 mm")
    return value


def _factor(text):
    value = float(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 100")
    return value


for _check, _name in (
    (_count, "count"),
    (_seed, "seed"),
    (_voxel_size, "size"),
    (_factor, "factor"),
):
    _check.__name__ = _name  # argparse names the type in its message.


def build_parser():
    """Parser of the command line.

    Returns
    -------
    argparse.ArgumentParser
    """
    parser = Parser(
        prog="bh-simulate",
        description="Write a BIDS dataset of simulated traveling subjects: T1-weighted scans of "
        "the same participants at several sites, with their ground truth as derivatives.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write, new or empty")
    parser.add_argument("--version", action="version", version=f"bh-simulate {__version__}")
    add_completion(parser)
    _add_participants_and_sites(parser)
    _add_images(parser)

    run = parser.add_argument_group("run")
    run.add_argument("--seed", type=_seed, default=0, metavar="N", help="random seed (default 0)")
    run.add_argument(
        "--force",
        "--overwrite",
        action="store_true",
        help="replace OUT if it holds a dataset that bh-simulate made",
    )
    run.add_argument("-q", "--quiet", action="store_true", help="no progress")
    return parser


def _add_participants_and_sites(parser):
    who = parser.add_argument_group("participants and sites")
    who.add_argument(
        "--participants", type=_count, default=2, metavar="N", help="how many (default 2)"
    )
    where = who.add_mutually_exclusive_group()
    where.add_argument(
        "--sites",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="sites by name (default siteA siteB siteC)",
    )
    where.add_argument("--n-sites", type=_count, metavar="N", help="the first N sites instead")
    who.add_argument(
        "--site-config",
        type=Path,
        metavar="TOML",
        help="more sites: one table each, with `like` naming one to start from; all of them are "
        "scanned unless --sites or --n-sites says which",
    )
    who.add_argument(
        "--heads",
        type=Path,
        metavar="DIR",
        help="whole-head label maps (FreeSurfer's labels and extra-cerebral classes) in place of "
        "the embedded head",
    )


def _add_images(parser):
    image = parser.add_argument_group("images")
    image.add_argument(
        "--voxel-size",
        "--resolution",
        type=_voxel_size,
        metavar="MM",
        help="one isotropic voxel size for all sites (default each site's own)",
    )
    image.add_argument(
        "--noise",
        type=_factor,
        default=1.0,
        metavar="FACTOR",
        help="factor on the sites' noise (default 1)",
    )
    image.add_argument(
        "--skull-stripped", action="store_true", help="keep the brain only, as some datasets do"
    )


def _choose_sites(options, parser):
    """Sites to scan at, or the parser's usage error."""
    from ..simulation.sites import PRESETS, load_sites

    own = {} if options.site_config is None else load_sites(options.site_config)
    known = {**own, **{name: site for name, site in PRESETS.items() if name not in own}}
    if options.n_sites is not None and options.n_sites > len(known):
        parser.error(f"argument --n-sites: there are {len(known)} sites")
    first = options.n_sites or len(own) or 3
    names = options.sites if options.sites is not None else list(known)[:first]
    names = [name.removeprefix("ses-") for name in names]
    if len(set(names)) < len(names):
        parser.error("argument --sites: a site is named twice")
    for name in names:
        if name not in known:
            parser.error(f"argument --sites: there is no site {name} ({', '.join(known)})")
    return tuple(known[name] for name in names)


def _reporter(quiet):
    """Progress, one line for every scan."""
    begun = time.monotonic()

    def report(done, total, text):
        if not quiet:
            seconds = time.monotonic() - begun
            print(f"[{done}/{total}] {seconds:5.0f} s  {text}", file=sys.stderr, flush=True)

    return report


@quiet_on_closed_pipe
def main(argv=None):
    """Run ``bh-simulate``.

    Parameters
    ----------
    argv : list of str, optional
        Arguments in place of the command line's.

    Returns
    -------
    int
        0 when the dataset is written, 1 when it could not be; wrong usage exits with 2.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        sites = _choose_sites(options, parser)
        from ..simulation.dataset import Settings, write_dataset

        settings = Settings(
            participants=options.participants,
            sites=sites,
            heads=options.heads,
            seed=options.seed,
            voxel_size=options.voxel_size,
            noise=options.noise,
            skull_stripped=options.skull_stripped,
        )
        count = write_dataset(
            options.out, settings, force=options.force, progress=_reporter(options.quiet)
        )
    except BHError as error:
        print(f"bh-simulate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bh-simulate: interrupted, nothing was written", file=sys.stderr)
        return 1
    print(f"{options.out}: {count} scans, {options.participants} participants, {len(sites)} sites")
    return 0
