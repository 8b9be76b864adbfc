"""Models as files that run elsewhere: AOTInductor packages, ONNX, exported programs."""

from mvc.export.api import Exported as Exported, export_model as export_model
from mvc.export.loading import load as load
