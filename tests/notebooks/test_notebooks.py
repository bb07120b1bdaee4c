"""The notebooks: their text and their outputs belong together, and every claim and every solution still holds."""
import importlib.util
import math
import re
from pathlib import Path

import pytest

pytest.importorskip("jupytext")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

import nbformat

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
spec = importlib.util.spec_from_file_location("execute_notebooks", FOLDER / "execute.py")
notebooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(notebooks)

TEXTS = notebooks.texts()
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
# Printed numbers may differ by rounding from machine to machine; those below the limit are rounding errors themselves.
RELATIVE, ROUNDING = 0.02, 1e-5


def printed(cell):
    """Return what a cell printed, and how many figures it drew."""
    outputs = cell.get("outputs", ())
    text = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    return text, sum("image/png" in output.get("data", ()) for output in outputs)


def same_text(found, stored):
    """Whether two printed texts agree, numbers up to rounding."""
    if NUMBER.sub("#", re.sub(" +", " ", found)) != NUMBER.sub("#", re.sub(" +", " ", stored)):
        return False
    pairs = zip(map(float, NUMBER.findall(found)), map(float, NUMBER.findall(stored)), strict=True)
    return all(math.isclose(a, b, rel_tol=RELATIVE, abs_tol=ROUNDING) for a, b in pairs)


def without_solutions(executed):
    return [cell for cell in executed.cells if cell.id.count("-") == 1]


def test_there_are_seven_notebooks_and_no_file_without_its_twin():
    assert [path.name[0] for path in TEXTS] == list("1234567")
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in TEXTS}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_text_and_notebook_have_the_same_cells_and_every_cell_was_run_in_order(path):
    text, notebook = notebooks.read_text(path), nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [(cell.cell_type, cell.source) for cell in text.cells]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum(printed(cell)[1] for cell in code) >= 1
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    assert not [output for cell in code for output in cell.outputs if output.get("name") == "stderr"]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_every_notebook_has_exercises_whose_solutions_can_be_unfolded(path):
    exercises = notebooks.read_text(path).cells[-1].source.split("## Exercises")[1]
    count = len(re.findall(r"^\*\*\d\.\*\*", exercises, re.MULTILINE))
    assert count >= 3
    assert exercises.count("<details><summary>Solution</summary>") == exercises.count("</details>") == count
    assert len(notebooks.SOLUTION.findall(exercises)) == count


@pytest.mark.slow
@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_a_fresh_run_with_the_solutions_gives_what_is_stored(path):
    stored = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    # A claim that no longer holds is an assertion that raises here.
    executed = notebooks.execute(notebooks.with_solutions(notebooks.read_text(path)))
    for new, old in zip(without_solutions(executed), stored.cells, strict=True):
        (text, figures), (old_text, old_figures) = printed(new), printed(old)
        assert same_text(text, old_text), f"{text}\n--- but stored is ---\n{old_text}"
        assert figures == old_figures


@pytest.mark.parametrize(("found", "stored", "same"), [
    ("error 5.31 %", "error 5.30 %", True), ("error 5.3 %", "error 6.3 %", False), ("a 1", "b 1", False),
    ("3e-13", "8e-12", True), ("-0.5", "0.5", False), ("1  2", "1 2", True), ("1 2", "1", False),
])
def test_texts_are_compared_up_to_rounding(found, stored, same):
    assert same_text(found, stored) == same
