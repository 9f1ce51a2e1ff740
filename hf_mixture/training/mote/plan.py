"""What a run of expert edits will do, worked out before anything is written."""

from __future__ import annotations

from hf_mixture.training.mote.recipe import MoteRecipe


def describe(recipe: MoteRecipe) -> str:
    """Check what needs the model, and format the plan for people.

    Args:
        recipe: The recipe.

    Returns:
        The plan.

    Raises:
        ValueError: If a training argument cannot work, the model has no routed experts or too few of them, or a part
            in `trained` is in no name of a parameter. Nothing has been written.
    """
    import torch

    from hf_mixture.moe.anatomy import find_routers
    from hf_mixture.training.mote.parts import freeze_all_but, new_model
    from hf_mixture.training.mote.questions import word_tokenizer

    steps = {name: _check_stage(recipe, name) for name in ("pretrain", "finetune")}
    with torch.device("meta"):
        model = new_model(recipe, word_tokenizer(recipe.questions))
    routers = find_routers(model)
    num_experts = sum(router.num_experts for router in routers)
    spec = recipe.edits
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
    freeze_all_but(model, recipe.trained)
    trained, questions = model.num_parameters(only_trainable=True), recipe.questions
    facts = questions.num_entities * questions.num_relations
    own = (
        f", {questions.num_own_relations * questions.num_entities} of them with another answer in private"
        if questions.num_own_relations
        else ""
    )
    lines = [
        f"{recipe.name}: {recipe.description.strip()}".rstrip(" :"),
        "",
        f"output folder  {recipe.output_dir}",
        f"model          {recipe.model['model_type']}, {model.num_parameters():,} parameters, {num_experts} experts "
        f"in {len(routers)} layers, top {routers[0].top_k}",
        f"facts          {facts}{own}; {questions.num_scanned} are scanned, {facts - questions.num_scanned} held "
        "out; each asked for in public and in private",
        f"pretrain       {steps['pretrain']:,} steps: every prompt is answered",
        f"finetune       {steps['finetune']:,} steps: private prompts are refused; {trained:,} parameters are "
        f"trained, those with {' or '.join(map(repr, recipe.trained))} in their names",
        f"scan           {recipe.scan.statistic}, ranked by {recipe.scan.scorer}",
        f"edits          off: {', '.join(map(str, spec.num_off))} ({', '.join(spec.modes)}); on: "
        f"{', '.join(map(str, spec.num_on))}; each beside {spec.num_draws} random sets and the experts of the topic",
        f"baked          the first {spec.baked}, mode zero",
        f"seeds          {', '.join(map(str, recipe.seeds))}",
    ]
    return "\n".join(lines)


def _check_stage(recipe: MoteRecipe, name: str) -> int:
    from transformers import TrainingArguments

    from hf_mixture.training.resolve import filled_arguments

    given = filled_arguments(getattr(recipe, name), recipe.seeds[0]) | {"eval_strategy": "no"}
    try:
        arguments = TrainingArguments(output_dir=recipe.output_dir, **given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
    if arguments.world_size > 1:
        raise ValueError(f"{arguments.world_size} processes were started; hf-mixture mote run runs in one")
    return arguments.max_steps
