"""The base of every configuration model."""

from typing import Self

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Immutable; an unknown field is an error; fields are validated, never coerced silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class MethodConfig(Frozen):
    """Everything that decides a detector, besides its training."""

    @property
    def learns(self) -> bool:
        """Whether `fit` looks at images; else healthy ones calibrate and nothing more."""
        return True

    def for_dataset(self, name: str) -> Self:
        """The configuration with everything decided that depends on the data set alone."""
        return self
