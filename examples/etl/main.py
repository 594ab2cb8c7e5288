"""Loads a day's orders of four shops into a database, and schedules the same for every night."""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import random
import sqlite3
from datetime import date, timedelta
from pathlib import Path

from tasks import SHOPS, app, day_of_orders, directory, submit_yesterday
from triarch.worker import Worker, WorkerConfig

SCHEDULE = "etl-nightly"


def main() -> None:
    """Runs the example that its README describes."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument(
        "--dir", type=Path, default=Path("etl-data"), help="Directory of the files and the database. Default: etl-data."
    )
    parse.add_argument("--orders", type=int, default=500, help="Number of orders per shop and day. Default: 500.")
    parse.add_argument("--cron", default="30 2 * * *", help="Cron expression of the schedule. Default: 02:30 every night.")
    parse.add_argument("--no-worker", action="store_true", help="Use workers that run already, with the same ETL_DIR.")
    asked = parse.parse_args()
    os.environ["ETL_DIR"] = str(asked.dir.resolve())
    yesterday = (date.today() - timedelta(days=1)).isoformat()
    write_files(yesterday, asked.orders)

    with contextlib.ExitStack() as stack:
        if not asked.no_worker:
            stack.enter_context(Worker(app, WorkerConfig(queues=["etl"]), reference="tasks:app"))
        app.schedules.put(SCHEDULE, asked.cron, submit_yesterday.si(), timezone="Europe/Berlin", overlap="forbid")
        # The run of tonight, submitted now under the key that the schedule's task will use.
        loaded = day_of_orders(yesterday).submit(name=f"etl {yesterday}", idempotency_key=f"etl:{yesterday}").result()
    print(f"{loaded['orders']} orders of {yesterday} loaded, {loaded['refused']} refused")
    with contextlib.closing(sqlite3.connect(directory() / "orders.db")) as db:
        for shop, cents in db.execute("select shop, sum(cents) from sales where day = ? group by shop", (yesterday,)):
            print(f"{shop:8} {cents / 100:12,.2f}")
    schedule = app.schedules.get(SCHEDULE)
    print(f"schedule {SCHEDULE}: {schedule['cron']} {schedule['timezone']}")


def write_files(day: str, orders: int) -> None:
    """Writes the files that the shops would send: one file each, with a malformed row now and then."""
    directory().mkdir(parents=True, exist_ok=True)
    for shop in SHOPS:
        chance = random.Random(f"{shop}/{day}")
        with (directory() / f"{shop}-{day}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["sku", "pieces", "price"])
            for number in range(orders):
                pieces = "many" if number % 50 == 49 else str(chance.randint(1, 9))
                table.writerow([f"a{chance.randrange(40):03}", pieces, f"{chance.uniform(1, 80):.2f}"])


if __name__ == "__main__":
    main()
