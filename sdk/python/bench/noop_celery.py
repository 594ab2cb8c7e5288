"""The same for Celery."""

import os

from celery import Celery

app = Celery("noop_celery", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(task_acks_late=True, broker_connection_retry_on_startup=True)


@app.task(name="noop")
def noop(number: int) -> int:
    return number
