"""Backbones, one file each, ending with their registered sizes; a new file needs no line here."""

from ..registry import import_parts
from .gpt import GPT as GPT
from .poincare_embedding import NodeEmbedding as NodeEmbedding

import_parts(__name__, __path__)
