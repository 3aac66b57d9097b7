"""What the kill suites share, made once; and the section of pytest's summary in which suites show their counts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slow.killing import RealCluster, Work, make_works, real_cluster
from tests.slow.telling import Tell

_COUNTS = pytest.StashKey[list[str]]()


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """Give ``tell("12 kills, …")``: a line in the summary of the run, also where the test passes."""
    return request.config.stash.setdefault(_COUNTS, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if lines := config.stash.get(_COUNTS, []):
        terminalreporter.section("counts")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def works(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Work]:
    """``convert`` and ``compose``, and the stores that they leave undisturbed."""
    return make_works(tmp_path_factory.mktemp("works"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """A real scheduler; workers come and go."""
    with real_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running
