"""``python -m eocube``."""

from __future__ import annotations

from eocube.cli import main

if __name__ == "__main__":
    main()
