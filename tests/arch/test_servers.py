"""Every server that a test asks for is one that CI installs."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECK = ROOT / "scripts" / "check_servers.sh"


def listed_binaries(text: str) -> set[str]:
    """First words of scripts/servers.txt; each line names a binary, its Debian package and a purpose."""
    rows = [line.split(maxsplit=2) for line in text.splitlines() if not line.startswith("#")]
    assert all(len(row) == 3 for row in rows), "each line: binary, Debian package, what for"
    return {row[0] for row in rows}


def asked_binaries(source: str) -> set[str]:
    """Literal arguments of ``require_binary("…")`` in one file."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    called = [node for node in calls if getattr(node.func, "id", "") in {"require_binary", "find_binary"}]
    return {str(arg.value) for node in called for arg in node.args[:1] if isinstance(arg, ast.Constant)}


def test_ci_installs_every_binary_that_a_test_asks_for() -> None:
    asked = {name for path in (ROOT / "tests").rglob("*.py") for name in asked_binaries(path.read_text())}
    missing = asked - listed_binaries((ROOT / "scripts" / "servers.txt").read_text())
    assert not missing, f"name them in scripts/servers.txt: {sorted(missing)}"


def test_a_binary_that_a_test_asks_for_is_seen() -> None:
    assert asked_binaries("def test_x(require_binary):\n    require_binary('redis' + '')\n    require_binary('minio')") == {
        "minio"
    }


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("1", 1)], ids=["at home", "in CI"])
def test_a_missing_server_is_a_failure_only_in_ci(tmp_path: Path, ci: str, status: int) -> None:
    check = tmp_path / CHECK.name
    check.write_bytes(CHECK.read_bytes())
    (tmp_path / "servers.txt").write_text("# binary package purpose\nsh dash shell\nno-such-server-here none nothing\n")
    done = subprocess.run(["bash", check], capture_output=True, text=True, check=False, env={**os.environ, "EOCUBE_CI": ci})
    assert done.returncode == status, done.stderr
    assert "no-such-server-here: missing" in done.stdout


NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen unix:{folder}/socket; root {folder}; }}
}}
"""


@pytest.mark.slow
def test_the_nginx_that_ci_installs_answers_range_requests(tmp_path: Path, require_binary: Callable[[str], Path]) -> None:
    nginx = require_binary("nginx")
    (tmp_path / "numbers").write_bytes(bytes(range(100)))
    (tmp_path / "conf").write_text(NGINX.format(folder=tmp_path))
    with subprocess.Popen([nginx, "-p", tmp_path, "-e", "stderr", "-c", tmp_path / "conf"]) as server:
        try:
            answer = ask_range(tmp_path / "socket", "/numbers", "bytes=10-12", patience_s=10)
        finally:
            server.terminate()
    assert answer.startswith(b"HTTP/1.1 206 ")
    assert answer.endswith(b"\r\n\r\n\x0a\x0b\x0c")


def ask_range(address: Path, path: str, span: str, *, patience_s: float) -> bytes:
    """Whole answer to one GET over a Unix socket that may still be on its way up."""
    end = time.monotonic() + patience_s
    while True:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(address))
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
                continue
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nRange: {span}\r\nConnection: close\r\n\r\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b""))
