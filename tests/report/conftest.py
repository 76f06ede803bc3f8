"""The runs that are shown, made once."""

import pytest
from report_runs import healthy, sick


@pytest.fixture(scope="session")
def sick_run():
    return sick()


@pytest.fixture(scope="session")
def healthy_run():
    return healthy()
