"""The models that MambaVision is compared with, on the scan of `mvc.kernels`."""

from mvc.models.api import VARIANTS as VARIANTS, create_model as create_model
from mvc.models.weights import load_weights as load_weights
