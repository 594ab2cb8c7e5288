"""A page of docs/performance: the figures as Markdown and JSON, with plots, all written by the run itself."""

import json
import os

from tests.perf.support.plot import draw


class Page:
    """Collects the parts of a page and writes them into a folder."""

    def __init__(self, into, name, title, about):
        os.makedirs(into, exist_ok=True)
        self.into, self.name = into, name
        self.parts = [f"# {title}", about]
        self.goals = []

    def paragraph(self, text):
        self.parts.append(text)

    def plot(self, name, title, across, up, lines, goal=None):
        draw(os.path.join(self.into, f"{name}.svg"), title, across, up, lines, goal)
        self.parts.append(f"![{title}]({name}.svg)")

    def table(self, heads, rows):
        """Adds a table. `heads` gives the heading of each figure."""
        lines = [list(heads.values()), ["---:"] * len(heads)]
        lines += [[cell(row[figure]) for figure in heads] for row in rows]
        self.parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))

    def goal(self, what, seen, most, unit=""):
        """Compares a figure with its maximum."""
        met = seen is not None and seen <= most
        self.goals.append({"goal": what, "seen": seen, "at_most": most, "met": met})
        self.parts.append(f"{what}: **{cell(seen)}{unit}**. Goal: at most {cell(most)}{unit}, {'met' if met else 'missed'}.")

    def write(self, figures):
        text = "\n\n".join(self.parts) + "\n"
        with open(os.path.join(self.into, f"{self.name}.md"), "w") as file:
            file.write(text)
        with open(os.path.join(self.into, f"{self.name}.json"), "w") as file:
            json.dump({**figures, "goals": self.goals}, file, indent=1)
            file.write("\n")
        print(text)


def cell(value):
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and abs(value) >= 1_000):
        return f"{value:,.0f}"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)
