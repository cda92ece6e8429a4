"""Coverage-guided fuzzing of all that parses foreign bytes, with atheris (pip install atheris).

    python tests/fuzz/fuzz.py TARGET --seconds 60 --corpus DIR
    python tests/fuzz/fuzz.py TARGET --keep DIR

The first looks for inputs that a target (tests/fuzz/fuzz_targets.py) fails on, from its seeds and
the corpus, to which it adds what reaches code that nothing before it has; the second copies some
small files of DIR into tests/fuzz/corpus/TARGET, where tests/fuzz/test_corpus.py runs them with
every run of the test suite.
"""

import argparse
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
LARGEST_KEPT, MOST_KEPT = 2048, 12


def keep(target, found):
    """Copy small files of a fuzzer's corpus beside the tests."""
    kept = HERE / "corpus" / target
    kept.mkdir(parents=True, exist_ok=True)
    files = [path for path in found.iterdir() if not path.name.startswith("seed-")]
    files = [path for path in files if path.stat().st_size <= LARGEST_KEPT]
    for path in sorted(files, key=lambda path: (path.stat().st_size, path.name))[-MOST_KEPT:]:
        (kept / path.name[:12]).write_bytes(path.read_bytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    if args.keep:
        keep(args.target, args.keep)
        return
    import atheris

    sys.path.insert(0, str(HERE))
    with atheris.instrument_imports(include=["bh_bids", "nibabel", "fuzz_targets"]):
        import fuzz_targets

        import bh_bids.anatomy.images
        import bh_bids.cli.parser
        import bh_bids.dataset
        import bh_bids.flow.interchange
        import bh_bids.flow.model
        import bh_bids.group.study
        import bh_bids.reports.assemble  # noqa: F401
    with tempfile.TemporaryDirectory() as folder:

        def once(content):
            fuzz_targets.run(args.target, content, Path(folder))

        options = [sys.argv[0], f"-max_len={fuzz_targets.LARGEST}", "-rss_limit_mb=4096",
                   "-timeout=20", "-seed=1"]  # fmt: skip
        args.corpus.mkdir(parents=True, exist_ok=True)
        for k, seed in enumerate(fuzz_targets.seeds(args.target)):
            (args.corpus / f"seed-{k}").write_bytes(seed)
        options += [
            f"-max_total_time={args.seconds}", "-print_final_stats=1", str(args.corpus)
        ]  # fmt: skip
        atheris.Setup(options, once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
