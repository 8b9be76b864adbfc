"""The network as pure functions, under their public name; `mvc.model.functional` has all of its parts."""

from mvc.model.functional import Features as Features, forward as forward, forward_features as forward_features
