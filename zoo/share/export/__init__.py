"""Models as files that run without this library: `torch.export` programs and ONNX."""

from .decoding import Decoder as Decoder
from .deployed import deployed as deployed
from .export_model import FORMATS as FORMATS
from .export_model import TOLERANCE as TOLERANCE
from .export_model import Format as Format
from .export_model import export_model as export_model
from .onnx_file import export_onnx as export_onnx
from .program import export_program as export_program
