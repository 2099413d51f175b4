"""How the site is built; `make docs` leaves it in build/docs. Nothing is fetched, now or by a reader."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pages

import metabench

project = "metabench"
author = "the metabench authors"
copyright = author
version = release = metabench.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
smartquotes = False  # they make one dash of two
default_role = "literal"  # in docstrings, `this` is code
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_use_param = False

html_theme = "furo"
html_title = f"metabench {version}"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False


def setup(app):
    """Let the reference pages be made from the code."""
    app.connect("source-read", pages.fill)
    app.connect("autodoc-process-docstring", pages.describe, priority=100)  # before napoleon
    app.connect("autodoc-skip-member", pages.is_left_out)
