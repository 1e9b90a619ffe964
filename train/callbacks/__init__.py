"""What hangs on the training loop without being part of it, one idea a file.

A new file needs no line here, but for a public name.
"""

from ...zoo.registry import import_parts
from .beside_teacher import distillations as distillations
from .ema import EMA as EMA
from .feature_radii import Geometry as Geometry
from .hooks import Callback as Callback
from .hooks import TrainingRun as TrainingRun
from .hooks import callbacks as callbacks
from .lowrank_training import LowRankTraining as LowRankTraining
from .margin_loss import MarginLoss as MarginLoss
from .neighbour_ranks import Reconstruction as Reconstruction
from .sample_text import Sample as Sample

import_parts(__name__, __path__)
