"""The GPU benchmark runs from end to end on a stand-in for CuPy; its figures mean nothing there."""
import json

import numpy as np
import pytest

from benchmarks import gpu, instructions
from convnet import architectures


def test_the_benchmark_runs(cupy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "peers", lambda *args: {"torch eager": 0.25})
    gpu.main(["--networks", "digits", "--algorithms", "bp,loss-ibp", "--batches", "8", "--images", "20", "--epochs", "1",
              "--size", "32", "--json", str(tmp_path / "found.json")])
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["algorithm"] for row in found["rows"]] == ["bp", "loss-ibp"]
    for row in found["rows"]:
        assert row["refusals"] == {} and row["launches"] > 20 and row["torch eager"] == 0.25
        assert row["floors"]["operations"] == row["operations"] / found["bounds"]["rate"] > 0
        assert f"| digits | 8 | {row['algorithm']} |" in printed
    # The third pass and one more pass down to the input.
    assert found["rows"][1]["operations"] > 1.2 * found["rows"][0]["operations"]


def test_products_are_shown_with_all_their_ways():
    shown = gpu.products({"b": {"own": 1e-6, "cublas": 2e-6}, "a": {"own": 3e-6, "own, large tiles": 2.5e-6}})
    assert shown.splitlines()[2:] == ["| a | 3.0 | 2.5 | – |", "| b | 1.0 | – | 2.0 |"]


def test_the_loops_that_multiply_are_found_in_assembly():
    def line(address, what):
        return f"        /*{address:04x}*/                   {what} ;                /* 0x000 */\n"

    body = "".join(line(16 * k, "FFMA R1, R2, R3, R1" if k % 2 else "LDS.128 R4, [R5]") for k in range(1, 301))
    other = line(0, "@!P0 BRA 0x2000") + line(16, "IADD3 R1, R1, 0x1, RZ") + line(32, "@P1 BRA 0x10")
    assembly = f"Function : product\n{line(0, 'MOV R1, R2')}{body}{line(16 * 301, '@P0 BRA 0x10')}\nFunction : other\n{other}"
    assert instructions.loops(assembly) == [("product", 301, 150)]


def test_it_says_that_there_is_no_device(monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "CuPy cannot be imported" in capsys.readouterr().err


@pytest.mark.slow
def test_pytorch_epochs_train():
    pytest.importorskip("torch")
    from benchmarks.torch_gpu import TorchEpochs

    net = architectures.build("digits", (8, 8, 1), 10)
    epochs = TorchEpochs(net, "loss-ibp", (8, 8, 1), 8, 20, channels_last=True, graph=False, device="cpu")
    before = [p.detach().numpy().copy() for p in epochs._full.module.parameters()]
    epochs.epoch()
    changed = [np.abs(p.detach().numpy() - b).max() for p, b in zip(epochs._full.module.parameters(), before, strict=True)]
    assert min(changed) > 0 and len(epochs._full.x) == 8
