"""The application that Celery's workers load."""

import os

from celery import Celery
from kombu import Queue

broker = os.environ["BENCH_BROKER"]
app = Celery("bench", broker=broker, backend=os.environ["BENCH_BACKEND"])
app.conf.update(
    task_acks_late=True,
    task_serializer="json",
    worker_prefetch_multiplier=4,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)
if broker.startswith("amqp"):
    app.conf.update(
        task_default_queue="bench",
        task_queues=[Queue("bench", queue_arguments={"x-queue-type": "quorum"})],
        broker_transport_options={"confirm_publish": True},
        worker_detect_quorum_queues=True,
    )


@app.task
def noop(payload):
    return None
