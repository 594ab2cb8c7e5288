"""What RQ's workers run."""


def noop(payload):
    return None
