"""Both towers of a CLIP through stock open_clip, frozen, from one weight file."""

from scanomaly.backbones.clip.build import Clip, build_clip, check_clip, clip_sizes
from scanomaly.backbones.clip.text import ClipText, tokenize
from scanomaly.backbones.clip.vision import ClipVision

__all__ = ["Clip", "ClipText", "ClipVision", "build_clip", "check_clip", "clip_sizes", "tokenize"]
