"""Timings: of our steps against a peer's in the same run, and of what a step is made of."""
