"""`motet train-router`: gates that choose among adapters, learnt from examples.

Owns: this command, and how a run is shown.
Does not know: training (`motet/training/`). This is a process of its own that ends afterwards, so
it may load tensors; it imports what does so only when it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from motet.core.errors import MotetError
from motet.server.model_dir import EMBEDDED_MODEL_NAME, model_dir_for
from motet.training.methods import Method
from motet.training.options import (
    DEFAULT_BALANCE,
    DEFAULT_ENTROPY,
    DEFAULT_LABEL_WEIGHT,
    DEFAULT_STEPS,
    Dtype,
    TrainingOptions,
)

if TYPE_CHECKING:
    from motet.training.evaluate import Evaluation
    from motet.training.fit import StepLosses

_STEPS_BETWEEN_LINES = 20


def train_router(
    method: Annotated[Method, typer.Option(help="How experts are chosen.")],
    experts: Annotated[
        str,
        typer.Option(
            help="Directories of the adapters, separated by commas. The name of a directory is "
            "the expert's, and the task that examples name.",
            metavar="DIR,DIR",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Directory for the router.", metavar="DIR")],
    data: Annotated[
        Path | None,
        typer.Option(help="Examples to learn from; see docs/routing.md.", metavar="FILE.jsonl"),
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(help="Examples to evaluate with.", metavar="FILE.jsonl"),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="The base model: a directory or a hub id.", show_default="the built-in model"
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(min=1, help="Experts of a token.", show_default="the method's"),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of the softmax over the gates.")] = 1.0,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = DEFAULT_STEPS,
    label_weight: Annotated[
        float, typer.Option(min=0, help="meteora: weight of the loss on each token's task.")
    ] = DEFAULT_LABEL_WEIGHT,
    balance: Annotated[
        float, typer.Option(min=0, help="lora_mixer: weight of the loss on uneven use.")
    ] = DEFAULT_BALANCE,
    entropy: Annotated[
        float,
        typer.Option(
            help="lora_mixer: reward for undecided gates, as the paper's formula has it; negative "
            "rewards decided ones, as its text has it."
        ),
    ] = DEFAULT_ENTROPY,
    learn_prompts: Annotated[
        bool, typer.Option("--learn-prompts", help="Learn to predict prompts too.")
    ] = False,
    dtype: Annotated[
        Dtype, typer.Option(help="Of base and adapters in training. bfloat16 needs a CPU with AMX.")
    ] = Dtype.FLOAT32,
    seed: Annotated[int, typer.Option(help="The same seed gives the same router.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")
    ] = False,
) -> None:
    """Train a router over adapters: base and adapters stay as they are, only gates learn."""
    try:
        options = TrainingOptions(
            method=method,
            experts=tuple(Path(each.strip()) for each in experts.split(",") if each.strip()),
            data=data,
            held_out=held_out,
            out=out,
            base=model_dir_for(base),
            base_name=EMBEDDED_MODEL_NAME if base is None else Path(base).name,
            top_k=top_k,
            temperature=temperature,
            steps=steps,
            label_weight=label_weight,
            balance=balance,
            entropy=entropy,
            learns_prompts=learn_prompts,
            dtype=dtype,
            seed=seed,
            resumes=resume,
        )
        measured = _run(options)
    except MotetError as error:
        typer.secho(f"Error: {error.message}", err=True, fg="red")
        raise typer.Exit(1) from None
    _show(options, measured)


def _run(options: TrainingOptions) -> Evaluation | None:
    from transformers.utils.logging import disable_progress_bar

    from motet.training.train_router import train_router

    disable_progress_bar()  # it would draw over ours
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as progress:
        return train_router(options, _Bars(progress, options))


class _Bars:
    """Shows a run as a progress bar, and its losses beside it."""

    def __init__(self, progress: Progress, options: TrainingOptions) -> None:
        self._progress = progress
        self._task = progress.add_task("Training", total=options.recipe.num_steps, note="")

    def on_step(self, num_done: int, losses: StepLosses) -> None:
        note = f"answers {losses.answer:.3f}, labels {losses.label:.3f}"
        self._progress.update(self._task, completed=num_done, note=note)
        # A log has no bar.
        if not self._progress.console.is_terminal and num_done % _STEPS_BETWEEN_LINES == 0:
            self._progress.console.print(f"step {num_done}: {note}")

    def on_part(self, name: str) -> None:
        self._progress.update(self._task, description="Evaluating", note=name)


def _show(options: TrainingOptions, measured: Evaluation | None) -> None:
    console = Console()
    console.print(f"[green]{options.out} holds the router.[/green]", soft_wrap=True)
    if measured is None:
        return
    if measured.routed_over_all is not None:
        console.print(f"  right, routed                {measured.routed_over_all:.3f}")
        console.print(f"  right, right adapter named   {measured.named_over_all:.3f}")
    if measured.composite is not None:
        best = max(measured.composite_named.values())
        console.print(f"  composites, routed           {measured.composite:.3f}")
        console.print(f"  composites, best single one  {best:.3f}")
