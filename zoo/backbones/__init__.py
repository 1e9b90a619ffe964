"""Backbones, one file each, ending with their registered sizes."""

from . import gpt as gpt
from . import hyperbolic_head as hyperbolic_head
from . import lipschitz_mlp as lipschitz_mlp
from . import lipschitz_resnet as lipschitz_resnet
from . import mlp as mlp
from . import poincare_embedding as poincare_embedding
from . import poincare_mlp as poincare_mlp
from . import poincare_resnet as poincare_resnet
from . import resnet as resnet
from . import self_attention as self_attention
from . import timm_vit as timm_vit
from . import vit as vit
from .gpt import GPT as GPT
from .poincare_embedding import NodeEmbedding as NodeEmbedding
