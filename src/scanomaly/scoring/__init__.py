"""Millions of images to Parquet shards: every row exactly once, whatever stops the work."""

from scanomaly.scoring.archive import ScoringOptions, Summary, score_manifest
from scanomaly.scoring.job import ScoringError

__all__ = ["ScoringError", "ScoringOptions", "Summary", "score_manifest"]
