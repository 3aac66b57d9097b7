"""Write requirements/lock.txt: the exact versions of everything that eocube, its extras and its dependency groups need.

Called by `make lock`. A fresh environment is filled from pyproject.toml under requirements/constraints.txt and frozen; the
environment is thrown away. ``--freeze PYTHON`` writes down an environment that stands already instead.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements" / "lock.txt"
CONSTRAINTS = ROOT / "requirements" / "constraints.txt"
HEADER = """\
# Exact versions of everything: the package, all extras, the tools and the benchmark peers. Written by `make lock`.
"""


def name_of(requirement: str) -> str:
    """Return the normalised project name of a requirement line."""
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement.strip())[0]).lower()  # type: ignore[index]


def all_requirements(pyproject: dict[str, Any]) -> list[str]:
    """Requirements of the package, every extra, every group and the build, each once; the package itself left out."""
    project = pyproject["project"]
    lists = [project["dependencies"], *project.get("optional-dependencies", {}).values()]
    lists += [*pyproject.get("dependency-groups", {}).values(), pyproject["build-system"]["requires"]]
    found = {requirement for one in lists for requirement in one}
    return sorted(r for r in found if name_of(r) != project["name"])


def lock_lines(freeze: str, *, project: str) -> list[str]:
    """Turn ``pip freeze`` into ``name==version`` lines, without local version labels (2.13.0+cpu) and the package itself.

    Raises
    ------
    ValueError
        If a package was installed from a folder, a file or an address: nobody else could install that.
    """
    lines = [line for line in freeze.splitlines() if not line.startswith(("#", "-e")) and name_of(line) != project]
    if odd := [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line)]:
        raise ValueError(f"Only name==version can be locked; found {odd}. Install these from the package index and run again.")
    return sorted((line.split("+", 1)[0] for line in lines), key=str.lower)


def frozen(python: Path) -> str:
    """Return what ``pip freeze`` says of one environment."""
    return subprocess.run([python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True).stdout


def fresh_freeze(requirements: list[str], folder: Path) -> str:
    """Install ``requirements`` into a new environment under ``folder`` and freeze it."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-qq", "-c", CONSTRAINTS, *requirements], check=True)
    return frozen(python)


def main() -> int:
    """Write the lock file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--freeze", metavar="PYTHON", type=Path, help="interpreter of an environment to write down as it stands")
    args = parser.parse_args()
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    if args.freeze:
        text = frozen(args.freeze)
    else:
        with tempfile.TemporaryDirectory() as folder:
            text = fresh_freeze(all_requirements(pyproject), Path(folder))
    lines = lock_lines(text, project=pyproject["project"]["name"])
    LOCK.write_text(HEADER + "\n".join(lines) + "\n")
    print(f"{LOCK.relative_to(ROOT)}: {len(lines)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
