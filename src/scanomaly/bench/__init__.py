"""The benchmark: tables as data, their cells as jobs, a grid that survives crashes, comparisons.

The way through the files: tables -> planning (cells to jobs) -> grid (jobs through an executor) ->
execution (one job to its result) -> comparison.
"""
