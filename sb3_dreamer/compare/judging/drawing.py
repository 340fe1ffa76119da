"""
How a figure gets into a page: as SVG whose ink is the page's own text colour, or as PNG where the SVG would be too large.

Each figure is narrow enough for a phone; the page puts them side by side where there is room.
"""

import base64
import io
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from sb3_dreamer.compare.judging.formatting import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1a2b3c"  # stands for the page's text colour until the SVG is written
_WIDTH, _HEIGHT = 5.0, 3.4  # inches
LARGEST_SVG = 400_000  # characters
_STYLE = {
    "svg.fonttype": "none",  # text stays text: small, readable, found by a search
    "svg.hashsalt": "sb3_dreamer",
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.framealpha": 0.0,
    "legend.fontsize": 8,
    **{
        f"{name}": INK
        for name in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
    },
    "grid.alpha": 0.15,
    "axes.grid": True,
    "text.parse_math": False,  # a label may hold a dollar
}


@dataclass(frozen=True)
class Picture:
    """A figure ready for a page."""

    markup: str  # an ``<svg>`` or an ``<img>``
    title: str
    alt: str


def picture(draw: Callable[["Axes"], None], title: str, alt: str, height: float = _HEIGHT) -> Picture:
    """
    :param draw: draws into the axes it is given
    :param title: of the figure
    :param alt: what it shows, in words
    :param height: inches, without the legend
    :return: the figure for a page
    """
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = _STYLE
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        _finish(figure, axes)
        content = io.StringIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        svg = content.getvalue()
        if len(svg) > LARGEST_SVG:
            return Picture(_png(figure, alt), title, alt)
    return Picture(_inline(svg, alt), title, alt)


def _finish(figure: "Figure", axes: "Axes") -> None:
    """Plain numbers along the axes, and the legend below, where it hides nothing."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    plain = FuncFormatter(lambda value, _: number(value))
    axes.xaxis.set_major_formatter(plain)
    if axes.get_xscale() == "log":
        axes.xaxis.set_minor_formatter(NullFormatter())
    if not isinstance(axes.yaxis.get_major_locator(), FixedLocator):  # names stand there
        axes.yaxis.set_major_formatter(plain)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = 3 if max(map(len, labels)) < 17 else 2 if max(map(len, labels)) < 27 else 1
        rows = -(-len(handles) // columns)
        figure.set_figheight(figure.get_figheight() + 0.2 * rows)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _png(figure: "Figure", alt: str) -> str:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150, facecolor="white")
    data = base64.b64encode(content.getvalue()).decode("ascii")
    return f'<img class="opaque" src="data:image/png;base64,{data}" alt="{escape(alt)}">'


def _inline(svg: str, alt: str) -> str:
    """Make a file into an element: no header, no size of its own, no identifier that another figure may have as well."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))
    prefix = f"f{zlib.crc32((alt + svg).encode()):x}-"
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{prefix}{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{prefix}", svg)
    svg = re.sub(r"<svg [^>]*?(viewBox=\"[^\"]+\")[^>]*>", rf'<svg \1 role="img" aria-label="{_safe(alt)}">', svg, count=1)
    svg = re.sub(r"\n\s*", "\n", svg).replace(INK, "currentColor")
    return svg.replace("xlink:href", "href").strip()


def _safe(text: str) -> str:
    """:return: the text for an attribute, and for a pattern's replacement"""
    return escape(text).replace("\\", "\\\\")
