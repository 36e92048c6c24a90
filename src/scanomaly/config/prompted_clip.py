"""A frozen CLIP that is only asked, with MVFA's prompts: what no training gives."""

from typing import Self

from pydantic import Field

from scanomaly.config.clip import SidedClipConfig
from scanomaly.config.mvfa import words_for


class PromptedClipConfig(SidedClipConfig):
    """The CLIP of MVFA and IQE-CLIP, without either."""

    object: str | None = Field(default=None, min_length=1)
    """What the images show, in the words of the prompts. None: filled from the data set's name."""
    scale: float = Field(default=100.0, gt=0)
    """Of the cosines with text (MVFA specification, section 6)."""

    @property
    def learns(self) -> bool:
        return False

    def for_dataset(self, name: str) -> Self:
        """With the words of that data set, unless words of one's own were given."""
        return self.model_copy(update={"object": words_for(name, self.object)})
