"""The function that RQ's workers run."""


def noop(payload):
    return None
