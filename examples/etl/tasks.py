"""Tasks of the pipeline: read the orders of a shop and a day, validate them, and load their sums into a database."""

from __future__ import annotations

import contextlib
import csv
import os
import sqlite3
from datetime import date, timedelta
from pathlib import Path
from typing import Any, TypedDict

from triarch import GiveUp, Triarch, current, group

app = Triarch(queue="etl")

SHOPS = ("berlin", "lyon", "oslo", "porto")


class Order(TypedDict):
    """One row of a shop's file."""

    sku: str
    pieces: int
    cents: int


class Part(TypedDict):
    """Validated orders of one shop and day."""

    shop: str
    day: str
    orders: list[Order]
    refused: int


def directory() -> Path:
    """Returns the directory of the files and the database: ETL_DIR, or a directory of the worker by default."""
    return Path(os.environ.get("ETL_DIR", "etl-data"))


@app.task(timeout=60)
def extract(shop: str, day: str) -> dict[str, Any]:
    """Reads a shop's file."""
    path = directory() / f"{shop}-{day}.csv"
    try:
        with path.open(newline="") as file:
            return {"shop": shop, "day": day, "rows": list(csv.reader(file))[1:]}
    except FileNotFoundError as error:
        raise GiveUp(f"{shop} has sent nothing for {day}") from error


@app.task(timeout=60)
def transform(read: dict[str, Any]) -> Part:
    """Validates the rows, and counts the malformed ones."""
    orders: list[Order] = []
    refused = 0
    for row in read["rows"]:
        try:
            sku, pieces, price = row
            order: Order = {"sku": sku.strip().upper(), "pieces": int(pieces), "cents": round(float(price) * 100)}
        except ValueError:
            refused += 1
            continue
        if order["sku"] and order["pieces"] > 0:
            orders.append(order)
        else:
            refused += 1
    return {"shop": read["shop"], "day": read["day"], "orders": orders, "refused": refused}


@app.task(timeout=60, concurrency_key="etl:database")
def load(parts: list[Part]) -> dict[str, int]:
    """Loads the sums of a day into the database in one transaction.

    The key of a row is its shop, day and article, so a repeated load changes nothing. Each row also has the token of the attempt
    that wrote it. An attempt that hung, and wakes up after a later one has written, changes nothing.
    """
    token = current().token
    path = directory() / "orders.db"
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as db, db:
        db.execute(
            "create table if not exists sales (shop text, day text, sku text, pieces int, cents int, token int,"
            " primary key (shop, day, sku))"
        )
        rows = 0
        for part in parts:
            rows += len(part["orders"])
            sums: dict[str, tuple[int, int]] = {}
            for order in part["orders"]:
                pieces, cents = sums.get(order["sku"], (0, 0))
                sums[order["sku"]] = pieces + order["pieces"], cents + order["pieces"] * order["cents"]
            for sku, (pieces, cents) in sums.items():
                db.execute(
                    "insert into sales values (?, ?, ?, ?, ?, ?) on conflict (shop, day, sku) do update set"
                    " pieces = excluded.pieces, cents = excluded.cents, token = excluded.token"
                    " where excluded.token > sales.token",
                    (part["shop"], part["day"], sku, pieces, cents, token),
                )
    return {"orders": rows, "refused": sum(part["refused"] for part in parts)}


def day_of_orders(day: str) -> Any:
    """Returns the workflow of a day: the files of all shops in parallel, then one load."""
    return group(extract.s(shop, day) | transform.s() for shop in SHOPS) | load.s()


@app.task
def submit_yesterday() -> str:
    """Submits the workflow of yesterday. The schedule calls this task, because the day is known only at the tick.

    The idempotency key contains the day. Repeated runs of this task therefore submit one workflow per day.
    """
    day = (date.today() - timedelta(days=1)).isoformat()
    return str(day_of_orders(day).submit(name=f"etl {day}", idempotency_key=f"etl:{day}").job)
