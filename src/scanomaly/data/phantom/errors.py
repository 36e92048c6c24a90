"""Errors of the phantom; the command line shows them as one line."""

from scanomaly.errors import DataError


class PhantomError(DataError, ValueError):
    """The phantom cannot be made or written as asked."""


class AnatomyMissingError(DataError, ImportError):
    """The MNI152 maps that come with nilearn are not there."""
