"""The registered data sets, one file each."""

from . import cifar as cifar
from . import digits as digits
from . import imagefolder as imagefolder
from . import mnist as mnist
from . import tabular as tabular
from . import text as text
from . import trees as trees
from . import wordnet as wordnet
