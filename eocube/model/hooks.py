"""Places at which the kill tests end a process; nothing happens unless they ask for it."""

from __future__ import annotations

import os
import signal

HOOK_ENV = "EOCUBE_KILL_AT"
"""Environment variable with the name of a hook: the process that comes there kills itself. Set by the kill tests only."""


def kill_hook(where: str) -> None:
    """End this process with SIGKILL if ``EOCUBE_KILL_AT`` names this place."""
    if os.environ.get(HOOK_ENV) == where:
        os.kill(os.getpid(), signal.SIGKILL)
