"""The progress bar of a training run: one bar over all batches, on a terminal only."""
from __future__ import annotations

import sys
import time
from typing import Any

from convnet.history import Epoch

# Seconds between two renewals of the numbers beside the bar.
_INTERVAL = 0.5
_FORMAT = "{desc} {percentage:3.0f}% |{bar:12}| {remaining} left{postfix}"


class Progress:
    """A bar with loss, penalty, error and time left; nothing at all where it is not shown.

    Parameters
    ----------
    show : bool, str or None
        None, or a label, to show it if standard error is a terminal.
    epochs, batches : int
        Epochs of the run, and batches of an epoch.
    done : int
        Epochs that are done already.
    """

    def __init__(self, show: bool | str | None, epochs: int, batches: int, done: int):
        self._bar: Any = None
        self._epochs, self._next = epochs, 0.0
        self._label = f"{show}, " if isinstance(show, str) and show else ""
        if show is True or (show is not False and sys.stderr.isatty()):
            from tqdm import tqdm

            self._bar = tqdm(total=epochs * batches, initial=done * batches, desc=self._text(done), dynamic_ncols=True,
                             leave=False, bar_format=_FORMAT)

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
            self._bar.set_description_str(self._text(record.epoch), refresh=False)
            self._show(record.loss, record.penalty, record.training_error, record.test_error)
            self._bar.refresh()

    def _text(self, done: int) -> str:
        return f"{self._label}epoch {min(done + 1, self._epochs)}/{self._epochs}"

    def _show(self, loss: float, penalty: float, error: float, test_error: float | None = None) -> None:
        test = "" if test_error is None else f", test {test_error:.2%}"
        self._bar.set_postfix_str(f"loss {loss:.4g}, penalty {penalty:.4g}, error {error:.2%}{test}", refresh=False)
