"""Errors a user can act on: each says what was expected, what came, and what to do next."""


class ScanomalyError(Exception):
    """Base of every error that the command line shows as one line, without a traceback."""


class DataError(ScanomalyError):
    """A folder, manifest, image or mask cannot be used as it is."""


class ConfigError(ScanomalyError):
    """A preset, option or configuration field is wrong."""


class WeightsError(ScanomalyError):
    """Pretrained weights are missing, corrupted or not those that were asked for."""


class CheckpointError(ScanomalyError):
    """A run folder cannot be loaded: another method, a newer version, or a damaged file."""


class FitError(ScanomalyError):
    """Training cannot start or go on."""


class FitInterrupted(ScanomalyError):  # noqa: N818 - a wish of the user, not a mistake
    """Training was stopped by the user; the last finished epoch is kept and can be resumed."""
