"""The notebook runs from its first cell to its last."""

from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

NOTEBOOK = ROOT / "examples" / "first_hour.ipynb"
BRIEF = "EPISODES, STEPS, PLAYED = 4, 10, 2"


def test_the_first_hour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in code)  # outputs are of the reader's own run
    assert code[0].source.startswith("EPISODES, STEPS, PLAYED = 200, 400, 20")
    code[0].source = BRIEF
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert {"data", "runs", "results", "cartpole.gif"} <= {path.name for path in tmp_path.iterdir()}
    assert any("image/gif" in output.get("data", {}) for cell in code for output in cell.outputs)
    assert float(code[-1].outputs[-1]["data"]["text/plain"]) > 0
