"""Task of the sweep: simulates one epidemic."""

from __future__ import annotations

import random
from typing import TypedDict

from triarch import Triarch

app = Triarch(queue="sweep")


class Course(TypedDict):
    """Result of one combination of parameters."""

    contacts: float
    recovery: float
    peak: float
    reached: float


@app.task(timeout=60)
def epidemic(contacts: float, recovery: float, *, people: int = 2000, runs: int = 3, seed: int = 1) -> Course:
    """Simulates a stochastic SIR model. Returns the mean share that is ill at the peak, and the mean share that was ever ill.

    `contacts` is the number of people that an ill person infects in a day when nobody is immune. `recovery` is the chance to get
    well in a day.
    """
    chance = random.Random(f"{seed}/{contacts}/{recovery}")
    peaks = reached = 0.0
    for _ in range(runs):
        ill, well, peak = 5, people - 5, 5
        for _day in range(400):
            if ill == 0:
                break
            risk = 1 - (1 - contacts / people) ** ill
            new = _drawn(chance, well, risk)
            cured = _drawn(chance, ill, recovery)
            well -= new
            ill += new - cured
            peak = max(peak, ill)
        peaks += peak / people
        reached += (people - well) / people
    return {"contacts": contacts, "recovery": recovery, "peak": peaks / runs, "reached": reached / runs}


def _drawn(chance: random.Random, number: int, share: float) -> int:
    """Returns a sample of a binomial distribution."""
    if number * share > 30 and number * (1 - share) > 30:
        drawn = chance.gauss(number * share, (number * share * (1 - share)) ** 0.5)
        return min(number, max(0, round(drawn)))
    return sum(chance.random() < share for _ in range(number))
