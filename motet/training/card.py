"""The model card of a router: its README.md.

Owns: what a card says.
Does not know: how any of it was found out.
"""

from __future__ import annotations

from motet.training.evaluate import Evaluation
from motet.training.experts import Experts
from motet.training.methods import METHODS, Method
from motet.training.options import TrainingOptions

_TITLES = {
    Method.METEORA: "MeteoRA (arXiv:2405.13053): a gate for each of the seven projections",
    Method.LORA_MIXER: "LoRA-Mixer (arXiv:2507.00029): a gate for each attention projection",
    Method.ARROW: "Arrow (arXiv:2405.11157): gates that follow from the experts, not trained",
}


def write_card(options: TrainingOptions, experts: Experts, measured: Evaluation | None) -> None:
    """Write README.md into the router's directory."""
    (options.out / "README.md").write_text(
        render_card(options, experts, measured), encoding="utf-8"
    )


def render_card(options: TrainingOptions, experts: Experts, measured: Evaluation | None) -> str:
    """The card, as Markdown."""
    sections = [
        _head(options),
        _experts(experts),
        "" if measured is None else _quality(measured),
        _training(options),
        _SERVING.format(name=options.out.name),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(options: TrainingOptions) -> str:
    return "\n".join(
        [
            "---",
            f"base_model: {options.base_name}",
            "pipeline_tag: text-generation",
            "tags:",
            "- lora",
            "- routing",
            "---",
            "",
            f"# {options.out.name}",
            "",
            f"A router over LoRA adapters of {options.base_name}: for every token and projection "
            f"it chooses {options.used_top_k} of them. {_TITLES[options.method]}.",
        ]
    )


def _experts(experts: Experts) -> str:
    rows = [f"| {n} | `{d}` |" for n, d in zip(experts.names, experts.digests, strict=True)]
    return "\n".join(["## Experts", "", "| name | digest |", "|---|---|", *rows])


def _quality(measured: Evaluation) -> str:
    """Tables of the shares that were measured."""
    lines = [
        "## Quality",
        "",
        "Greedy answers to held-out examples, in float32, with the gates as they are stored: "
        "share of answers that equal the one expected.",
    ]
    if measured.routed_over_all is not None and measured.named_over_all is not None:
        lines += ["", "| task | right adapter named | routed, none named |", "|---|---|---|"]
        lines += [
            f"| {task} | {measured.named[task]:.0%} | {share:.0%} |"
            for task, share in measured.routed.items()
        ]
        lines.append(f"| all | {measured.named_over_all:.1%} | {measured.routed_over_all:.1%} |")
    if measured.composite is not None:
        name, best = max(measured.composite_named.items(), key=lambda item: item[1])
        lines += [
            "",
            "Several questions of different tasks in one prompt, answered in one generation; "
            "share of all questions that are answered right:",
            "",
            "| | right |",
            "|---|---|",
            f"| routed | {measured.composite:.1%} |",
            f"| best single adapter ({name}) | {best:.1%} |",
        ]
    lines += [
        "",
        f"The highest gate is the one of the token's task in {measured.agreement:.0%} of all "
        "(token, projection) pairs.",
    ]
    return "\n".join(lines)


def _training(options: TrainingOptions) -> str:
    if not METHODS[options.method].is_trained:
        return "## How it was made\n\nBy `motet train-router --method arrow`, without training."
    assert options.data is not None  # options without it are refused
    recipe = options.recipe
    losses = ["cross-entropy of the answers"]
    if options.learns_prompts:
        losses = ["cross-entropy of prompts and answers"]
    if recipe.label_weight:
        losses.append(f"{recipe.label_weight:g} x cross-entropy of each gate's label")
    if recipe.balance or recipe.entropy:
        losses.append(
            f"{recipe.balance:g} x balance - {recipe.entropy:g} x entropy of the gates' shares"
        )
    told = f", the first {recipe.num_told_steps} on labels alone" if recipe.num_told_steps else ""
    rows = {
        "data": f"`{options.data.name}`",
        "trained": "the gates; base and adapters stay as they are",
        "loss": " + ".join(losses),
        "training": f"{recipe.num_steps} steps of at most {options.tokens_per_step} tokens{told}; "
        f"AdamW, peak rate {recipe.peak_rate:g}, base in {options.dtype}",
        "seed": str(options.seed),
        "top_k, temperature": f"{options.used_top_k}, {options.temperature:g}",
    }
    table = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["## How it was made", "", "| | |", "|---|---|", *table])


_SERVING = """## Serving it

The adapters must be known to the server by the names above, with these digests. Then the router
is a model like any other:

```sh
curl http://localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{{"model": "{name}", "messages": [{{"role": "user", "content": "..."}}]}}'
```"""
