"""What hangs on the training loop without being part of it, one idea a file."""

from .base import Callback as Callback
from .base import TrainingRun as TrainingRun
from .base import callbacks as callbacks
from .ema import EMA as EMA
from .geometry import Geometry as Geometry
from .lowrank import LowRankTraining as LowRankTraining
from .margin import MarginLoss as MarginLoss
from .reconstruction import Reconstruction as Reconstruction
from .sample import Sample as Sample
