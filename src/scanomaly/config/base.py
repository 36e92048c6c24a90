"""The base of every configuration model."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Immutable; an unknown field is an error; fields are validated, never coerced silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
