"""The app whose tasks the comparison runs."""

from triarch import Triarch

app = Triarch()


@app.task
def noop(number: int) -> int:
    return number
