"""A backend of torch.compile for accelerate, which takes the names of its own list alone."""

from __future__ import annotations

from accelerate.utils import DynamoBackend


def add_backend(name: str) -> None:
    """Add a backend's name to those that accelerate, and through it transformers' Trainer, hands to torch.compile."""
    value = name.upper()  # accelerate looks it up in capitals and hands it on in small letters
    if value not in DynamoBackend:  # an enumeration, of which only the map from values can be extended
        member = str.__new__(DynamoBackend, value)
        member._name_ = member._value_ = value
        DynamoBackend._value2member_map_[value] = member
