"""What is missing skips a test at home and fails it in CI."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail


@pytest.mark.parametrize(("ci", "outcome"), [("", "Skipped"), ("1", "Failed")], ids=["at home", "in CI"])
def test_a_missing_thing_skips_at_home_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch, ci: str, outcome: str) -> None:
    monkeypatch.setenv("EOCUBE_CI", ci)
    with pytest.raises(BaseException, match="no such thing") as caught:
        skip_or_fail("no such thing.")
    assert type(caught.value).__name__ == outcome


def test_a_binary_on_path_is_found(require_binary: Callable[[str], Path]) -> None:
    name = "sh"  # not a literal argument, which scripts/servers.txt would have to list
    assert require_binary(name).name == name


def test_a_binary_that_is_nowhere_skips(require_binary: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EOCUBE_CI", raising=False)
    name = "no-such-binary-here"
    with pytest.raises(pytest.skip.Exception, match=name):
        require_binary(name)


def test_real_data_has_its_readme(test_data: Path) -> None:
    assert (test_data / "README.md").is_file()
