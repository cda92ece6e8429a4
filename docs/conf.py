"""How the documentation is built: make docs."""

import os
import sys
import warnings
from pathlib import Path

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
    "sphinx.ext.mathjax",
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
html_css_files = ["wide-tables.css"]

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

# The build needs no network: formulas are set by the reader's browser where it has one.
warnings.filterwarnings("ignore", category=UserWarning, module="matplotlib")
warnings.filterwarnings("ignore", message="Unknown section (In|Out)puts")
suppress_warnings = ["config.cache"]
