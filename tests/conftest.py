"""What every room's tests share: the real data and the real binaries, missing quietly at home and loudly in CI."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

SYSTEM_FOLDERS = ("/usr/sbin", "/sbin", "/usr/local/sbin")


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test, or fail it where EOCUBE_CI promises that everything is there."""
    if os.environ.get("EOCUBE_CI"):
        pytest.fail(f"{reason} EOCUBE_CI is set, so this is a failure.", pytrace=False)
    pytest.skip(reason)


def find_binary(name: str) -> Path:
    """Find a program on PATH or in the system's folders for servers; skip or fail without it."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM_FOLDERS])
    if (found := shutil.which(name, path=path)) is None:
        skip_or_fail(f"The binary {name!r} is neither on PATH nor in {', '.join(SYSTEM_FOLDERS)}: install it.")
    return Path(found)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Return the folder of real data, named by EOCUBE_TEST_DATA."""
    if not (named := os.environ.get("EOCUBE_TEST_DATA")):
        skip_or_fail("EOCUBE_TEST_DATA is not set: name the folder of real data there.")
    if not (folder := Path(named)).is_dir():
        skip_or_fail(f"EOCUBE_TEST_DATA names {named!r}, which is no folder.")
    return folder


@pytest.fixture(scope="session")
def require_binary() -> Callable[[str], Path]:
    """Give ``require_binary("nginx") -> Path``; name the binary in scripts/servers.txt too, so that CI installs it."""
    return find_binary
