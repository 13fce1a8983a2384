"""The few SVG elements that the pictures need, as strings."""

from collections.abc import Mapping
from xml.sax.saxutils import escape, quoteattr

__all__ = ["arrow", "arrow_tip", "hatch", "line", "rect", "text", "text_width"]

_LETTER_WIDTHS = dict.fromkeys("fijlrtI.,:;'()[] ", 0.36) | dict.fromkeys("mwMW%", 0.95)


def rect(
    left: float,
    top: float,
    width: float,
    height: float,
    kind: str,
    fill: str,
    *,
    opacity: float = 1.0,
    tooltip: str = "",
    data: Mapping[str, object] | None = None,
) -> str:
    """Return a filled rectangle; ``data`` becomes ``data-`` attributes."""
    attributes = f'class="{kind}" x="{left:g}" y="{top:g}" width="{width:.2f}" height="{height:g}"'
    attributes += f' fill="{fill}"'
    if opacity != 1.0:
        attributes += f' fill-opacity="{opacity:g}"'
    for name, value in (data or {}).items():
        if value is not None:
            attributes += f" data-{name}={quoteattr(str(value))}"
    if tooltip:
        return f"<rect {attributes}><title>{escape(tooltip)}</title></rect>"
    return f"<rect {attributes}/>"


def line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    """Return a hair line."""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}"/>'


def text(
    x: float,
    y: float,
    words: str,
    kind: str,
    *,
    fill: str,
    size: int = 12,
    weight: int = 400,
    anchor: str = "start",
) -> str:
    """Return one line of text on the base line ``y``."""
    return (
        f'<text class="{kind}" x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" '
        f'fill="{fill}" text-anchor="{anchor}">{escape(words)}</text>'
    )


def text_width(words: str, size: int) -> float:
    """Estimate, on the large side, how wide a text gets in a common sans-serif font."""
    return size * sum(_LETTER_WIDTHS.get(letter, 0.61) for letter in words)


def hatch(name: str, colour: str, angle: int) -> str:
    """Return a pattern of parallel lines to fill shapes with: ``fill="url(#name)"``."""
    return (
        f'<pattern id="{name}" width="6" height="6" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate({angle})"><rect width="6" height="6" fill="#fff"/>'
        f'<rect width="2" height="6" fill="{colour}"/></pattern>'
    )


def arrow(path: str, kind: str, colour: str) -> str:
    """Return a line along ``path`` that ends in the tip of ``arrow_tip``."""
    return (
        f'<path class="{kind}" d="{path}" fill="none" stroke="{colour}" stroke-opacity="0.65" '
        'marker-end="url(#tip)"/>'
    )


def arrow_tip(colour: str) -> str:
    """Return the definition that each ``arrow`` needs once in its document."""
    return (
        '<marker id="tip" viewBox="0 0 6 6" refX="5.5" refY="3" markerWidth="6" '
        f'markerHeight="6" orient="auto"><path d="M0 0L6 3L0 6z" fill="{colour}"/></marker>'
    )
