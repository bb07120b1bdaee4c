"""The papers' tables and figures as experiments: definitions, jobs, statistics and reports.

`convnet.reproduce.definition` says what an experiment is, `convnet.reproduce.reading` reads one and
`convnet.reproduce.scales` makes it smaller. `convnet.reproduce.jobs` says what is to be run for it,
`convnet.reproduce.execution` runs that in processes of its own, and `convnet.reproduce.report` shows what has finished.
"""
