"""The figures of `sequence`: a table foretells as a network does."""

from storyzoo.reports.figures.sequence import figures

__all__ = ["figures"]
