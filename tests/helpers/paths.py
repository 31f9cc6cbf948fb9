"""Folders of the checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEALED = ROOT / "tests" / "data" / "sealed"  # small samples of collected episodes


def contents(root: Path) -> dict[str, bytes]:
    """Bytes of all files below a folder, by relative path."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
