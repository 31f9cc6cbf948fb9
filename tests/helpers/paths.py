"""Folders of the checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEALED = ROOT / "tests" / "data" / "sealed"  # small samples of collected episodes
