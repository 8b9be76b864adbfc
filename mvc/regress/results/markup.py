"""Elements of HTML and SVG. Foreign text becomes a text node or an attribute, which the writer escapes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element, tostring

FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML; compilers colour messages


def clean(text: str) -> str:
    """The text with a question mark for each character that no XML can hold."""
    return FORBIDDEN.sub("?", text)


def node(tag: str, *content: Element | str | None, **attributes: str | float | None) -> Element:
    """An element.

    Args:
        content: elements and text, in order; None is left out.
        attributes: `class_` stands for class and `aria_label` for aria-label; None is left out.
    """
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name.rstrip("_").replace("_", "-"), _text(value))
    last = None
    for each in content:
        if each is None:
            continue
        if isinstance(each, Element):
            made.append(last := each)
        elif last is None:
            made.text = (made.text or "") + _text(each)
        else:
            last.tail = (last.tail or "") + _text(each)
    return made


def _text(value: str | float) -> str:
    """Numbers have two digits after the point at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else clean(str(value))


def document(root: Element) -> str:
    """The text of an HTML document."""
    return f"<!doctype html>\n{tostring(root, encoding='unicode', method='html')}\n"


def table(
    head: Sequence[tuple[str, str]], rows: Sequence[Sequence[Element]], name: str, style: str | None = None
) -> Element:
    """A table whose first cell in each row names the row; where it is too wide, it scrolls by itself.

    Args:
        head: of each column the text and the class.
        rows: of each row the contents of its first cell, and the other cells.
        name: for those who do not see the table.
        style: its class.
    """
    columns = (node("th", text, class_=style or None, scope="col") for text, style in head)
    body = (node("tr", node("th", first, scope="row"), *others) for first, *others in rows)
    made = node("table", node("thead", node("tr", *columns)), node("tbody", *body), class_=style)
    return node("div", made, class_="scroll", role="region", aria_label=name, tabindex="0")
