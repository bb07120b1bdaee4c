"""The whole battery for layers and algorithms, as a table: what ``convnet gradcheck`` shows."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from convnet.testing import Check, Report, check_algorithm, check_layer
from convnet.testing.cases import LAYERS, algorithms

# What the columns of errors gather, by a word in the check's name; the last one takes the rest.
KINDS: dict[str, Callable[[Check], bool]] = {
    "differences": lambda check: "differences" in check.name,
    "float32": lambda check: "float32" in check.name,
    "identities": lambda check: True,
}


@dataclass(frozen=True)
class Subject:
    """Something to be checked: a layer or an algorithm, its name, and how."""

    kind: str
    name: str
    check: Callable[[], Report]


def subjects(words: Sequence[str] = ()) -> list[Subject]:
    """Return all layers and algorithms, or those in whose kind or name one of `words` occurs.

    Raises
    ------
    ValueError
        If a word occurs nowhere.
    """
    found = [Subject("layer", name, lambda case=case: check_layer(  # type: ignore[misc]
        case.make, case.input_shape, complex_input=case.complex_input, raise_on_failure=False))
        for name, case in LAYERS.items()]
    found += [Subject("algorithm", name, lambda algorithm=algorithm: check_algorithm(  # type: ignore[misc]
        algorithm, raise_on_failure=False)) for name, algorithm in algorithms().items()]
    texts = [f"{subject.kind} {subject.name}".lower() for subject in found]
    for word in words:
        if not any(word.lower() in text for text in texts):
            raise ValueError(f"no layer or algorithm has {word!r} in its name; run without names to see all")
    return [subject for subject, text in zip(found, texts, strict=True)
            if not words or any(word.lower() in text for word in words)]


def lines(chosen: Iterable[Subject], verbose: bool = False) -> Iterator[tuple[str, bool]]:
    """Check the subjects and yield the table line by line, each with whether what it is about is correct.

    Parameters
    ----------
    chosen : iterable of Subject
    verbose : bool
        Whether to give the full report of each; of those that fail it is given anyway.
    """
    chosen = list(chosen)
    width = max(len(subject.name) for subject in chosen)
    columns = "  ".join(name.rjust(11) for name in KINDS)
    yield f"{'':{width + 19}}  {'largest relative error'.center(len(columns))}", True
    yield f"{'':9}  {'':{width}}  checks  {columns}", True
    for subject in chosen:
        report = subject.check()
        errors = "  ".join(f"{error:11.1e}" for error in largest_errors(report).values())
        verdict = "ok" if report.ok else f"FAILED: {', '.join(report.faulty)}"
        yield f"{subject.kind:9}  {subject.name:{width}}  {len(report.checks):6}  {errors}  {verdict}", report.ok
        if verbose or not report.ok:
            yield "\n".join(f"    {line}" for line in str(report).splitlines()) + "\n", True


def largest_errors(report: Report) -> dict[str, float]:
    """Return the largest error of each kind of check; 0 for a kind that did not occur."""
    found = dict.fromkeys(KINDS, 0.0)
    for check in report.checks:
        kind = next(name for name, belongs in KINDS.items() if belongs(check))
        found[kind] = max(found[kind], check.error or 0.0)
    return found
