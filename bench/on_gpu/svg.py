"""Bar charts as SVG."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

WIDTH, LABELS, BAR, GAP = 1000, 380, 20, 8
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#eeca3b", "#9d755d", "#b8b8b8", "#ff9da6")


def bars(title: str, rows: Sequence[tuple[str, Mapping[str, float], str]]) -> str:
    """Horizontal bars, each of parts drawn end to end.

    Args:
        rows: for each bar its label, the sizes of its parts by kind, and its value for people.
    """
    kinds = list(dict.fromkeys(kind for _, parts, _ in rows for kind in parts))
    colours = {kind: COLOURS[index % len(COLOURS)] for index, kind in enumerate(kinds)}
    scale = (WIDTH - LABELS - 130) / max(sum(parts.values()) for _, parts, _ in rows)
    shapes = [_text(0, 18, title, weight="bold")]
    for index, (label, parts, value) in enumerate(rows):
        top, x = 36 + index * (BAR + GAP), float(LABELS)
        shapes.append(_text(LABELS - 8, top + 15, label, anchor="end"))
        for kind, size in parts.items():
            hint = f"<title>{html.escape(f'{kind}: {size:.4g}')}</title>"
            shapes.append(
                f'<rect x="{x:.1f}" y="{top}" width="{size * scale:.1f}" height="{BAR}" fill="{colours[kind]}">{hint}'
                "</rect>"
            )
            x += size * scale
        shapes.append(_text(x + 6, top + 15, value))
    below = 36 + len(rows) * (BAR + GAP) + 14
    if len(kinds) > 1:
        for index, kind in enumerate(kinds):
            x, y = 200 * (index % 5), below + 20 * (index // 5)
            shapes.append(f'<rect x="{x}" y="{y - 11}" width="12" height="12" fill="{colours[kind]}"/>')
            shapes.append(_text(x + 18, y, kind))
        below += 20 * (len(kinds) // 5 + 1)
    size = f'viewBox="0 0 {WIDTH} {below}" width="{WIDTH}" height="{below}"'
    ground = f'<rect width="{WIDTH}" height="{below}" fill="white"/>'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', ground, *shapes, "</svg>", ""])


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    style = f'font-family="sans-serif" font-size="13" font-weight="{weight}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{html.escape(text)}</text>'
