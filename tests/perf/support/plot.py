"""Line plots as SVG, written as text without a library, so that nothing is installed and differences are readable.
The colours follow the colour scheme of the reader, light or dark.
"""

from xml.sax.saxutils import escape

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 80, 30, 56, 50
STEPS = 4

STYLE = """
.paper { fill: #ffffff } text { fill: #1f2937 } .grid { stroke: #e5e7eb } .goal { stroke: #b91c1c } .goal-name { fill: #b91c1c }
.line { fill: none; stroke-width: 2 } .s0 { stroke: #2563eb } .s1 { stroke: #d97706 } .s2 { stroke: #059669 }
.f0 { fill: #2563eb } .f1 { fill: #d97706 } .f2 { fill: #059669 }
@media (prefers-color-scheme: dark) {
.paper { fill: #0d1117 } text { fill: #e5e7eb } .grid { stroke: #30363d } .goal { stroke: #f87171 } .goal-name { fill: #f87171 }
.s0 { stroke: #60a5fa } .s1 { stroke: #fbbf24 } .s2 { stroke: #34d399 } .f0 { fill: #60a5fa } .f1 { fill: #fbbf24 } .f2 { fill: #34d399 }
}
"""


def draw(path, title, across, up, lines, goal=None):
    """Writes one plot of up to three named lines, each a list of points, and of a goal with a name and a height, if
    there is one. Both axes begin at 0; `across` and `up` are their labels with the unit.
    """
    points = [point for line in lines.values() for point in line]
    most_x = nice(max(x for x, _ in points) or 1)
    most_y = nice(max([y for _, y in points] + ([goal[1]] if goal else [])) or 1)
    place_x = lambda x: LEFT + (WIDTH - LEFT - RIGHT) * x / most_x
    place_y = lambda y: HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / most_y
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>',
        f'<text x="{middle_x}" y="20" text-anchor="middle" font-size="15">{escape(title)}</text>',
    ]
    for step in range(STEPS + 1):
        value = most_y * step / STEPS
        y = place_y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>')
        value = most_x * step / STEPS
        parts.append(f'<text x="{place_x(value):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{short(value)}</text>')
    if goal:
        y = place_y(goal[1])
        parts.append(f'<line class="goal" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke-dasharray="6 4"/>')
        parts.append(f'<text class="goal-name" x="{WIDTH - RIGHT}" y="{y - 5:.1f}" text-anchor="end">{escape(goal[0])}</text>')
    left = LEFT
    for number, (name, line) in enumerate(lines.items()):
        polyline = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in line)
        parts.append(f'<polyline class="line s{number}" points="{polyline}"/>')
        # A line of very many points has no marks.
        if len(line) <= 30:
            parts += [f'<circle class="f{number}" cx="{place_x(x):.1f}" cy="{place_y(y):.1f}" r="3"/>' for x, y in line]
        if len(lines) > 1:
            parts.append(f'<rect class="f{number}" x="{left}" y="32" width="12" height="12"/>')
            parts.append(f'<text x="{left + 17}" y="42">{escape(name)}</text>')
            left += 40 + 7 * len(name)
    parts.append(f'<text x="{middle_x}" y="{HEIGHT - 10}" text-anchor="middle">{escape(across)}</text>')
    parts.append(f'<text transform="translate(16 {middle_y}) rotate(-90)" text-anchor="middle">{escape(up)}</text>')
    parts.append("</svg>\n")
    with open(path, "w") as file:
        file.write("\n".join(parts))


def nice(most):
    """Returns the next greater number that is a digit and zeros, and whose quarters are readable."""
    power = 1e-6
    while True:
        for factor in (1, 2, 3, 4, 5, 6, 8):
            if factor * power >= most:
                return factor * power
        power *= 10


def short(value):
    if value >= 1e6:
        return f"{value / 1e6:.4g} M"
    if value >= 1e4:
        return f"{value / 1e3:.4g} k"
    return f"{value:.4g}"
