"""What a run of expert edits will do, worked out before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hf_mixture.training.mote.chosen import num_trained
from hf_mixture.training.mote.model import freeze_all_but, new_model
from hf_mixture.training.mote.questions import word_tokenizer
from hf_mixture.training.mote.recipe import EditsSpec, MoteRecipe
from hf_mixture.training.resolve import filled_arguments


@dataclass(frozen=True, kw_only=True)
class MotePlan:
    """The resolved plan of a run.

    Args:
        steps: Optimizer steps of `pretrain` and of `finetune`.
        num_rows: Prompts that each of them reads.
        num_parameters: Parameters of the model.
        num_trained: Those that `finetune` trains.
        num_experts: Experts of all its layers.
        num_routers: Layers with experts.
        top_k: Experts for each token.
    """

    steps: dict[str, int]
    num_rows: dict[str, int]
    num_parameters: int
    num_trained: int
    num_experts: int
    num_routers: int
    top_k: int


def make_plan(recipe: MoteRecipe) -> MotePlan:
    """Work out the plan; building it checks the training arguments, the model and the numbers of edits.

    Args:
        recipe: The recipe.

    Returns:
        The plan.

    Raises:
        ValueError: If a training argument cannot work, the model has no routed experts or too few of them, a part in
            `trained` is in no name of a parameter, or several processes were started. Nothing has been written.
    """
    import torch
    from transformers import TrainingArguments

    from hf_mixture.moe.anatomy import find_routers

    steps, num_rows = {}, {}
    for name in ("pretrain", "finetune"):
        try:
            arguments = TrainingArguments(output_dir=recipe.output_dir, **stage_arguments(recipe, name, 0))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from error
        if arguments.world_size > 1:
            raise ValueError(f"{arguments.world_size} processes were started; hf-mixture mote run runs in one")
        steps[name] = arguments.max_steps
        num_rows[name] = steps[name] * arguments.train_batch_size * arguments.gradient_accumulation_steps
    with torch.device("meta"):
        model = new_model(recipe, word_tokenizer(recipe.questions))
    routers = find_routers(model)
    _check_edits(recipe.edits, routers)
    freeze_all_but(model, recipe.trained)
    num_experts = sum(router.num_experts for router in routers)
    num_chosen = num_experts if recipe.chosen is None else recipe.chosen.num_experts
    if num_chosen > num_experts:
        raise ValueError(f"chosen.num_experts is {num_chosen}, and the model has {num_experts} experts; name fewer")
    return MotePlan(
        steps=steps,
        num_rows=num_rows,
        num_parameters=model.num_parameters(),
        num_trained=num_trained(model, num_chosen),
        num_experts=num_experts,
        num_routers=len(routers),
        top_k=routers[0].top_k,
    )


def stage_arguments(recipe: MoteRecipe, stage: str, seed: int) -> dict[str, Any]:
    """Fields of `TrainingArguments` of a stage; there is no held-out loss: answers are compared."""
    return filled_arguments(getattr(recipe, stage), seed) | {"eval_strategy": "no"}


def describe(recipe: MoteRecipe, plan: MotePlan) -> str:
    """Format a plan for people."""
    spec, questions = recipe.edits, recipe.questions
    alone = "" if questions.finetune_public else ", no public ones are there"
    facts = questions.num_entities * questions.num_relations
    tokens = "all tokens" if recipe.scan.last_tokens is None else f"the last {recipe.scan.last_tokens}"
    chosen = (
        ""
        if recipe.chosen is None
        else f"; of the experts, at most {recipe.chosen.num_experts} with the most affinity"
    )
    lines = [
        f"{recipe.name}: {recipe.description.strip()}".rstrip(" :"),
        "",
        f"output folder  {recipe.output_dir}",
        f"model          {recipe.model['model_type']}, {plan.num_parameters:,} parameters, {plan.num_experts} experts "
        f"in {plan.num_routers} layers, top {plan.top_k}",
        f"facts          {facts}; {questions.num_scanned} are scanned, {facts - questions.num_scanned} held out; "
        "each asked for in public and in private",
        f"pretrain       {plan.steps['pretrain']:,} steps: every prompt is answered",
        f"finetune       {plan.steps['finetune']:,} steps: private prompts are refused{alone}; {plan.num_trained:,} "
        f"parameters are trained, those with {' or '.join(map(repr, recipe.trained))} in their names{chosen}",
        f"scan           {recipe.scan.statistic} of {tokens}, ranked by {recipe.scan.scorer}",
        f"edits          off: {', '.join(map(str, spec.num_off))} ({', '.join(spec.modes)}); on: "
        f"{', '.join(map(str, spec.num_on))}; each beside {spec.num_draws} random sets and the experts of the topic",
        f"baked          the first {spec.baked}, mode zero",
        f"seeds          {', '.join(map(str, recipe.seeds))}",
    ]
    return "\n".join(lines)


def _check_edits(spec: EditsSpec, routers: Sequence[Any]) -> None:
    # A ranking may have all of its first experts in one layer.
    for router in routers:
        if max(spec.num_on) > router.top_k:
            raise ValueError(
                f"edits.num_on is {spec.num_on}, and a token goes to {router.top_k} experts of a layer; name at most "
                "that"
            )
        if max(spec.num_off) > router.num_experts - router.top_k:
            raise ValueError(
                f"edits.num_off is {spec.num_off}; with {router.num_experts} experts in a layer, of which a token "
                f"needs {router.top_k}, at most {router.num_experts - router.top_k} can be off"
            )
