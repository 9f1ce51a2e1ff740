"""The trained systems of a run: the mixture, the same with one active expert, and LoRA on the best expert."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from hf_mixture.hub.atomic import replaced_folder
from hf_mixture.training.reload import save_reference
from hf_mixture.training.scoring import finite
from hf_mixture.training.thoughts.parts import EXPERT_SCORES, ThoughtsRun, write_log
from hf_mixture.training.thoughts.plan import mixture_settings, num_trainable, tune_arguments, with_lora


MOT, SELF_ONLY, LORA = "mot", "self_only", "lora"
SYSTEMS = (MOT, SELF_ONLY, LORA)


class ValidationCurve(TrainerCallback):
    """Scores the validation documents at every `eval_steps`, into the Trainer's log.

    Args:
        score: From the model to bits per byte.
    """

    def __init__(self, score: Callable[[Any], float]) -> None:
        self.score = score

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score after the steps that are due; a checkpoint of this step is written later and keeps the score."""
        if state.global_step % state.eval_steps == 0:
            score = finite(self.score(kwargs["model"]))
            state.log_history.append({"step": state.global_step, "validation_bits_per_byte": score})


def candidate_part(system: str, seed: int, rate: float) -> str:
    """Name in the journal of one training."""
    return f"{system}/{seed}/{rate:g}"


def train_candidate(run: ThoughtsRun, system: str, seed: int, rate: float) -> None:
    """Train one system with one seed and one learning rate, and score it on the validation documents."""
    from datasets import Dataset

    from hf_mixture.training.stage import train_stage
    from hf_mixture.training.thoughts.scores import DocumentCollator

    part = candidate_part(system, seed, rate)
    if part in run.journal.finished:
        return
    print(f"\n== {system}, seed {seed}, learning rate {rate:g}: {run.plan.tune_steps:,} steps", flush=True)
    processor = run.processor()
    model = starting_model(run, system, seed)
    documents = run.documents("train")
    rows = Dataset.from_list(
        [{**row, "expert_nll": nll.tolist()} for row, nll in zip(documents, _targets(run), strict=True)]
    ).shuffle(seed=seed)
    curve = ValidationCurve(lambda trained: _validation(run, system, trained))
    result = train_stage(
        model,
        rows,
        {},
        tune_arguments(run.recipe, seed, rate),
        run.folder / "checkpoints" / part,
        attach=lambda trainer: trainer.add_callback(curve),
        data_collator=DocumentCollator(processor, _alone(run, system)),
    )
    write_log(run, part, result.log)
    with replaced_folder(_candidate(run, system, seed, rate)) as folder:
        model.save_pretrained(folder)
    points = [
        {"step": entry["step"], "validation": entry["validation_bits_per_byte"]}
        for entry in result.log
        if "validation_bits_per_byte" in entry
    ]
    measured = {
        "learning_rate": rate,
        "trainable_parameters": num_trainable(model),
        "seconds_per_step": result.seconds_per_step,
        "curve": points,
        "validation_bits_per_byte": finite(_validation(run, system, model)),
    }
    run.finish(part, measured)


def choose_rate(run: ThoughtsRun, system: str) -> float:
    """Choose the learning rate of a system: the best on the validation documents with the first seed.

    Raises:
        RuntimeError: If the loss is finite with none.
    """
    rates = run.recipe.learning_rates
    done = run.journal.finished
    scores = [done[candidate_part(system, run.recipe.seeds[0], rate)]["validation_bits_per_byte"] for rate in rates]
    found = [(score, rate) for score, rate in zip(scores, rates, strict=True) if score is not None]
    if not found:
        raise RuntimeError(f"no learning rate of {system} gives a finite loss; lower learning_rates")
    return min(found)[1]


def score_system(run: ThoughtsRun, system: str, seed: int, rate: float) -> None:
    """Score a trained system on the test documents; the mixture also with peers that read another document."""
    from hf_mixture.training.thoughts.scores import mixture_nats

    part = f"{system}/{seed}"
    if part in run.journal.finished:
        return
    print(f"\n== {system}, seed {seed}: test documents", flush=True)
    model, processor, documents = _trained(run, system, seed, rate), run.processor(), run.documents("test")
    nats, primary = _scores(run, system, model, "test")
    scores = {"nats": nats.tolist(), "primary": primary.tolist()}
    if system == MOT:
        shifted = [*documents[1:], *documents[:1]]
        size = run.recipe.evaluation.batch_size
        wrong, _ = mixture_nats(
            model, processor, documents, batch_size=size, progress="scoring wrong peers", wrong=shifted
        )
        scores["wrong_nats"] = wrong.tolist()
    run.write_scores(f"{system}-{seed}", scores)
    if system == MOT and seed == run.recipe.seeds[0]:
        publish(run, model, processor)
    run.journal.finish(part, run.journal.finished[candidate_part(system, seed, rate)])


def starting_model(run: ThoughtsRun, system: str, seed: int) -> Any:
    """A system before it is trained: it computes what its experts compute."""
    from transformers import AutoModelForCausalLM, set_seed

    from hf_mixture.models.mixture_of_thoughts.modeling_mixture_of_thoughts import MixtureOfThoughtsForCausalLM

    set_seed(seed)
    recipe = run.recipe
    if system == LORA:
        best = run.journal.finished[EXPERT_SCORES]["best"]
        expert = AutoModelForCausalLM.from_pretrained(
            run.expert_place(best), revision=recipe.experts[best].revision or "main"
        )
        return with_lora(recipe, expert, run.plan.lora_ranks[best])
    return MixtureOfThoughtsForCausalLM.from_experts(
        [run.expert_place(name) for name in recipe.experts],
        expert_kwargs=[{"revision": expert.revision or "main"} for expert in recipe.experts.values()],
        **mixture_settings(recipe, active=1 if system == SELF_ONLY else None),
    )


def publish(run: ThoughtsRun, model: Any, processor: Any) -> None:
    """Save the mixture for others, with its experts if they were made here, and a reference for the reload check."""
    from hf_mixture.training.thoughts.scores import DocumentCollator

    batch = DocumentCollator(processor)(run.documents("test")[:1])
    inputs = {
        "expert_inputs": [
            {name: value for name, value in entry.items() if name != "labels"} for entry in batch["expert_inputs"]
        ],
        "encoder_inputs": dict(batch["encoder_inputs"]),
    }
    with replaced_folder(run.folder / "models" / MOT) as folder:
        model.save_pretrained(folder, save_experts=bool(run.recipe.new_experts))
        processor.save_pretrained(folder)
    save_reference(model, inputs, reference_file(run))


def reference_file(run: ThoughtsRun) -> Path:
    """Where the logits of the published mixture are kept until the reload check."""
    return run.folder / "candidates" / f"{MOT}.reference.safetensors"


def _candidate(run: ThoughtsRun, system: str, seed: int, rate: float) -> Path:
    return run.folder / "candidates" / f"{system}-{seed}-{rate:g}"


def _trained(run: ThoughtsRun, system: str, seed: int, rate: float) -> Any:
    from transformers import AutoModelForCausalLM

    # The class of a mixture and an adapter alike are found by what the folder holds.
    return AutoModelForCausalLM.from_pretrained(_candidate(run, system, seed, rate))


def _alone(run: ThoughtsRun, system: str) -> int | None:
    """The expert that a system consists of; None for a mixture."""
    best = run.journal.finished[EXPERT_SCORES]["best"]
    return list(run.recipe.experts).index(best) if system == LORA else None


def _targets(run: ThoughtsRun) -> Any:
    """Bits per byte of the training answers under each expert: what the router learns to predict."""
    from hf_mixture.training.thoughts.scores import num_answer_bytes

    nats = run.read_scores("experts")["train"]
    return nats / np.log(2) / num_answer_bytes(run.documents("train"))[:, None]


def _scores(run: ThoughtsRun, system: str, model: Any, split: str) -> tuple[Any, Any]:
    from hf_mixture.training.thoughts.scores import alone_nats, mixture_nats

    documents, processor = run.documents(split), run.processor()
    size, progress = run.recipe.evaluation.batch_size, f"scoring {system} on {split}"
    index = _alone(run, system)
    if index is None:
        return mixture_nats(model, processor, documents, batch_size=size, progress=progress)
    nats = alone_nats(model, processor, index, documents, batch_size=size, progress=progress)
    return nats, np.full(len(documents), index)


def _validation(run: ThoughtsRun, system: str, model: Any) -> float:
    from hf_mixture.training.thoughts.scores import num_answer_bytes, pooled_bits_per_byte

    nats, _ = _scores(run, system, model, "validation")
    return pooled_bits_per_byte(nats, num_answer_bytes(run.documents("validation")))
