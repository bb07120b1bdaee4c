"""Sphinx builds the site from these pages, the docstrings and the notebooks: ``sphinx-build -W docs docs/_build``."""
from __future__ import annotations

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

import convnet

project = "convnet-ibp"
author = "the convnet-ibp maintainers"
release = version = convnet.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx.ext.mathjax",
              "sphinx.ext.viewcode"]
exclude_patterns = ["results/**/*.md", "_build", "_templates", "**/.ipynb_checkpoints"]
templates_path = ["_templates"]

# Pages: Markdown with formulas, and the notebooks with the outputs that are committed.
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "off"

# Docstrings: NumPy style; single backticks are names, which become links where they can.
default_role = "py:obj"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = True
autosummary_generate = True
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
# A short name in a docstring that two modules have (Step) links to the first; that is no error.
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_title = "convnet-ibp"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = html_show_copyright = False
# The colours of the code, in the light and the dark variant of the theme.
pygments_style, pygments_dark_style = "friendly", "monokai"


# Pages and notebooks that have their place elsewhere in the repository, by how the pages here link to them.
ELSEWHERE = {"../benchmarks/RESULTS.md": "timings.md", "../notebooks/": "notebooks/"}


def _copy_pages() -> None:
    """Put the notebooks and the pages from elsewhere inside this folder, where Sphinx looks for them."""
    (HERE / "notebooks").mkdir(exist_ok=True)
    copies = {source: HERE / "notebooks" / source.name for source in (ROOT / "notebooks").glob("*.ipynb")}
    copies |= {HERE / source: HERE / name for source, name in ELSEWHERE.items() if (HERE / source).is_file()}
    for source, copy in copies.items():
        if not copy.exists() or copy.read_bytes() != source.read_bytes():
            shutil.copyfile(source, copy)


def _link_to_copies(app, page, source) -> None:
    """Let links to what is elsewhere lead to its copies."""
    for original, name in ELSEWHERE.items():
        source[0] = source[0].replace(f"]({original}", f"]({name}")


def _shorten_dots(app, what, name, object_, options, lines) -> None:
    """Make three dots one sign: the tables of summaries would take them for the end of a sentence."""
    if lines:
        lines[0] = lines[0].replace("...", "…")


def setup(app) -> None:
    """Connect what belongs to the build of these pages."""
    app.connect("autodoc-process-docstring", _shorten_dots)
    app.connect("source-read", _link_to_copies)


_copy_pages()
