"""A tiny experiment on the digits, and runs that are made up instead of trained."""
import json
import os
import subprocess
import sys
from pathlib import Path

from convnet.experiment import Levels, Run, save_run
from convnet.history import Epoch, History
from convnet.reproduce.runs import identity

ROOT = str(Path(__file__).parents[2])

TINY = """
title = "A tiny experiment"
paper = "001/002"
section = "5.1"
shows = "Table 1"
seeds = 2
folds = 3
turns = 1
figures = ["errors", "learning", "robustness"]
assumptions = ["It is <small>."]
claims = ["IBP is better."]

[setup]
dataset = "digits"
network = "digits"
subset = 60
epochs = 2

[levels]
sigmas = [0.1]

[[algorithm]]
name = "Standard BP"
spec = "bp"
paper.digits = { error = 5.0, deviation = 0.1, seconds = 1.5 }

[[algorithm]]
name = "Loss IBP"
spec = "loss-ibp:norm=1"
coefficient = "beta"
grid = [0.01, 0.1, 1]
paper.digits = { error = 4.0, coefficient = 0.1, seconds = 2.25, significant = true }
"""


def write_tiny(folder, text=TINY):
    """Write the tiny experiment and return its path."""
    path = Path(folder) / "tiny.toml"
    path.write_text(text)
    return path


def made_up(store, job, error, seconds=1.0, problem=None, penalty=0.5, **settings):
    """Write a run of `job` with the given test error into the store, as if it had been trained."""
    epochs = [Epoch(i + 1, 1.0 / (i + 1), penalty, 1.0, 0.5, error, 0.1, seconds) for i in range(job.part.setup.epochs)]
    levels = Levels() if job.fold else job.levels
    found = {**identity(job.part, job.spec, job.seed, job.fold), "data": "d", "kernels": "fast", "version": "0.1.0",
             "device": "cpu", **settings}
    noise = [0.5 if error is None else min(1.0, 2 * error)] * len(levels.sigmas)
    name = f"{job.key}-{settings.get('kernels', '')}"
    run = Run(found, History(epochs), error, levels, noise, [0.5] * len(levels.epsilons), problem,
              store.folder / "runs" / f"{name}.json")
    save_run(run)
    return run


def command(*arguments, cache, **options):
    """Start the command line in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": ROOT, "OPENBLAS_NUM_THREADS": "1", "CONVNET_NUM_THREADS": "1",
                   "CONVNET_KERNELS": "reference", "XDG_CACHE_HOME": str(cache)}
    return subprocess.Popen([sys.executable, "-m", *arguments], env=environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **options)


def contents(folder):
    """Return what is in a store's finished runs, times apart, by the name of the file."""
    found = {}
    for file in (Path(folder) / "runs").glob("*.json"):
        content = json.loads(file.read_text())
        for row in content["history"]:
            del row["seconds"]
        found[file.name] = content
    return found
