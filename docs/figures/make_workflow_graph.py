"""Draw the workflow of one scan with Graphviz's dot: docs/figures/workflow-scan.svg."""

import json
import subprocess
import tempfile
from pathlib import Path

import networkx
from bh_bids.workflows.base import init_scan_wf

from bh_bids.dataset import Scan
from bh_bids.flow.registry import find_model
from bh_bids.settings import Settings

COLOURS = {"anatomical_wf": "#cfe3f7", "harmonization_wf": "#fbe0c8", "outputs_wf": "#e3e7ec",
           "figures_wf": "#dcefdc"}  # fmt: skip


def main():
    """Draw the graph: steps as boxes by workflow, what needs what as arrows, without sinks."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        path.touch()
        scan = Scan(path, "01", None, "bids:raw:sub-01/anat/sub-01_T1w.nii.gz")
        settings = Settings(folder, f"{folder}/out", omp_nthreads=1, device="cpu",
                            output_spaces=("T1w", "MNI152NLin2009aSym"))  # fmt: skip
        model = json.loads((find_model("default") / "model.json").read_text())
        graph = init_scan_wf(scan, settings, model, "key")._create_flat_graph()
    lines = ["digraph scan {", "rankdir=LR; bgcolor=transparent; nodesep=0.25; ranksep=0.5;",
             'node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=12];',
             'edge [color="#7a8794"];']  # fmt: skip
    told = {node: node.name.replace("_", " ") for node in graph.nodes if _told(node)}
    for number, (node, label) in enumerate(told.items()):
        parent = node.fullname.split(".")[-2]
        lines.append(f'n{number} [label="{label}", fillcolor="{COLOURS.get(parent, "#fff7d6")}"];')
    numbers = {node: f"n{i}" for i, node in enumerate(told)}
    edges = {(numbers[a], numbers[b]) for a in told for b in _reached(graph, a) if b in told}
    # The order alone is legible: arrows that follow from others are left out.
    edges = networkx.transitive_reduction(networkx.DiGraph(edges)).edges
    lines += [f"{a} -> {b};" for a, b in sorted(edges)] + ["}"]
    out = Path(__file__).with_name("workflow-scan.svg")
    drawn = subprocess.run(["dot", "-Tsvg"], input="\n".join(lines), text=True,
                           capture_output=True, check=True)  # fmt: skip
    out.write_text(drawn.stdout)


def _told(node):
    return node.name not in ("inputnode", "outputnode") and not node.name.startswith("ds_")


def _reached(graph, start):
    """Nodes that get data of a node, through those that only pass it on."""
    found, todo = set(), list(graph.successors(start))
    while todo:
        node = todo.pop()
        if node.name in ("inputnode", "outputnode"):
            todo += graph.successors(node)
        else:
            found.add(node)
    return found


if __name__ == "__main__":
    main()
