"""The site builds without a warning, has a page for everything that is exported, and is spelt correctly."""
import re
import subprocess
import sys
from pathlib import Path

import pytest

import convnet.layers
import convnet.passes
from convnet.layers import Layer
from convnet.passes import Algorithm

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for name in ("sphinx", "myst_nb", "furo"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-E", "-d", str(folder / "doctrees"), str(ROOT / "docs"),
         str(folder / "html")], capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    return folder / "html"


@pytest.mark.slow
def test_the_site_builds_with_warnings_as_errors(site):
    assert (site / "index.html").is_file()
    assert len(list((site / "notebooks").glob("*.html"))) == len(list((ROOT / "notebooks").glob("*.ipynb")))


@pytest.mark.slow
@pytest.mark.parametrize(("package", "kind"), [(convnet.layers, Layer), (convnet.passes, Algorithm)])
def test_every_exported_layer_and_algorithm_has_a_page_with_its_docstring(site, package, kind):
    classes = [getattr(package, name) for name in package.__all__]
    classes = [cls for cls in classes if isinstance(cls, type) and issubclass(cls, kind)]
    assert len(classes) > 10 or kind is Algorithm
    named = ("Algorithm", "Penalty")  # what algorithms are made of stands on the page about passes
    for cls in (cls for cls in classes if cls.__name__ not in named):
        page = site / "reference" / "generated" / f"{cls.__module__}.{cls.__name__}.html"
        text = page.read_text(encoding="utf-8")
        assert f'id="{cls.__module__}.{cls.__name__}"' in text


def test_the_links_between_pages_lead_to_files_of_the_repository():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "howto").glob("*.md")]
    # What the build of the site copies into docs is no file of the repository.
    copied = ROOT / "docs" / "notebooks", ROOT / "docs" / "timings.md"
    for page in pages:
        for link in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
            target = (page.parent / link).resolve()
            assert target.exists() and not {target, target.parent} & set(copied), f"{page}: {link}"


@pytest.mark.slow
def test_links_to_notebooks_lead_to_their_pages(site):
    assert 'href="notebooks/4_loss_ibp.html"' in (site / "mathematics.html").read_text(encoding="utf-8")


def test_the_spelling_is_clean():
    pytest.importorskip("codespell_lib")
    paths = [str(path) for folder, ending in ((".", "*.md"), ("docs", "*.md"), ("docs/howto", "*.md"), ("docs/reference", "*.md"),
                                              ("notebooks", "*.py")) for path in sorted((ROOT / folder).glob(ending))]
    found = subprocess.run([sys.executable, "-m", "codespell_lib", *paths], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout
