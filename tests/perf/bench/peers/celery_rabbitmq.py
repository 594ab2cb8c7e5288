"""Celery on RabbitMQ: three nodes on this machine, a quorum queue, publishers that wait for its confirmation. Results are
messages to the client and durable nowhere, as is usual with it (`rpc://`)."""

import os
import shutil
import subprocess

from . import celery_redis
from tests.perf.support.sandbox import Missing, Sandbox, free_port, listens

DURABLE = "a quorum of three RabbitMQ nodes, fsynced; results nowhere"

NODES = 3


def measure(settings):
    server = rabbitmq("rabbitmq-server")
    with Sandbox() as sandbox:
        ports, control = brokers(sandbox, server)
        broker = ";".join(f"amqp://guest:guest@127.0.0.1:{port}//" for port in ports)
        figures = celery_redis.run(sandbox, settings, broker, "rpc://")
        queues = control("list_queues", "--quiet", "name", "type", "members")
        bench = next((line for line in queues.splitlines() if line.startswith("bench\t")), "")
        if "\tquorum\t" not in bench or bench.count("@localhost") != NODES:
            raise RuntimeError(f"the queue is no quorum queue of {NODES}: {queues}")
        return figures


def brokers(sandbox, server):
    """Starts a cluster of RabbitMQ. Returns the addresses of its nodes, and a function that runs its control command.
    """
    ports = [free_port() for _ in range(NODES)]
    names = [f"bench{index + 1}@localhost" for index in range(NODES)]
    cookie = os.path.join(sandbox.folder, ".erlang.cookie")
    with open(cookie, "w") as file:
        file.write("BENCHBENCHBENCH")
    os.chmod(cookie, 0o400)
    # The name service ends with the measurement.
    names_port = free_port()
    shared = {
        "HOME": sandbox.folder,
        "ERL_EPMD_PORT": str(names_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_ENABLED_PLUGINS_FILE": os.path.join(sandbox.folder, "plugins"),
    }
    with open(shared["RABBITMQ_ENABLED_PLUGINS_FILE"], "w") as file:
        file.write("[].\n")
    sandbox.start("epmd", "-port", str(names_port), "-address", "127.0.0.1")
    listens(names_port)
    members = "".join(f"cluster_formation.classic_config.nodes.{index + 1} = {name}\n" for index, name in enumerate(names))
    for name, port in zip(names, ports):
        folder = os.path.join(sandbox.folder, name)
        os.mkdir(folder)
        with open(os.path.join(folder, "rabbitmq.conf"), "w") as file:
            file.write(
                f"listeners.tcp.1 = 127.0.0.1:{port}\n"
                "cluster_formation.peer_discovery_backend = classic_config\n" + members
            )
        # RUNNING_UNDER_SYSTEMD: the start script becomes the server process instead of waiting for it.
        sandbox.start(server, env={
            **shared, "RUNNING_UNDER_SYSTEMD": "yes", "RABBITMQ_NODENAME": name, "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": os.path.join(folder, "data"), "RABBITMQ_LOG_BASE": os.path.join(folder, "log"),
            "RABBITMQ_CONFIG_FILE": os.path.join(folder, "rabbitmq.conf"),
        })

    def control(*words):
        argv = [rabbitmq("rabbitmqctl"), "-n", names[0], "-t", "120", *words]
        ran = subprocess.run(argv, env={**os.environ, **shared}, capture_output=True, text=True)
        if ran.returncode != 0:
            raise RuntimeError(f"rabbitmqctl {' '.join(words)}: {ran.stdout}{ran.stderr}\n{sandbox.log_ends()}")
        return ran.stdout

    for port in ports:
        listens(port, 120)
    control("await_online_nodes", str(NODES))
    return ports, control


def rabbitmq(program):
    """Debian keeps the programs in this folder. The commands on the PATH first change to another user."""
    kept = f"/usr/lib/rabbitmq/bin/{program}"
    found = kept if os.path.exists(kept) else shutil.which(program)
    if found is None or shutil.which("epmd") is None:
        raise Missing(f"{program} is not installed")
    return found
