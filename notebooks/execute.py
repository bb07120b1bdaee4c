"""Run the notebooks and write their outputs: ``python notebooks/execute.py [number ...]``.

The text of each notebook is its ``.py`` file (jupytext, py:percent). This makes the ``.ipynb`` beside it.
"""
from __future__ import annotations

import re
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
SOLUTION = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def texts() -> list[Path]:
    """Return the text files of all notebooks, in order."""
    return sorted(HERE.glob("[0-9]_*.py"))


def read_text(path: Path) -> NotebookNode:
    """Return a notebook without outputs, with ids that do not change from run to run."""
    notebook = jupytext.read(path, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:03d}"
        cell.metadata = NotebookNode()
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    return notebook


def with_solutions(notebook: NotebookNode) -> NotebookNode:
    """Return the notebook with the code of its solutions, folded into the text, as cells of their own."""
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "markdown":
            cells += [nbformat.v4.new_code_cell(code, id=f"{cell.id}-{number}")
                      for number, code in enumerate(SOLUTION.findall(cell.source))]
    return NotebookNode({**notebook, "cells": cells})


def execute(notebook: NotebookNode) -> NotebookNode:
    """Run all cells in this folder and return the notebook with their outputs."""
    NotebookClient(notebook, timeout=120, kernel_name="python3", record_timing=False, coalesce_streams=True,
                   resources={"metadata": {"path": str(HERE)}}).execute()
    return notebook


def main(numbers: list[str]) -> None:
    """Execute the notebooks whose numbers are given, or all."""
    for path in texts():
        if not numbers or path.name[0] in numbers:
            nbformat.write(execute(read_text(path)), path.with_suffix(".ipynb"))
            print(path.with_suffix(".ipynb").name)


if __name__ == "__main__":
    main(sys.argv[1:])
