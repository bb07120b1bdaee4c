"""The kit for layers is itself tested: with planted faults, which it must find and name."""
import numpy as np
import pytest

from convnet.layers import (
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Layer,
    LeakyReLU,
    MaxPool,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
)
from convnet.layers.batchnorm import Normalize
from convnet.testing import CheckError, check_layer

IMAGE, FLAT = (7, 6, 2), (5,)


def scaled(method, factor=1.001):
    """Return a method that gives `factor` times what `method` gives."""
    def faulty(self, *args, **kwargs):
        result = method(self, *args, **kwargs)
        return {k: factor * v for k, v in result.items()} if isinstance(result, dict) else factor * result
    return faulty


def planted(base, **methods):
    """Return a subclass of `base` with other methods or claims."""
    return type(f"Faulty{base.__name__}", (base,), methods)


# --- 0.1 % off, and the wrong sign, in each method --------------------------------------------------------------------

METHODS = {
    "conv third pass": (Conv, (3, 3), IMAGE, "third_pass"),
    "conv backward": (Conv, (3, 3), IMAGE, "backward"),
    "conv weight gradients": (Conv, (3, 3), IMAGE, "weight_gradients"),
    "dense third pass": (Dense, (4,), FLAT, "third_pass"),
    "dense backward": (Dense, (4,), FLAT, "backward"),
    "dense weight gradients": (Dense, (4,), FLAT, "weight_gradients"),
    "max pooling third pass": (MaxPool, (3, 2), IMAGE, "third_pass"),
    "max pooling backward": (MaxPool, (3, 2), IMAGE, "backward"),
    "sigmoid curvature": (Sigmoid, (), FLAT, "curvature"),
    "tanh curvature": (Tanh, (), IMAGE, "curvature"),
    "softmax curvature": (Softmax, (), FLAT, "curvature"),
    "normalisation curvature": (Normalize, (0.9, 1e-5), IMAGE, "curvature"),
}


@pytest.mark.parametrize("factor", [1.001, -1.0], ids=["0.1 % off", "wrong sign"])
@pytest.mark.parametrize(("base", "options", "shape", "method"), METHODS.values(), ids=METHODS)
def test_factor_in_a_method_is_found_and_the_method_named(base, options, shape, method, factor):
    def faulty(self, *args, **kwargs):
        result = getattr(base, method)(self, *args, **kwargs)
        if result is None:
            return None
        return {k: factor * v for k, v in result.items()} if isinstance(result, dict) else factor * result

    report = check_layer(planted(base, **{method: faulty})(*options), shape, raise_on_failure=False)
    assert report.faulty == [method]


@pytest.mark.parametrize("base", [Sigmoid, Tanh, ReLU, Softmax], ids=lambda base: base.__name__)
def test_shared_method_of_a_symmetric_layer_is_named_for_both_passes_it_serves(base):
    report = check_layer(planted(base, backward=scaled(base.backward))(), FLAT, raise_on_failure=False)
    assert {"third_pass", "backward"} <= set(report.faulty)


def test_forward_off_by_a_factor_contradicts_all_other_methods():
    report = check_layer(planted(Dense, forward=scaled(Dense.forward))(4), FLAT, raise_on_failure=False)
    assert {"third_pass", "backward", "weight_gradients"} <= set(report.faulty)
    assert any(c.name.startswith("Theorem 1") and "needs third_pass" in c.note for c in report.checks)


# --- dropped terms ----------------------------------------------------------------------------------------------------

def test_softmax_without_its_off_diagonal_term():
    faulty = planted(Softmax, backward=lambda self, b, record: record.output * (1 - record.output) * b)
    assert not check_layer(faulty(), FLAT, raise_on_failure=False).ok


def test_softmax_curvature_with_one_of_three_terms_dropped():
    def curvature(self, t, b, record):
        y = record.output
        return self.backward(b * t - (y * t).sum(-1, keepdims=True) * b, record)

    assert check_layer(planted(Softmax, curvature=curvature)(), FLAT, raise_on_failure=False).faulty == ["curvature"]


def test_normalisation_without_the_variance_s_dependence_on_the_input():
    def backward(self, b, record):
        if record.normalized is None:
            return b * record.scale
        return (b - b.mean(axis=(0, 1, 2))) * record.scale

    faulty = check_layer(planted(Normalize, backward=backward)(0.9, 1e-5), IMAGE, raise_on_failure=False).faulty
    assert {"third_pass", "backward"} <= set(faulty)


def test_weight_gradient_without_the_last_sample():
    faulty = planted(Dense, weight_gradients=lambda self, a, b, constant=1.0: Dense.weight_gradients(
        self, a[:-1], b[:-1], constant))
    assert check_layer(faulty(4), FLAT, raise_on_failure=False).faulty == ["weight_gradients"]


def test_curvature_that_is_not_declared():
    report = check_layer(planted(Sigmoid, curved=False)(), FLAT, raise_on_failure=False)
    assert report.faulty == ["curvature"]
    assert "no curvature is declared" in report.failures[0].violation


def test_curvature_that_is_declared_but_missing():
    assert check_layer(planted(Tanh, curvature=Layer.curvature)(), FLAT, raise_on_failure=False).faulty == ["curvature"]


# --- the faults that the papers' own toolbox and its relatives had ----------------------------------------------------

def test_third_pass_that_adds_the_bias():
    faulty = planted(Dense, third_pass=Dense.forward)
    assert check_layer(faulty(4), FLAT, raise_on_failure=False).faulty[0] == "third_pass"


def test_third_pass_that_gives_the_bias_a_gradient():
    faulty = planted(Dense, weight_gradients=lambda self, a, b, constant=1.0: Dense.weight_gradients(self, a, b, 1.0))
    assert check_layer(faulty(4), FLAT, raise_on_failure=False).faulty == ["weight_gradients"]


def test_max_pooling_third_pass_that_picks_by_the_tangents_value():
    def third_pass(self, t, record):
        return self.forward(t, type(record)(False, True))

    report = check_layer(planted(MaxPool, third_pass=third_pass)(3, 2), IMAGE, raise_on_failure=False)
    assert report.faulty == ["third_pass"]


def test_max_pooling_third_pass_that_matches_derivatives_fails_only_on_overlapping_windows():
    # A cell is picked if its derivative equals the pooled one: with overlaps a cell that wins twice holds a sum.
    class ByDerivative(MaxPool):
        def third_pass(self, t, record):
            pooled = 1.0 + np.arange(record.positions.size).reshape(record.positions.shape)
            image = self.backward(pooled, record)
            out = np.zeros(pooled.shape, t.dtype)
            (rows, columns), (down, across) = self.size, self.stride
            for n, p, q, c in np.ndindex(out.shape):
                window = np.s_[n, p * down:p * down + rows, q * across:q * across + columns, c]
                out[n, p, q, c] = t[window][image[window] == pooled[n, p, q, c]].sum()
            return out

    assert check_layer(ByDerivative(2, 2), (4, 4, 1), raise_on_failure=False).ok
    assert "third_pass" in check_layer(ByDerivative(3, 2), (5, 5, 1), raise_on_failure=False).faulty


def test_gradients_divided_by_the_batch_size_inside_the_layer():
    def weight_gradients(self, a, b, constant=1.0):
        return {k: v / len(b) for k, v in Conv.weight_gradients(self, a, b, constant).items()}

    report = check_layer(planted(Conv, weight_gradients=weight_gradients)(2, 3), IMAGE, raise_on_failure=False)
    assert report.faulty == ["weight_gradients"]


def test_derivatives_flushed_to_zero_when_small():
    def backward(self, b, record):
        b = Dense.backward(self, b, record)
        return np.where(abs(b) < 0.2, 0, b)

    assert check_layer(planted(Dense, backward=backward)(4), FLAT, raise_on_failure=False).faulty == ["backward"]


# --- state, randomness, side effects ----------------------------------------------------------------------------------

class StatefulReLU(ReLU):
    def forward(self, x, record):
        self.mask = x > 0
        return np.where(self.mask, x, x.dtype.type(0))

    def backward(self, b, record):
        return np.where(self.mask, b, b.dtype.type(0))


def test_layer_that_keeps_the_mask_to_itself():
    report = check_layer(StatefulReLU(), FLAT, raise_on_failure=False)
    assert {check.name for check in report.failures} >= {"two batches in flight do not disturb each other"}
    assert {"backward", "third_pass"} <= set(report.faulty)


def test_dropout_that_draws_again_on_the_third_pass():
    class Redrawn(Dropout):
        def third_pass(self, t, record):
            record.drawn = getattr(self, "drawn", 0) + 1
            self.drawn = record.drawn
            mask = np.random.default_rng(self.drawn).random(t.shape) >= self.rate
            return t * mask.astype(t.dtype) / (1 - self.rate)

    report = check_layer(Redrawn(0.5), IMAGE, raise_on_failure=False)
    assert "third_pass" in report.faulty and "backward" not in report.faulty
    assert any(c.name == "a pass run twice gives the same" for c in report.failures)


def test_first_pass_that_draws_from_a_generator_of_its_own():
    class Own(Dropout):
        generator = np.random.default_rng(0)

        def forward(self, x, record):
            record.scale = self.generator.choice([0.0, 2.0], x.shape).astype(x.dtype) if record.training else None
            return self.backward(x, record)

    report = check_layer(Own(0.5), FLAT, raise_on_failure=False)
    assert "forward" in report.faulty
    assert any(c.name == "the same draw gives the same output" for c in report.failures)


SIDE_EFFECTS = {
    "backward": lambda self, b, record: np.multiply(b, record.mask, out=b).copy(),
    "third_pass": lambda self, b, record: np.multiply(b, record.mask, out=b).copy(),
}


@pytest.mark.parametrize("method", SIDE_EFFECTS)
def test_pass_that_overwrites_its_argument(method):
    report = check_layer(planted(ReLU, **{method: SIDE_EFFECTS[method]})(), FLAT, raise_on_failure=False)
    assert method in {c.method for c in report.failures if c.name.startswith("arguments")}


def test_forward_that_overwrites_its_input():
    faulty = planted(ReLU, forward=lambda self, x, record: ReLU.forward(self, np.maximum(x, 0, out=x), record).copy())
    report = check_layer(faulty(), FLAT, raise_on_failure=False)
    assert any(c.method == "forward" and c.name.startswith("arguments") for c in report.failures)


def test_weight_gradients_that_change_the_weights():
    def weight_gradients(self, a, b, constant=1.0):
        gradients = Dense.weight_gradients(self, a, b, constant)
        self.parameters["weight"] -= 0.1 * gradients["weight"]
        return gradients

    report = check_layer(planted(Dense, weight_gradients=weight_gradients)(4), FLAT, raise_on_failure=False)
    assert any(c.method == "weight_gradients" and c.name.startswith("arguments") for c in report.failures)


def test_output_in_a_buffer_that_the_next_batch_overwrites():
    class Buffered(Tanh):
        def forward(self, x, record):
            if getattr(self, "buffer", None) is None or self.buffer.shape != x.shape or self.buffer.dtype != x.dtype:
                self.buffer = np.empty_like(x)
            record.output = np.tanh(x)
            self.buffer[...] = record.output
            return self.buffer

    report = check_layer(planted(Buffered, analytic=False)(), FLAT, raise_on_failure=False)
    assert {c.name for c in report.failures} >= {"a result stays as it is while another batch is computed"}


def test_layer_that_casts_to_single_precision():
    faulty = planted(Tanh, forward=lambda self, x, record: Tanh.forward(self, x.astype("float32"), record))
    report = check_layer(faulty(), FLAT, raise_on_failure=False)
    assert "third_pass" in report.faulty
    assert any("drops the imaginary part" in c.note or "ComplexWarning" in c.note for c in report.failures)


def test_layer_that_turns_single_precision_into_double():
    faulty = planted(LeakyReLU, backward=lambda self, b, record: np.where(record.mask, b, np.float64(0.5) * b),
                     forward=lambda self, x, record: LeakyReLU.forward(self, x, record))
    report = check_layer(faulty(0.5), FLAT, raise_on_failure=False)
    assert any("turns single precision into float64" in c.note for c in report.failures)


def test_layer_that_reads_memory_in_its_own_order():
    faulty = planted(Flatten, forward=lambda self, x, record: x.reshape(len(x), -1, order="A"))
    report = check_layer(faulty(), IMAGE, raise_on_failure=False)
    assert any(c.name == "a column-major array is accepted" and c.method == "forward" for c in report.failures)


# --- claims -----------------------------------------------------------------------------------------------------------

def test_false_claim_of_a_symmetric_jacobian():
    report = check_layer(planted(Dense, symmetric_jacobian=True)(5), FLAT, raise_on_failure=False)
    assert report.faulty == ["symmetric_jacobian"]


def test_false_claim_of_linearity():
    report = check_layer(planted(LeakyReLU, linear=True)(), FLAT, raise_on_failure=False)
    assert report.faulty == ["linear"]


def test_wrong_output_shape_is_named_and_nothing_else_is_tried():
    faulty = planted(Flatten, build=lambda self, shape, builder: (7,))
    report = check_layer(faulty(), IMAGE, raise_on_failure=False)
    assert report.faulty == ["forward"]
    assert "declared shape" in report.failures[0].violation and "(3, 84)" in report.failures[0].violation


@pytest.mark.parametrize(("parts", "words"), [
    ({"weight": np.zeros((2, 2))}, "shape"), ({"wheight": np.zeros((5, 4))}, "wheight"),
], ids=["wrong shape", "unknown name"])
def test_weight_gradients_of_wrong_shape_or_name(parts, words):
    faulty = planted(Dense, weight_gradients=lambda self, a, b, constant=1.0: parts)
    report = check_layer(faulty(4, bias=False), FLAT, raise_on_failure=False)
    assert report.faulty == ["weight_gradients"] and words in report.failures[0].note


@pytest.mark.parametrize("method", ["third_pass", "weight_gradients", "curvature", "backward"])
def test_missing_method_is_named(method):
    def missing(self, *args):
        raise NotImplementedError("not written yet")

    base, options = (Tanh, ()) if method == "curvature" else (Dense, (4,))
    report = check_layer(planted(base, **{method: missing})(*options), FLAT, raise_on_failure=False)
    assert method in report.faulty
    assert "NotImplementedError: not written yet" in report.failures[0].violation


# --- how it is used ---------------------------------------------------------------------------------------------------

def test_faulty_layer_inside_a_container_is_named_with_its_place():
    faulty = planted(Sigmoid, curvature=scaled(Sigmoid.curvature))
    layers = Sequential([Dense(4), Residual([Dense(4), faulty()]), Dense(3)])
    report = check_layer(layers, FLAT, raise_on_failure=False)
    assert report.faulty == ["curvature"]
    named = {c.note for c in report.failures if c.note.startswith("in layer")}
    assert named == {f"in layer 1.body.1, FaultySigmoid(), {mode}" for mode in ("training", "inference")}


def test_error_is_an_assertion_that_says_what_is_violated_and_by_how_much():
    faulty = planted(Conv, third_pass=scaled(Conv.third_pass, 1.003))
    words = r"third_pass: J t = differences of forward violated, relative error 3\.0e-03"
    with pytest.raises(AssertionError, match=words) as info:
        check_layer(faulty(2, 3), IMAGE)
    assert isinstance(info.value, CheckError) and not info.value.report.ok
    assert "adjoint identity u·(J t) = (J^T u)·t violated" in str(info.value)


def test_report_is_a_table_with_errors_tolerances_and_reasons():
    report = check_layer(MaxPool(3, 2), IMAGE)
    text = str(report)
    assert report.ok and report.faulty == [] and "all passed" in text
    assert "left out" in text and "MaxPool is not analytic: piecewise linear" in text
    row = next(line for line in text.splitlines() if "adjoint identity" in line)
    assert "ok" in row and "1e-11" in row


def test_layer_is_left_as_it_is_and_functions_are_accepted():
    layer = Dense(4)
    first = check_layer(layer, FLAT)
    assert layer.input_shape is None and not layer.parameters
    assert [c.error for c in check_layer(lambda: Dense(4), FLAT).checks] == [c.error for c in first.checks]


def test_another_seed_is_another_test():
    one, two = (check_layer(Dense(4), FLAT, seed=seed) for seed in (0, 1))
    assert [c.name for c in one.checks] == [c.name for c in two.checks]
    assert [c.error for c in one.checks] != [c.error for c in two.checks]


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: check_layer(Conv(2, 9), IMAGE), ValueError, "larger than the padded image"),
    (lambda: check_layer("Conv", IMAGE), TypeError, "layer must be a layer"),
    (lambda: check_layer(lambda: 3, IMAGE), TypeError, "layer must be a layer"),
    (lambda: check_layer(Dense(4), FLAT, batch=1), ValueError, "batch is 1"),
], ids=["impossible shape", "a name", "a function of something else", "one sample"])
def test_bad_calls(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_layer_of_a_network_is_refused():
    used = Sequential([Dense(4), BatchNorm()])
    from convnet import Network

    Network([used], FLAT)
    with pytest.raises(ValueError, match="already belongs to a network"):
        check_layer(used, FLAT)
