import os

import pytest
from masters import Masters

MASTERS = Masters(os.environ["TRIARCH_BIN"])


@pytest.fixture(scope="session")
def masters():
    return MASTERS


def pytest_unconfigure(config):
    MASTERS.stop(keep=getattr(config, "something_failed", True))


def pytest_sessionfinish(session, exitstatus):
    session.config.something_failed = exitstatus != 0
