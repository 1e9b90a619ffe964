"""Data sets by name, each three folds of samples that are a function of their keys."""

from . import cifar as cifar
from . import digits as digits
from . import imagefolder as imagefolder
from . import mnist as mnist
from . import tabular as tabular
from . import text as text
from . import trees as trees
from . import wordnet as wordnet
from .counter import counter_key as counter_key
from .counter import counter_uniform as counter_uniform
from .folds import ArrayFold as ArrayFold
from .folds import FileFold as FileFold
from .folds import TokenFold as TokenFold
from .loader import Batches as Batches
from .loader import check_folds as check_folds
from .loader import loader as loader
from .relations import RelationFold as RelationFold
from .splits import Fold as Fold
from .splits import Key as Key
from .splits import Splits as Splits
from .splits import data_sets as data_sets
