"""The designs that the paper compares: four mixers, and six placements of attention, one of them the published model.

Source: MambaVision (arXiv 2407.08083), the ablation studies of the mixer and of the hybrid pattern. In the paper's
patterns S is self-attention and M a mixer.
"""

from __future__ import annotations

import dataclasses

import torch

from mvc import MambaVision, create_model
from mvc.errors import UserError
from mvc.model.config import MambaVisionConfig, get_config

PUBLISHED = "published"  # concat and last half: the model that both studies share


@dataclasses.dataclass(frozen=True)
class Design:
    """One model of a study.

    Attributes:
        name: for people and for `--only`.
        studies: those that it belongs to.
        paper: its top-1 on ImageNet-1K in the paper, in per cent.
        mixer, attention: fields of `MambaVisionConfig`. "random" is drawn anew for each seed.
    """

    name: str
    studies: tuple[str, ...]
    paper: float
    mixer: str = "concat"
    attention: str = "last_half"

    def changes(self, seed: int = 0) -> dict[str, str]:
        """The fields in which it differs from the published model, or may."""
        attention = f"random:{seed}" if self.attention == "random" else self.attention
        return {"mixer": self.mixer, "attention": attention}


MIXERS, PLACEMENTS = "mixers", "placements"
STUDIES = (MIXERS, PLACEMENTS)
DESIGNS = {
    design.name: design
    for design in (
        Design("causal", (MIXERS,), 80.5, mixer="causal"),
        Design("regular", (MIXERS,), 80.9, mixer="regular"),
        Design("gated", (MIXERS,), 81.3, mixer="gated"),
        Design("random", (PLACEMENTS,), 81.3, attention="random"),
        Design("first half", (PLACEMENTS,), 81.5, attention="first_half"),
        Design("alternate SMSM", (PLACEMENTS,), 81.4, attention="alternate_am"),
        Design("alternate MSMS", (PLACEMENTS,), 81.6, attention="alternate_ma"),
        Design("last quarter", (PLACEMENTS,), 81.9, attention="last_quarter"),
        Design(PUBLISHED, STUDIES, 82.3),
    )
}


def of_study(study: str) -> list[str]:
    """The names of a study's designs, in the order of its table."""
    return [name for name, design in DESIGNS.items() if study in design.studies]


SIDE = 112  # pixels: stage 3 then has 7 x 7 tokens, and stage 4 has 4 x 4
WINDOWS = (7, 4)  # the whole map: none of a window's tokens is padding


def small(name: str, *, classes: int, dim: int, seed: int) -> MambaVisionConfig:
    """T's depth in stages 3 and 4, of which halves and quarters are studied, at a width that a CPU trains in a minute.

    Args:
        classes: class scores.
        dim: channels of stage 1, a multiple of 4.
        seed: draws the random placement.
    """
    return get_config(
        "T",
        name=f"small {name}",
        depths=(1, 1, 8, 4),
        num_heads=(1, 1, 4, 8),
        window_sizes=WINDOWS,
        dim=dim,
        stem_dim=dim // 2,
        drop_path_rate=0.0,
        image_size=SIDE,
        crop_mode="squash",
        num_classes=classes,
        **DESIGNS[name].changes(seed),
    )


def create_full(
    variant: str, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> MambaVision:
    """A variant at its full size with a design; also a builder for `mvc.offline`.

    Args:
        variant: the variant's name, a space, and the design's name, as "T first half".

    Raises:
        UserError: an unknown variant or design.
    """
    base, _, name = variant.partition(" ")
    if name not in DESIGNS:
        raise UserError(f"variant is {variant!r}; after the variant's name must stand one of {', '.join(DESIGNS)}")
    return create_model(base, device=device, dtype=dtype, **DESIGNS[name].changes())
