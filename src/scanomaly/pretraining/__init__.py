"""Contrastive pretraining of a small CLIP on simulated images and captions of what they show.

The way through the files: recipe -> simulated -> pairs -> contrastive -> run; then retrieval and
export.
Loads no torch, which processes that only simulate can do without.
"""
