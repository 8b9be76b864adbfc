"""The network as a pure function, under its public name; `mvc.model.functional` has all of its parts."""

from mvc.model.functional import Features as Features, forward as forward
