"""Data sets by name, each three folds of samples that are a function of their keys."""

from . import sets as sets
from .counter_random import counter_key as counter_key
from .counter_random import counter_uniform as counter_uniform
from .data_set import IGNORE as IGNORE
from .data_set import Fold as Fold
from .data_set import Graph as Graph
from .data_set import Key as Key
from .data_set import Splits as Splits
from .data_set import data_sets as data_sets
from .fold_storage import ArrayFold as ArrayFold
from .fold_storage import FileFold as FileFold
from .fold_storage import TokenFold as TokenFold
from .loader import Batches as Batches
from .loader import check_folds as check_folds
from .loader import check_shares as check_shares
from .loader import loader as loader
from .loader import needs_shuffling as needs_shuffling
from .relations import RelationFold as RelationFold
from .shards import ShardFold as ShardFold
from .shards import write_shards as write_shards
