"""The progress bar of a training run: one bar over all batches, on a terminal only."""
from __future__ import annotations

import sys
import time
from typing import Any

from convnet.history import Epoch

# Seconds between two renewals of the numbers beside the bar.
_INTERVAL = 0.5


class Progress:
    """A bar with loss, penalty, error and time left; nothing at all where it is not shown.

    Parameters
    ----------
    show : bool or None
        None to show it if standard error is a terminal.
    epochs, batches : int
        Epochs of the run, and batches of an epoch.
    done : int
        Epochs that are done already.
    """

    def __init__(self, show: bool | None, epochs: int, batches: int, done: int):
        self._bar: Any = None
        self._epochs, self._next = epochs, 0.0
        if show or (show is None and sys.stderr.isatty()):
            from tqdm import tqdm

            self._bar = tqdm(total=epochs * batches, initial=done * batches, unit="batch", dynamic_ncols=True,
                             leave=False)
            self._bar.set_description_str(f"epoch {min(done + 1, epochs)}/{epochs}")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, totals: Any) -> None:
        """Advance by one batch; `totals` is asked for its means when it is time to show them."""
        if self._bar is None:
            return
        now = time.monotonic()
        if now >= self._next and totals.count:
            self._next = now + _INTERVAL
            loss, penalty, _, error = totals.means()
            self._show(loss, penalty, error)
        self._bar.update()

    def epoch_done(self, record: Epoch) -> None:
        """Show the numbers of a finished epoch."""
        if self._bar is not None:
            self._bar.set_description_str(f"epoch {min(record.epoch + 1, self._epochs)}/{self._epochs}", refresh=False)
            self._show(record.loss, record.penalty, record.training_error, record.test_error)
            self._bar.refresh()

    def _show(self, loss: float, penalty: float, error: float, test_error: float | None = None) -> None:
        test = "" if test_error is None else f", test error {test_error:.2%}"
        self._bar.set_postfix_str(f"loss {loss:.4g}, penalty {penalty:.4g}, error {error:.2%}{test}", refresh=False)
