"""Weights from PyTorch modules, state dict files and safetensors files give PyTorch's own outputs."""
import builtins
import sys

import numpy as np
import pytest

import convnet
from convnet.layers import (
    BatchNorm,
    ComplexConv,
    Concatenate,
    Conv,
    Deconv,
    Dense,
    Dropout,
    Flatten,
    MaxPool,
    Modulus,
    ReLU,
    Residual,
    ScaleInvariantClassifier,
    Sequential,
)
from convnet.pretrained import arrays_of, load_pretrained

torch = pytest.importorskip("torch")
nn = torch.nn


def network(seed=0, dtype="float64"):
    layers = [
        Conv(4, 3, padding=1), BatchNorm(), ReLU(), MaxPool(2, 2), Deconv(3, (3, 2), stride=2, padding=1), ReLU(),
        Flatten(), BatchNorm(), Dropout(0.5), Dense(7), ReLU(), Dense(5),
    ]
    return convnet.Network(layers, (6, 8, 2), seed=seed, dtype=dtype)


def module(dtype=torch.float64):
    """Return the same architecture, with trained-looking statistics."""
    torch.manual_seed(1)
    made = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.ConvTranspose2d(4, 3, (3, 2), stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(3 * 5 * 6),
        nn.Dropout(0.5), nn.Linear(90, 7), nn.ReLU(), nn.Linear(7, 5),
    ).to(dtype)
    for part in made:
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2)
    return made.eval()


def same_outputs(net, made, shape=(6, 8, 2)):
    x = np.random.default_rng(2).standard_normal((9, *shape))
    with torch.no_grad():
        expected = made(torch.tensor(x).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(net.forward(x), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    np.testing.assert_array_equal(net.predict(x), expected.argmax(axis=1))


def test_a_state_dict_gives_equal_predictions():
    net, made = network(), module()
    load_pretrained(net, made.state_dict())
    same_outputs(net, made)


def test_a_state_dict_file_gives_equal_predictions(tmp_path):
    net, made = network(), module()
    torch.save(made.state_dict(), tmp_path / "weights.pt")
    load_pretrained(net, tmp_path / "weights.pt")
    same_outputs(net, made)


def test_a_safetensors_file_gives_equal_predictions(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    net, made = network(), module()
    safetensors.save_file(made.state_dict(), tmp_path / "weights.safetensors")
    load_pretrained(net, str(tmp_path / "weights.safetensors"))
    same_outputs(net, made)


def test_native_arrays_go_back_and_forth(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    net, other = network(seed=3), network(seed=4)
    safetensors.save_file({**net.parameters, **net.state}, tmp_path / "weights.safetensors")
    load_pretrained(other, tmp_path / "weights.safetensors", layout="native")
    np.testing.assert_array_equal(other.vector, net.vector)


def test_single_precision_weights_are_taken_as_they_are():
    net, made = network(dtype="float32"), module(torch.float32)
    load_pretrained(net, made.state_dict())
    np.testing.assert_array_equal(net.parameters["11.weight"], made[11].weight.detach().numpy().T)


class Branches(nn.Module):
    """A network of paper 004's kind: complex filters beside plain features, then a matrix without bias."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.filters = nn.Conv2d(2, 3, 2, bias=False, dtype=torch.complex128)
        self.body = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()).double()
        self.top = nn.Linear(3 * 20 + 60, 4, bias=False).double()

    def forward(self, x):
        features = self.filters(x.to(torch.complex128)).abs().flatten(1)
        y = self.top(torch.cat([features, (x + self.body(x)).flatten(1)], dim=1))
        return y / y.norm(dim=1, keepdim=True)


def test_names_branches_residuals_and_complex_filters():
    made = Branches()
    layers = [
        Concatenate([
            Sequential([ComplexConv(3, 2), Modulus(), Flatten()]),
            Sequential([Residual([Conv(2, 1), ReLU()]), Flatten()]),
        ]),
        ScaleInvariantClassifier(4, targets="standard"),
    ]
    net = convnet.Network(layers, (5, 6, 2), dtype="float64")
    names = {"0.0.0": "filters", "0.1.0.body": "body", "1": "top"}
    load_pretrained(net, made.state_dict(), names)
    same_outputs(net, made, (5, 6, 2))
    assert np.linalg.norm(net.parameters["1.weight"]) == pytest.approx(2, rel=1e-14)


def test_layers_that_are_not_named_keep_their_weights():
    net, made = network(), module()
    before = net.copy()
    load_pretrained(net, made.state_dict(), {"0": "0", "1": "1"})
    np.testing.assert_array_equal(net.parameters["11.weight"], before.parameters["11.weight"])
    np.testing.assert_array_equal(net.parameters["0.bias"], made[0].bias.detach().numpy())
    np.testing.assert_array_equal(net.state["1.running_variance"], made[1].running_var.numpy())


def unchanged(net, error, match, *args, **options):
    before = net.vector.copy()
    with pytest.raises(error, match=match):
        load_pretrained(net, *args, **options)
    np.testing.assert_array_equal(net.vector, before)


def test_what_does_not_fit_changes_nothing(tmp_path):
    net, state = network(), module().state_dict()
    without = {name: value for name, value in state.items() if name != "4.bias"}
    unchanged(net, ValueError, r"source lacks 4\.bias", without)
    unchanged(net, ValueError, r"source holds 12\.weight, for which", {**state, "12.weight": state["11.weight"]})
    wrong = {**state, "11.weight": state["11.weight"][:, :6]}
    unchanged(net, ValueError, r"'11\.weight' of shape \(5, 6\), here \(6, 5\); needed is \(7, 5\)", wrong)
    unchanged(net, ValueError, "complex", {**state, "0.weight": state["0.weight"] + 0j})
    unchanged(net, ValueError, "unknown layer path '20'", state, {"20": "0"})
    unchanged(net, ValueError, "layout is 'keras'", state, layout="keras")
    unchanged(net, ValueError, "no array of numbers", {"state_dict": state})
    unchanged(net, FileNotFoundError, "there is no file", tmp_path / "nothing.pt")
    (tmp_path / "weights.h5").touch()
    unchanged(net, ValueError, r"must end in \.safetensors", tmp_path / "weights.h5")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_damaged_file_is_named(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"not weights")
    with pytest.raises(ValueError, match=f"weights{suffix} is not a"):
        arrays_of(path)


class Malicious:
    def __reduce__(self):
        return print, ("executed",)


def test_a_file_that_would_run_code_is_refused(tmp_path, capsys):
    torch.save({"a": Malicious()}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="is not a state dict"):
        arrays_of(tmp_path / "weights.pt")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(("suffix", "package"), [(".pt", "torch"), (".safetensors", "safetensors")])
def test_without_the_package_the_message_says_what_to_install(tmp_path, monkeypatch, suffix, package):
    (tmp_path / f"weights{suffix}").touch()
    real = builtins.__import__

    def refuse(name, *args, **options):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"weights\.(pt|safetensors) needs"):
        arrays_of(tmp_path / f"weights{suffix}")
