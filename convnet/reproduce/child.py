"""One job in a process of its own: a job as JSON on standard input, its outcome as JSON on standard output.

The process ends as soon as its standard input is closed, that is when whoever asked for the job is gone.
"""
from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from convnet.algorithms import by_spec
from convnet.experiment import Levels
from convnet.network import Network
from convnet.reproduce.claims import Claim
from convnet.reproduce.jobs import Job
from convnet.reproduce.runs import PartExperiment

# What a child answers whose job another process is at.
TAKEN = {"taken": True}


def perform(job: Job, folder: Path) -> dict[str, Any]:
    """Run a job, or find that it is finished; return how it went.

    Returns
    -------
    dict
        ``problem``, None or why there is no result, with its ``errno`` if it is an OSError's, and ``seconds``.
    """
    start, outcome = time.monotonic(), {"problem": None, "errno": None}
    try:
        experiment = PartExperiment(job.part, folder, job.fold)
        algorithm = by_spec(job.spec)
        validation = job.fold is not None
        try:
            experiment.run(job.spec, algorithm, job.seed, job.levels, validation=validation)
        except (OSError, ValueError):
            if not _finished_without_network(experiment, job, folder):
                raise
            experiment.run(job.spec, algorithm, job.seed, job.levels, validation=validation, again=True)
    # Whatever ends a job is its reason, and must not end those after it.
    except Exception as error:
        outcome = _failure(error)
    return {**outcome, "seconds": time.monotonic() - start}


def _failure(error: Exception) -> dict[str, Any]:
    return {"problem": f"{type(error).__name__}: {' '.join(str(error).split())}",
            "errno": error.errno if isinstance(error, OSError) else None}


def _finished_without_network(experiment: PartExperiment, job: Job, folder: Path) -> bool:
    """Whether the run is finished, but has to be tested again and its network is missing or damaged."""
    from convnet.reproduce.store import Store

    settings = experiment.settings(by_spec(job.spec), job.seed, job.fold is not None)
    for run in Store(folder).runs().get(job.key, []):
        if run.settings == json.loads(json.dumps(settings)) and run.levels not in (job.levels, Levels()):
            try:
                Network.load(run.file.with_suffix(".npz"))
            except (OSError, ValueError):
                return True
    return False


def machine(device: str = "cpu") -> dict[str, Any]:
    """Return where this process runs and what it runs on."""
    import platform

    import convnet
    from convnet import kernels
    from convnet.cli.info import LIBRARIES, version
    from convnet.kernels.threads import default_count

    return {
        "host": platform.node(), "system": platform.platform(), "python": platform.python_version(),
        "processor": _processor(), "cores": os.cpu_count(), "threads": default_count(), "kernels": kernels.cpu().name,
        "gpu": None if device == "cpu" else _gpu(),
        "versions": {"convnet": convnet.__version__, **{name: version(name) for name in LIBRARIES}},
    }


def _gpu() -> str | None:
    """Return the name of the GPU, None where there is none that can be used."""
    from convnet.devices import DeviceError, usable_cupy

    try:
        return usable_cupy().cuda.runtime.getDeviceProperties(0)["name"].decode()
    except DeviceError:
        return None


def _processor() -> str:
    """Return the name of the processor, where the system tells."""
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    """Do the job on standard input, unless another process is at it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    warnings.simplefilter("ignore")
    request = json.loads(sys.stdin.readline())
    job, folder = Job.from_json(request["job"]), Path(request["folder"])
    claim, mine = Claim(folder, job.key), False

    def leave_with_the_parent() -> None:
        sys.stdin.read()
        if mine:
            claim.release()
        os._exit(1)

    threading.Thread(target=leave_with_the_parent, daemon=True).start()
    # Only the outcome goes to standard output.
    answer, sys.stdout = sys.stdout, sys.stderr
    try:
        mine = claim.take()
    except OSError as error:
        outcome = {**_failure(error), "seconds": 0.0, "machine": None}
    else:
        outcome = TAKEN
    if mine:
        outcome = {**perform(job, folder), "machine": machine(job.part.setup.device)}
        claim.release()
    answer.write(json.dumps(outcome))
    answer.flush()
    # The thread that waits on standard input would keep the interpreter from ending in order.
    os._exit(0)


if __name__ == "__main__":
    main()
