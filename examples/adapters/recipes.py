"""How each example adapter is shaped and trained. The shapes differ on purpose.

Together they cover what a server meets: ranks from 4 to 32 and not only powers of two, attention
alone, MLP alone, all seven projections, upper layers alone, rsLoRA scaling, and ranks that differ
by module and by layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from peft import LoraConfig

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Recipe:
    """Shape of one adapter and the length of its training."""

    rank: int
    alpha: int
    modules: tuple[str, ...]
    num_steps: int
    peak_lr: float
    use_rslora: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, int] = field(default_factory=dict)
    examples_per_step: int = 8
    layers: tuple[int, ...] | None = None

    def lora_config(self, base_model_name: str) -> LoraConfig:
        """The PEFT configuration of this adapter."""
        return LoraConfig(
            base_model_name_or_path=base_model_name,
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=sorted(self.modules),
            use_rslora=self.use_rslora,
            rank_pattern=dict(self.rank_pattern),
            alpha_pattern=dict(self.alpha_pattern),
            layers_to_transform=list(self.layers) if self.layers else None,
            lora_dropout=0.0,
            bias="none",
        )


RECIPES = {
    "iso-dates": Recipe(rank=8, alpha=16, modules=ATTENTION, num_steps=160, peak_lr=2e-3),
    "json-extract": Recipe(rank=4, alpha=8, modules=ATTENTION + MLP, num_steps=120, peak_lr=2e-3),
    "number-words": Recipe(rank=8, alpha=16, modules=MLP, num_steps=240, peak_lr=2e-3),
    "text-to-sql": Recipe(
        rank=16, alpha=8, modules=ATTENTION, num_steps=140, peak_lr=2e-3, use_rslora=True
    ),
    "ticket-label": Recipe(
        rank=16,
        alpha=32,
        modules=("q_proj", "v_proj"),
        num_steps=140,
        peak_lr=2e-3,
        layers=tuple(range(12, 30)),
    ),
    "vcard": Recipe(
        rank=6,
        alpha=12,
        modules=ATTENTION + MLP,
        num_steps=140,
        peak_lr=2e-3,
        rank_pattern={"q_proj": 12, "k_proj": 4, "layers.29.mlp.down_proj": 20},
        alpha_pattern={"q_proj": 24, "k_proj": 8, "layers.29.mlp.down_proj": 20},
    ),
    "durations": Recipe(
        rank=32, alpha=32, modules=("q_proj", "v_proj", "o_proj"), num_steps=160, peak_lr=2e-3
    ),
}
