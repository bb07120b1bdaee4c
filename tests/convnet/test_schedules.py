"""Learning-rate schedules at known points."""
import pytest

from convnet.schedules import Constant, Cosine, Exponential, Step


@pytest.mark.parametrize(("schedule", "rates"), [
    (Constant(), {0: 0.1, 50: 0.1}),
    (Exponential(0.98), {0: 0.1, 1: 0.098, 80: 0.1 * 0.198_648_850}),
    (Step(10, 0.5), {0: 0.1, 9: 0.1, 10: 0.05, 25: 0.025}),
    (Cosine(20), {0: 0.1, 10: 0.05, 5: 0.1 * 0.853_553_390_6, 20: 0.0, 30: 0.0}),
    (Cosine(10, final=0.2), {0: 0.1, 5: 0.06, 10: 0.02, 11: 0.02}),
])
def test_rates(schedule, rates):
    for epoch, rate in rates.items():
        assert schedule(epoch, 0.1) == pytest.approx(rate, rel=1e-6, abs=1e-15)


@pytest.mark.parametrize(("make", "name"), [
    (lambda: Exponential(0.0), "decay"), (lambda: Exponential(1.1), "decay"), (lambda: Step(0), "every"),
    (lambda: Step(2.5), "every"), (lambda: Step(3, 2.0), "factor"), (lambda: Cosine(0), "epochs"),
    (lambda: Cosine(5, -0.1), "final"),
])
def test_options_out_of_range_are_named(make, name):
    with pytest.raises(ValueError, match=name):
        make()
