"""Simulated patients with skull and scalp, and the anomalies of visual question answering.

The way through the files: skull -> surface and parts (what changes) -> kinds -> imaging -> simulate
-> dataset.
"""

from scanomaly.data.phantom.heads.dataset import head_style, write_heads, write_question_heads
from scanomaly.data.phantom.heads.kinds import HEAD_KINDS, SEEN, UNSEEN

__all__ = ["HEAD_KINDS", "SEEN", "UNSEEN", "head_style", "write_heads", "write_question_heads"]
