"""Configuration of Sphinx.

    pip install -e ".[docs]"
    sphinx-build -W -b html docs docs/_build/html

Pages below `docs/reference/` are generated from the code at the start of every build.
"""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]  # a checkout need not be installed

from generate import docstrings, links, write_pages  # noqa: E402

import jaxvideo  # noqa: E402

project = "jaxvideo"
author = "The jaxvideo authors"
version = release = jaxvideo.__version__
copyright = "The jaxvideo authors"  # no year: the pages depend on the sources only

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "generate"]
smartquotes_action = "D"  # dashes only: values of configs are quoted

myst_heading_anchors = 4  # as GitHub makes them

default_role = "code"  # docstrings mark code by single backquotes
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
add_module_names = False
maximum_signature_line_length = 120
napoleon_numpy_docstring = False
napoleon_use_rtype = False
# A plain list: the signature has the types, and links by the name of a field would be ambiguous.
napoleon_custom_sections = [("Attributes", "params_style")]

html_theme = "furo"
html_title = f"jaxvideo {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def setup(app):
    app.connect("builder-inited", lambda app: write_pages(DOCS / "reference"))
    app.connect("source-read", links.rewrite)
    # Before napoleon, which has the default priority.
    app.connect("autodoc-process-docstring", docstrings.prepare, priority=400)
    return {"parallel_read_safe": True}
