"""matplotlib's figures as SVG that stands in a page: in its fonts, and in colours that the page's style decides."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from html import escape
from threading import Lock

from matplotlib import style
from matplotlib.figure import Figure

WIDTH = 440  # of every figure, in pixels of the page
FONT = 12

# Colours that nobody would draw with. Each stands for a variable of the style sheet, which is another in the dark.
INK, MUTED, GRID, PAPER, BLUE, ORANGE, GREEN = (f"#00000{i}" for i in range(1, 8))
_VARIABLES = dict(
    zip((INK, MUTED, GRID, PAPER, BLUE, ORANGE, GREEN), "ink muted grid paper blue orange green".split(), strict=True)
)
_ONE_AT_A_TIME = Lock()
_STYLE = {
    "svg.fonttype": "none", "font.size": FONT, "text.color": INK, "text.parse_math": False, "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED, "xtick.color": GRID, "ytick.color": GRID, "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK, "grid.color": GRID, "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "axes.spines.left": False, "figure.facecolor": "none", "axes.facecolor": "none",
    "legend.frameon": False, "xtick.major.size": 0, "ytick.major.size": 0, "hatch.color": PAPER,
}  # fmt: skip


def draw(name: str, height: int, alt: str, plot: Callable[[Figure], None]) -> str:
    """
    :param name: of the figure, other than those of the other figures on the page
    :param height: in pixels, at a width of :data:`WIDTH`
    :param alt: what the figure shows, for those who do not see it
    :param plot: draws on a ``matplotlib.figure.Figure``
    :return: an ``<svg>`` element, which refers to nothing outside of it
    """
    text = io.StringIO()
    # The user's own settings of matplotlib are put aside, and are back afterwards. They are those of the whole process,
    # and some are read when a file is written alone. So figures are drawn one at a time.
    with _ONE_AT_A_TIME, style.context(["default", _STYLE | {"svg.hashsalt": name}]):
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        plot(figure)
        with warnings.catch_warnings():
            # The page's fonts show the text. Those of matplotlib only measure it, and may lack letters.
            warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
            figure.savefig(text, format="svg", metadata={"Date": None})
    return _inline(text.getvalue(), name, alt)


def _inline(svg: str, name: str, alt: str) -> str:
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href=", "href=")
    body = re.sub(r" font-family: [^;\"]*;", "", body)  # the page's own
    # ids are those of the whole page
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(f": {colour}", f": var(--{variable})")
    box = re.findall(r'viewBox="[^"]*"', svg)[0]
    return f'<svg class="plot" id="{name}" role="img" aria-label="{escape(alt)}" {box}>{body}'
