"""The documentation site: `python -m sphinx -W docs build/docs`, then open build/docs/index.html.

The API reference is read from the source text; nothing of the library is imported, and nothing is
fetched from the network.
"""

import re
from pathlib import Path

from sphinx.ext import napoleon

PACKAGE = Path(__file__).resolve().parent.parent / "pix2seq_jax"
# The modules whose names docs/api shows; reading all of the package takes much longer.
SHOWN = {
    *("__init__", "vocab", "import_tf", "tasks/__init__", "tasks/base", "tasks/detection"),
    *("tasks/segmentation", "tasks/keypoints", "tasks/captioning", "tasks/mixed"),
    *("evaluation/__init__", "evaluation/base", "evaluation/predictor"),
    *("evaluation/metrics/__init__", "evaluation/metrics/coco"),
    *("data/__init__", "data/source", "data/coco/__init__", "data/coco/files"),
    *("models/__init__", "models/pix2seq", "models/cached", "models/layers"),
    *("models/backbones/__init__", "models/backbones/base"),
    *("decoding/__init__", "decoding/generate", "decoding/options"),
    *("decoding/sampling", "decoding/beam"),
}

project = "pix2seq_jax"
copyright = "The pix2seq_jax authors, Apache License 2.0"
html_title = "pix2seq_jax"
extensions = ["myst_parser", "autoapi.extension"]
html_theme = "furo"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_show_sphinx = False
highlight_language = "text"

myst_heading_anchors = 3  # links to headings, as on GitHub

# Only the pages of docs/api name what is shown.
autoapi_dirs = [str(PACKAGE)]
autoapi_ignore = [
    str(path)
    for path in PACKAGE.rglob("*.py")
    if path.relative_to(PACKAGE).with_suffix("").as_posix() not in SHOWN
]
autoapi_generate_api_docs = False
autoapi_add_toctree_entry = False
autoapi_keep_files = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"

# Docstrings are written in plain text: one pair of backquotes is code.
default_role = "code"

# autoapi overlooks constants that are assigned in pairs, and modules that are not shown.
suppress_warnings = ["autoapi.python_import_resolution"]

# A reference to a name of this library must lead to an entry; those of other libraries lead
# nowhere.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!pix2seq_jax).*")]
nitpick_ignore = [  # names in signatures that are no part of the contracts
    ("py:class", "pix2seq_jax.data.coco.folder.CocoDir"),
    ("py:class", "pix2seq_jax.decoding.options.Ranges"),
    ("py:class", "pix2seq_jax.models.fixed_keys.FixedKeys"),
]


def setup(app):
    app.connect("autodoc-process-docstring", google_style)


def google_style(app, what, name, obj, options, lines):
    """Turns the sections of a docstring (Args, Attributes, ...) into reStructuredText, in place.

    Napoleon's own handler takes what stands before a colon in the docstring of a property for its
    type. The fields of a dataclass become a list, not entries of their own.
    """
    what = "method" if what == "property" else what
    config = napoleon.Config(napoleon_use_ivar=True)
    text = napoleon.GoogleDocstring(lines, config, app, what, name, obj, options).lines()
    # "height, width: ..." are two names; with the space the first would be taken for a type.
    lines[:] = [re.sub(r"^:(ivar|param) ([^:]+):", _without_spaces, line) for line in text]


def _without_spaces(field: re.Match) -> str:
    return f":{field[1]} {field[2].replace(' ', '')}:"
