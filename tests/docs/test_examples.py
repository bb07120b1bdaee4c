"""Every code example runs: in README and the pages, in docstrings, and each command line is one that the program takes."""
import doctest
import importlib
import re
import shlex
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from convnet.cli.main import parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")),
         *sorted((ROOT / "docs" / "howto").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(path, *languages):
    return [code for language, code in BLOCK.findall(path.read_text(encoding="utf-8")) if language in languages]


def named(path):
    return str(path.relative_to(ROOT))


def given(path):
    """Return what a page takes for granted: arrays of the reader's own."""
    if path.name != "data.md":
        return {}
    images, labels = np.zeros((4, 6, 6, 1), np.uint8), np.array([0, 1, 0, 1])
    return {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}


# The page on GPUs asks for device="auto", which says so where there is none.
@pytest.mark.filterwarnings("ignore:device 'auto':UserWarning")
@pytest.mark.parametrize("path", [pytest.param(path, id=named(path)) for path in PAGES if blocks(path, "python", "pycon")])
def test_the_python_examples_of_a_page_run_one_after_the_other(path, tmp_path, monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "example", **given(path)}
    for language, code in BLOCK.findall(path.read_text(encoding="utf-8")):
        if language == "python":
            exec(compile(code, named(path), "exec", dont_inherit=True), names)
        elif language == "pycon":
            test = doctest.DocTestParser().get_doctest(code, names, named(path), named(path), 0)
            report = []
            result = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append, clear_globs=False)
            assert result.attempted and not result.failed, "".join(report)
            names.update(test.globs)


def commands(path):
    """Yield the arguments of each ``convnet`` command that a page shows."""
    for code in blocks(path, "sh", ""):
        for line in re.sub(r"\\\n\s*", " ", code).splitlines():
            words = shlex.split(line, comments=True)
            for start, word in enumerate(words):
                if Path(word).name == "convnet":
                    yield words[start + 1:]
                    break


@pytest.mark.parametrize("path", [pytest.param(path, id=named(path)) for path in PAGES if list(commands(path))])
def test_the_commands_of_a_page_are_commands(path):
    for arguments in commands(path):
        found = parser().parse_args(arguments)
        assert callable(found.run)


def modules_with_examples():
    """Yield the names of the modules whose text shows examples."""
    for folder, package in (("convnet", "convnet"), ("layers", "convnet.layers"), ("passes", "convnet.passes")):
        for path in (ROOT / folder).rglob("*.py"):
            if ">>>" in path.read_text(encoding="utf-8"):
                parts = path.relative_to(ROOT / folder).with_suffix("").parts
                yield ".".join([package, *(part for part in parts if part != "__init__")])


DOCUMENTED = sorted(modules_with_examples())


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_examples_of_a_module_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    report = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module):
        runner.run(test, out=report.append)
    assert not runner.summarize(verbose=False).failed, "".join(report)


def test_the_modules_that_are_known_to_have_examples_are_found():
    assert {"convnet.architectures", "convnet.data", "convnet.schedules"} <= set(DOCUMENTED)
