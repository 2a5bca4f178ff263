"""How Sphinx builds these pages: make docs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sj_parallel_conversion.version import __version__

project = "sj_parallel_conversion"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["narrow.css"]
html_title = f"{project} {release}"
exclude_patterns = ["_build"]
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # they stand in the signatures' text, and types of torch have no page here
