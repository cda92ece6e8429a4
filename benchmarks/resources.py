"""What each step takes, beside what it asks for: the record behind bh_bids/memory.py.

    bh-bids BIDS OUT participant --participant-label 01 --low-mem --resource-monitor
    python benchmarks/resources.py OUT/sub-01/log/*/resources.tsv

Measure with ``--low-mem``: then each step has a process of its own, and what one step leaves does
not count for the next. One line for each step, the largest of all scans.
"""

import argparse
import csv

TOLERANCE = 0.25
SINKS = ("ds_", "sidecar_harmonized", "sidecar_native")


def read(paths):
    """Rows of all tables, numbers as such."""
    rows = []
    for path in paths:
        with open(path, encoding="utf-8", newline="") as stream:
            rows += list(csv.DictReader(stream, delimiter="\t"))
    for row in rows:
        for name in ("peak_gb", "mem_gb", "seconds", "cpu_seconds"):
            row[name] = float(row[name])
        row["threads"], row["n_procs"] = int(row["threads"]), int(row["n_procs"])
        row["step"] = "sink" if row["step"].startswith(SINKS) else row["step"]
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="+", help="resources.tsv of runs with --resource-monitor")
    rows = read(parser.parse_args().tables)
    print("| step | CPU s | threads | asked | peak GB | asked GB | asked / peak |")
    print("|---|---|---|---|---|---|---|")
    off = 0
    for step in dict.fromkeys(row["step"] for row in rows):
        own = [row for row in rows if row["step"] == step]
        most = max(own, key=lambda row: row["peak_gb"])
        ratio = most["mem_gb"] / most["peak_gb"]
        off += abs(ratio - 1) > TOLERANCE
        cpu, threads = max(r["cpu_seconds"] for r in own), max(r["threads"] for r in own)
        print(f"| {step} | {cpu:.1f} | {threads} | {most['n_procs']} | {most['peak_gb']:.2f} | "
              f"{most['mem_gb']:.2f} | {ratio:.2f} |")  # fmt: skip
    print(f"\n{off} steps ask for memory that is more than {TOLERANCE:.0%} off what they take")


if __name__ == "__main__":
    main()
