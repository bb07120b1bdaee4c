"""The kernel SVM: the kernels of the paper, on problems whose solution is known, and on digits."""
import builtins

import numpy as np
import pytest

from convnet.baselines import KernelSVM
from convnet.data import Dataset, load


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def kernel_matrix(a, b, svm):
    if svm.kernel == "gaussian":
        return np.exp(-((a[:, None] - b) ** 2).sum(axis=2) / (2 * svm.sigma**2))
    return a @ b.T if svm.kernel == "linear" else (1 + a @ b.T) ** svm.degree


@pytest.mark.parametrize("svm", [
    KernelSVM("gaussian", 2.0, sigma=1.5), KernelSVM("linear", 0.5), KernelSVM("polynomial", 0.1, degree=2),
], ids=repr)
def test_decisions_are_sums_of_the_paper_s_kernels_over_support_vectors(rng, svm):
    """Eq. 45, and the constraints of the dual, Eq. 41-42, with the bound that the soft margin adds."""
    pytest.importorskip("sklearn")
    x = rng.standard_normal((40, 2, 3, 1))
    labels = (x.reshape(40, -1)[:, :2].sum(axis=1) > 0).astype(int)
    machine = svm.fit(x, labels)
    flat, new = x.reshape(40, -1), rng.standard_normal((10, 6))
    a_t = machine.dual_coef_[0]
    expected = kernel_matrix(new, flat[machine.support_], svm) @ a_t + machine.intercept_
    np.testing.assert_allclose(machine.decision_function(new), expected, rtol=1e-9, atol=1e-12)
    assert (a_t * np.where(labels[machine.support_], 1, -1) >= 0).all()
    assert np.abs(a_t).max() <= svm.penalty * (1 + 1e-9)
    assert abs(a_t.sum()) < 1e-9 * np.abs(a_t).sum()


def test_a_linear_machine_on_two_points_is_the_plane_between_them():
    pytest.importorskip("sklearn")
    machine = KernelSVM("linear", 100.0).fit(np.array([[0.0, 0], [2.0, 0]]), np.array([0, 1]))
    np.testing.assert_allclose(machine.decision_function([[1.0, 5], [3, -1]]), [0, 2], atol=1e-9)


def test_on_digits_it_is_a_strong_baseline():
    pytest.importorskip("sklearn")
    result = KernelSVM(penalty=10.0).evaluate(load("digits").subset(per_class=50).prepared())
    assert result.test_error < 0.06
    assert result.train_error <= 0.01
    assert 0 < result.support_vectors <= 500
    assert result.seconds > 0


def test_the_default_width_is_of_the_order_of_the_distances(rng):
    """All distances are sqrt(2 D var) on average, so that the kernel's exponent is about -2."""
    pytest.importorskip("sklearn")
    x = 7 * rng.standard_normal((60, 30))
    machine = KernelSVM().fit(x, rng.integers(0, 2, 60))
    squared = ((x[:, None] - x) ** 2).sum(axis=2)[~np.eye(60, dtype=bool)]
    assert (machine.gamma * squared).mean() == pytest.approx(2, rel=0.1)


def test_constant_images_are_no_division_by_zero():
    pytest.importorskip("sklearn")
    images, labels = np.zeros((4, 2, 2, 1), "float32"), np.array([0, 1, 0, 1])
    result = KernelSVM().evaluate(Dataset("flat", images, labels, images, labels, ("a", "b")))
    assert result.test_error == 0.5


def test_what_is_said_about_bad_options_and_a_missing_package(monkeypatch):
    with pytest.raises(ValueError, match="kernel is 'rbf'; it must be one of linear, gaussian, polynomial"):
        KernelSVM("rbf")
    with pytest.raises(ValueError, match="penalty is 0"):
        KernelSVM(penalty=0)
    with pytest.raises(ValueError, match="sigma is -1"):
        KernelSVM(sigma=-1)
    with pytest.raises(ValueError, match="degree is 0"):
        KernelSVM(degree=0)
    real = builtins.__import__

    def refuse(name, *args, **options):
        if name.split(".")[0] == "sklearn":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        KernelSVM().fit(np.zeros((2, 1)), np.array([0, 1]))
