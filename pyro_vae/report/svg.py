"""Convert a matplotlib figure to SVG for a page: without URLs and background, in the colour of the page's text."""

import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOREGROUND = "#010203"
"""Lines and text of this colour get the colour of the page's text. Nothing else is drawn in this colour."""

STYLE = {
    "svg.fonttype": "none",  # Text stays text, in the page's font.
    "svg.hashsalt": "report",  # The same figure has the same identifiers.
    "text.parse_math": False,  # A $ in a name is a $.
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.2,
    "grid.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color",
         "grid.color"), FOREGROUND
    ),
}  # fmt: skip
"""Settings of matplotlib for figures of a page."""

_XLINK = "{http://www.w3.org/1999/xlink}href"
_NUMBER = re.compile(r"-?\d+\.\d{3,}")


def to_svg(figure: "Figure", label: str, prefix: str) -> str:
    """Return a figure as an ``<svg>`` element for an HTML page, which sets its width.

    Args:
        figure: drawn under :data:`STYLE`.
        label: a description for readers who cannot see the figure.
        prefix: of the figure's identifiers; unique on the page.
    """
    import matplotlib

    written = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(written.getvalue())
    used = set(re.findall(r'(?:url\(#|href="#)([\w.-]+)', written.getvalue()))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("metadata", "style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {
            name.replace(_XLINK, "href"): _adapted(name, value, prefix)
            for name, value in element.attrib.items()
            if name != "id" or value in used
        }
        if element.tag != "text":
            element.text = None
        element.tail = None
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def _adapted(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name == _XLINK:
        return f"#{prefix}-{value[1:]}"
    value = value.replace("url(#", f"url(#{prefix}-").replace(FOREGROUND, "currentColor")
    value = re.sub(
        r"font-family: [^;]*;?\s*|font: ([\d.]+px) [^;]*", lambda m: f"font-size: {m[1]}" if m[1] else "", value
    )
    # A hundredth of a point is less than a screen shows.
    return " ".join(_NUMBER.sub(lambda m: f"{float(m[0]):.2f}", value).split())
