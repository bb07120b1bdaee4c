"""What a battery of checks found: a list of named checks, as a table a person can read."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from convnet.testing.numeric import NotDifferentiableError

# Accepted relative errors: identities hold to rounding, numerical derivatives and float32 have errors of their own.
IDENTITY = 1e-11
COMPLEX_STEP = 1e-12
DIFFERENCES = 1e-7
SINGLE = 2e-4


class CheckError(AssertionError):
    """A layer or an algorithm failed its checks; `report` is the `Report` that says which."""

    def __init__(self, report: Report):
        self.report = report
        lines = "\n".join(f"  {check.violation}" for check in report.failures)
        super().__init__(f"{report.subject}: {len(report.failures)} of {len(report.checks)} checks failed\n{lines}")

    def __reduce__(self):
        return CheckError, (self.report,)


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes
    ----------
    method : str
        The method that is at fault if the check fails.
    name : str
        What must hold.
    error : float or None
        Measured relative error; None for a check that was left out.
    tolerance : float
        Largest error that is accepted; 0 where results must be the same bit for bit.
    note : str
        Where and why, such as the mode of the layer or the reason for leaving the check out.
    """

    method: str
    name: str
    error: float | None
    tolerance: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the check passed or was left out."""
        return self.error is None or self.error <= self.tolerance

    @property
    def violation(self) -> str:
        """The failed check in one line."""
        note = f" ({self.note})" if self.note else ""
        measured = f", relative error {self.error:.1e}, tolerance {self.tolerance:.0e}"
        if self.error == float("inf"):
            measured = ""
        return f"{self.method}: {self.name} violated{measured}{note}"


@dataclass
class Report:
    """The checks of one layer or algorithm. Printed, it is a table with the worst error of each thing that was checked.

    Attributes
    ----------
    subject : str
        What was checked.
    checks : list of Check
    """

    subject: str
    checks: list[Check] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    @property
    def failures(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if not check.ok]

    @property
    def faulty(self) -> list[str]:
        """The methods at fault, each once, in the order of the checks."""
        return list(dict.fromkeys(check.method for check in self.failures))

    def raise_if_failed(self) -> None:
        """Raise `CheckError`, which names what is wrong, unless all is well."""
        if not self.ok:
            raise CheckError(self)

    def add(
        self, method: str, name: str, measure: Callable[[], float], tolerance: float, note: str = "",
        relies_on: Sequence[str] = (),
    ) -> None:
        """Measure an error and add the check. An exception in what is checked fails the check, which then names it.

        A check compares `method` with others. If one of those it `relies_on` is at fault already, it would blame the
        wrong one and is left out.
        """
        for guilty in relies_on:
            if guilty != method and guilty in self.faulty:
                self.skip(method, name, f"needs {guilty}, which is at fault")
                return
        try:
            error = float(measure())
        except NotDifferentiableError as problem:
            error, note = float("inf"), joined(note, str(problem))
        except Exception as problem:
            error, note = float("inf"), joined(note, f"{type(problem).__name__}: {problem}")
        self.checks.append(Check(method, name, error if error == error else float("inf"), tolerance, note))

    def skip(self, method: str, name: str, reason: str) -> None:
        """Add a check that was left out, and why."""
        self.checks.append(Check(method, name, None, 0.0, reason))

    def extend(self, checks: Iterable[Check], note: str) -> None:
        """Add the checks of a part, with `note` before their own."""
        self.checks += [Check(c.method, c.name, c.error, c.tolerance, joined(note, c.note)) for c in checks]

    def worst(self) -> list[Check]:
        """Return one check for each method and thing that must hold: a failed one, or the largest error."""
        groups: dict[tuple[str, str], list[Check]] = {}
        for check in self.checks:
            groups.setdefault((check.method, check.name), []).append(check)
        return [max(group, key=lambda c: (not c.ok, -1.0 if c.error is None else c.error)) for group in groups.values()]

    def __str__(self) -> str:
        rows = [("method", "what must hold", "error", "tolerance", "", "")]
        for check in self.worst():
            error = "-" if check.error is None else "no result" if check.error == float("inf") else f"{check.error:.1e}"
            verdict = "left out" if check.error is None else "ok" if check.ok else "FAILED"
            tolerance = "" if check.error is None else "exact" if check.tolerance == 0 else f"{check.tolerance:.0e}"
            note = "" if verdict == "ok" else check.note
            rows.append((check.method, check.name, error, tolerance, verdict, note))
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        verdict = "all passed" if self.ok else f"{len(self.failures)} FAILED: {', '.join(self.faulty)}"
        return "\n".join([f"{self.subject}: {len(self.checks)} checks, {verdict}", *lines])


def joined(*notes: str) -> str:
    """Return the notes that are not empty, with commas."""
    return ", ".join(note for note in notes if note)
