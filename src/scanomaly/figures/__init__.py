"""A fitted detector's embeddings as t-SNE figures, before and after adaptation."""

from scanomaly.figures.write import write_figures

__all__ = ["write_figures"]
