"""Jobs in processes of their own, on this machine or on a Dask cluster, both through joblib.

A process that is killed is the loss of one job, which is reported and done again by the next call, from its last epoch on.
"""
from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from convnet.reproduce.jobs import Job

# How long to wait for a scheduler, and for its first worker.
_CONNECT_SECONDS, _WORKER_SECONDS = 5, 20


class SchedulerError(OSError):
    """The scheduler of a cluster cannot be reached, has no workers, or went away."""


def isolated(job: Job, folder: str, threads: int | None) -> tuple[str, dict[str, Any]]:
    """Do a job in a child process and return its key and how it went.

    Parameters
    ----------
    job : Job
    folder : str
        The store.
    threads : int or None
        CONVNET_NUM_THREADS of the child; None leaves what this process has, or this worker's share of the machine.
    """
    count = str(threads or _share())
    environment = {**os.environ, "CONVNET_NUM_THREADS": count, "OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count,
                   "MKL_NUM_THREADS": count, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([sys.executable, "-m", "convnet.reproduce.child"], env=environment, stderr=errors,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({"job": job.to_json(), "folder": folder}).encode() + b"\n")
            process.stdin.flush()
            # Standard input stays open: its end would tell the child that nobody waits for it.
            answer = process.stdout.read()
        except BrokenPipeError:
            answer = b""
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.stdout.close()
            status = process.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines()
    try:
        return job.key, json.loads(answer)
    except ValueError:
        return job.key, {"problem": _why(status, said), "seconds": None, "machine": None}


def _needs(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"{module} is not installed: pip install 'convnet-ibp[cluster]'")


def _share() -> int:
    """Return the threads that a job of this process may have: what is set, else the cores shared by the worker's threads."""
    from convnet.kernels.threads import default_count

    try:
        from distributed import get_worker

        return max(1, default_count() // get_worker().state.nthreads)
    except (ImportError, ValueError):
        return default_count()


def _why(status: int, said: Sequence[str]) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        hint = "; perhaps memory ran out: use fewer --processes" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with status {status}" + (f": {said[-1]}" if said else "")


def run_local(jobs: Sequence[Job], folder: Path, processes: int, threads: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Do jobs in `processes` child processes at a time; yield key and outcome of each as it is done."""
    _needs("joblib")
    from joblib import Parallel, delayed

    # joblib's threads each wait for a child: unlike in a pool of processes, a child that is killed takes no other with it.
    pool = Parallel(n_jobs=processes, backend="threading", batch_size=1, pre_dispatch=processes,
                    return_as="generator_unordered")
    yield from pool(delayed(isolated)(job, str(folder), threads) for job in jobs)


def run_on_cluster(jobs: Sequence[Job], folder: Path, address: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Do jobs on the workers of a Dask scheduler; yield key and outcome of each as it is done.

    The store must be a folder that driver and workers share. A job whose worker is killed goes on on another.

    Raises
    ------
    SchedulerError
        If the scheduler cannot be reached, has no workers, or goes away; what is finished stays finished.
    """
    _needs("joblib")
    _needs("distributed")
    import asyncio
    import concurrent.futures

    from distributed import Client, KilledWorker
    from joblib import Parallel, delayed, parallel_config

    try:
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise SchedulerError(f"no scheduler answers at {address} ({' '.join(str(error).split()) or type(error).__name__}); "
                             "start one with 'dask scheduler', and name its address") from error
    try:
        with parallel_config(backend="dask", client=client, wait_for_workers_timeout=_WORKER_SECONDS):
            pool = Parallel(n_jobs=-1, batch_size=1, pre_dispatch="all", return_as="generator_unordered")
            yield from pool(delayed(isolated)(job, str(folder), None) for job in jobs)
    except (concurrent.futures.CancelledError, asyncio.CancelledError) as error:
        raise SchedulerError(f"the scheduler at {address} went away; what is finished is kept, and the same command goes on "
                             "when it is back") from error
    except TimeoutError as error:
        raise SchedulerError(f"the scheduler at {address} has no workers after {_WORKER_SECONDS} s; start some with "
                             f"'dask worker {address}'") from error
    except KilledWorker as error:
        raise SchedulerError(f"several workers died with the same job ({' '.join(str(error).split())}); what is finished is "
                             "kept, and the same command tries again") from error
    finally:
        client.close(timeout=_CONNECT_SECONDS)
