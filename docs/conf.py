"""How the documentation is built: make docs."""

import os
import sys
import warnings
from pathlib import Path

from docutils import nodes
from math_core import LatexToMathML

from bh_bids import __version__

sys.path.insert(0, str(Path(__file__).parent))
os.environ.update(NIPYPE_NO_ET="1", NO_ET="1", COLUMNS="100")

project = "bh-bids"
author = "The bh-bids developers"
copyright = "The bh-bids developers"
release = version = __version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
    "sphinxarg.ext",
]
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 4
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = [
    "_build",
    "examples",
    "slurm",
    "auto_examples/*.py.md5",
    "auto_examples/*.ipynb",
]
templates_path = ["_templates"]

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_class_members_toctree = False
numpydoc_show_class_members = False

html_theme = "furo"
html_title = f"bh-bids {version}"
html_static_path = ["_static"]
html_css_files = ["style.css"]

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "download_all_examples": False,
    "show_signature": False,
    "abort_on_example_error": True,
    "min_reported_time": 0,
    "show_memory": False,
}

html_math_renderer = "mathml"

warnings.filterwarnings("ignore", category=UserWarning, module="matplotlib")
# numpydoc looks at docstrings a second time, for signatures alone.
warnings.filterwarnings("ignore", message="Unknown section (In|Out)puts")
suppress_warnings = ["config.cache"]


def _write_math(display):
    """A writer of formulas as MathML, which browsers set without a script or the network."""
    convert = LatexToMathML().convert_with_local_state

    def write(translator, node):
        translator.body.append(convert(node.astext(), displaystyle=display))
        raise nodes.SkipNode

    return write, None


def _keep_inputs_and_outputs(app, what, name, obj, options, lines):
    """Workflows' sections Inputs and Outputs, which numpydoc does not know, become notes."""
    heads = [
        i
        for i, line in enumerate(lines)
        if line in ("Inputs", "Outputs") and lines[i + 1] == "-" * len(line)
    ]
    if not heads:
        return
    told = []
    for i, end in zip(heads, [*heads[1:], len(lines)], strict=True):
        body = lines[i + 2 : end]
        if "".join(body).strip() != "None":
            told += ["", f".. rubric:: {lines[i]}", "", *body]
    lines[heads[0] :] = ["Notes", "-----", *told] if told else []


def setup(app):
    """Sphinx calls this."""
    app.add_html_math_renderer("mathml", _write_math(False), _write_math(True))
    app.connect("autodoc-process-docstring", _keep_inputs_and_outputs, priority=400)
