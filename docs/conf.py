"""How Sphinx builds the site: see tools/docs.py."""

from importlib import metadata, util

try:
    release = metadata.version("rnnfast")
except metadata.PackageNotFoundError:  # compiled, but not installed
    release = "unreleased"

project = "rnnfast"
author = "rnnfast developers"
project_copyright = "rnnfast developers"

extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"rnnfast {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]

myst_heading_anchors = 3  # so that pages can link to headings

# Pages that run. A cell that fails is a warning, which fails the build, with its traceback.
nb_execution_mode = "cache"
nb_execution_show_tb = True
nb_execution_timeout = 300  # seconds a cell
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables, too
nb_output_stderr = "show"

default_role = "py:obj"  # single backticks in docstrings: a link where there is such a name, else code

# The reference: docstrings in numpydoc's form. Types are in the docstrings, with shapes.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
# PyTorch is not in the extra: without it the page of rnnfast.torch stays empty.
suppress_warnings = [] if util.find_spec("torch") else ["autodoc.import_object"]
autosummary_generate = False
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def skip(app, what, name, member, skipped, options):
    """Leave out the methods that scikit-learn adds to its estimators, which are documented there."""
    return True if name.startswith("set_") and name.endswith("_request") else None


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", skip)
