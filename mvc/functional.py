"""The network as pure functions, under their public name."""

from mvc.model.functional import forward as forward, forward_features as forward_features
from mvc.model.network import Features as Features
