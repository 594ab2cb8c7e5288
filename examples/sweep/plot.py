"""Heat map as SVG, without a plotting library."""

from __future__ import annotations

from collections.abc import Sequence

CELL, LEFT, TOP = 26, 70, 40


def heat_map(
    title: str, xs: Sequence[float], ys: Sequence[float], values: Sequence[Sequence[float]], axes: tuple[str, str]
) -> str:
    """Returns a picture of `values[row][column]`, from 0 to 1. The first row is at the bottom."""
    width, height = LEFT + CELL * len(xs) + 20, TOP + CELL * len(ys) + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
        f'<rect width="100%" height="100%" fill="white"/><text x="{LEFT}" y="22" font-size="14">{title}</text>',
    ]
    for row, y in enumerate(ys):
        at = TOP + CELL * (len(ys) - 1 - row)
        parts.append(f'<text x="{LEFT - 6}" y="{at + 17}" text-anchor="end">{y:g}</text>')
        for column, x in enumerate(xs):
            value = values[row][column]
            parts.append(
                f'<rect x="{LEFT + CELL * column}" y="{at}" width="{CELL}" height="{CELL}" fill="{_colour(value)}">'
                f"<title>{axes[0]} {x:g}, {axes[1]} {y:g}: {value:.0%}</title></rect>"
            )
    below = TOP + CELL * len(ys)
    for column, x in enumerate(xs):
        if column % 2 == 0:
            parts.append(f'<text x="{LEFT + CELL * column + CELL / 2}" y="{below + 15}" text-anchor="middle">{x:g}</text>')
    parts.append(f'<text x="{LEFT + CELL * len(xs) / 2}" y="{below + 38}" text-anchor="middle">{axes[0]}</text>')
    middle = TOP + CELL * len(ys) / 2
    parts.append(f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">{axes[1]}</text></svg>')
    return "\n".join(parts)


def _colour(value: float) -> str:
    """Returns a colour from white by orange to dark red."""
    value = min(1.0, max(0.0, value))
    return f"rgb({255 - round(135 * max(0, value - 0.5) * 2)},{round(245 * (1 - value))},{round(230 * (1 - value) ** 2)})"
