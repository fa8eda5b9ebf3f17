"""What every block of settings is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cclm.config.paths import expand_home

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
"""Weight of the past in a running mean."""
Count = Annotated[int, Field(gt=0)]
Location = Annotated[str, AfterValidator(expand_home)]
"""A path or a URL. `~` at the start of a path is replaced by the home folder."""


class Settings(BaseModel):
    """Base of all blocks of settings. They are immutable, and a key that is not a field is an error.

    The docstring under a field is its documentation, with the unit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
