"""Elements of SVG, as they stand within HTML: without a namespace, their texts escaped."""

from __future__ import annotations

from .text import escaped


def drawing(width: float, height: float, label: str, parts: list[str]) -> str:
    """A chart that scales with the page; the label is read to those who do not see it."""
    return (
        f'<svg viewBox="0 0 {_number(width)} {_number(height)}" role="img" font-size="12" '
        f'aria-label="{escaped(label)}">{"".join(parts)}</svg>'
    )


def element(name: str, content: str = "", **attributes: object) -> str:
    """An element; `content` is SVG. `class_` is class, `text_anchor` is text-anchor."""
    pairs = [
        f'{key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    ]
    return f"<{' '.join([name, *pairs])}>{content}</{name}>"


def label(x: float, y: float, content: str, anchor: str = "start", **attributes: object) -> str:
    """A text; `anchor` is the side of it that lies at x: "start", "middle" or "end"."""
    return element("text", escaped(content), x=x, y=y, text_anchor=anchor, **attributes)


def tip(content: str) -> str:
    """What appears under the pointer, within another element."""
    return f"<title>{escaped(content)}</title>"


def bar(x: float, y: float, width: float, height: float, class_: str, content: str = "") -> str:
    """A filled rectangle."""
    return element("rect", content, x=x, y=y, width=width, height=height, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def point(x: float, y: float) -> str:
    """Coordinates within a path."""
    return f"{_number(x)} {_number(y)}"


def _value(value: object) -> str:
    return _number(value) if isinstance(value, (int, float)) else escaped(str(value))


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
