"""What is installed is what is here, and importing it is light."""
import configparser
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_package_is_installed():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "convnet").rglob("__init__.py")}
    found |= {f"convnet.{name}" for name in ("layers", "passes")}
    assert found == listed


def test_importing_is_light():
    code = "import sys, convnet; print([m for m in ('numba', 'matplotlib', 'scipy', 'tqdm', 'cupy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout == "[]\n"


def test_an_own_layers_module_does_not_break_the_package(tmp_path):
    (tmp_path / "layers.py").write_text("raise RuntimeError('not this one')\n")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import convnet.layers, convnet.passes"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True)


def test_the_public_names_are_there():
    import convnet

    for name in convnet.__all__:
        assert getattr(convnet, name) is not None
    assert set(convnet.__all__) <= set(dir(convnet))
