"""The parts of a run before any mixture: documents, tokenizers, experts, and the scores of each expert on its own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_mixture.data.splits import SPLITS
from hf_mixture.hub.atomic import replaced_folder
from hf_mixture.hub.reading import read_object
from hf_mixture.training import report
from hf_mixture.training.journal import Journal, write_json
from hf_mixture.training.prepare import Prepared, blocks_for, prepare, training_rows
from hf_mixture.training.resolve import filled_arguments
from hf_mixture.training.scoring import learning_curve
from hf_mixture.training.thoughts.documents import Document, mixed_documents
from hf_mixture.training.thoughts.plan import ThoughtsPlan
from hf_mixture.training.thoughts.recipe import ThoughtsRecipe


EXPERT_SCORES = "expert scores"


@dataclass(frozen=True, kw_only=True)
class ThoughtsRun:
    """What every part of a run needs.

    Args:
        recipe: The recipe.
        plan: Its resolved plan.
        journal: Which parts are finished.
        folder: The run folder, absolute.
    """

    recipe: ThoughtsRecipe
    plan: ThoughtsPlan
    journal: Journal
    folder: Path

    def prepared(self, expert: str) -> Prepared:
        """The training data of a new expert."""
        return Prepared(self.folder / "prepared" / expert)

    def documents(self, split: str) -> list[Document]:
        """The mixed documents of a split."""
        stored: dict[str, list[Document]] = read_object(self.folder / "prepared" / "documents.json")
        return stored[split]

    def expert_place(self, name: str) -> str:
        """Where an expert is loaded from: a Hub id, or the folder of a trained one."""
        return self.recipe.experts[name].from_pretrained or str(self.folder / "experts" / name)

    def tokenizers(self) -> list[Any]:
        """The tokenizers of all experts, in their order."""
        from transformers import AutoTokenizer

        return [
            AutoTokenizer.from_pretrained(expert.from_pretrained, revision=expert.revision)
            if expert.from_pretrained is not None
            else self.prepared(name).tokenizer()
            for name, expert in self.recipe.experts.items()
        ]

    def processor(self) -> Any:
        """The processor of the mixture."""
        from hf_mixture.models.mixture_of_thoughts.processing_mixture_of_thoughts import MixtureOfThoughtsProcessor

        given = {name: self.recipe.thoughts[name] for name in ("peer_decode",) if name in self.recipe.thoughts}
        return MixtureOfThoughtsProcessor(self.tokenizers(), **given)

    def experts(self) -> list[Any]:
        """The experts, in evaluation mode."""
        from transformers import AutoModelForCausalLM

        return [
            AutoModelForCausalLM.from_pretrained(self.expert_place(name), revision=expert.revision or "main")
            for name, expert in self.recipe.experts.items()
        ]

    def write_scores(self, name: str, scores: dict[str, Any]) -> None:
        """Keep the nats of every document beside the journal."""
        (self.folder / "scores").mkdir(exist_ok=True)
        write_json(self.folder / "scores" / f"{name}.json", scores)

    def read_scores(self, name: str) -> dict[str, NDArray[np.float64]]:
        """What `write_scores` kept, as arrays."""
        stored = read_object(self.folder / "scores" / f"{name}.json")
        return {key: np.array(value) for key, value in stored.items()}

    def finish(self, part: str, measured: Any) -> None:
        """Record a part, then remove its checkpoints: a run killed in between would have to train again."""
        self.journal.finish(part, measured)
        shutil.rmtree(self.folder / "checkpoints" / part, ignore_errors=True)


def make_documents(run: ThoughtsRun, texts: dict[str, Any]) -> None:
    """Compose the mixed documents, prepare what the new experts read, and check that every expert can read them."""
    recipe = run.recipe
    if "documents" not in run.journal.finished:
        print("\n== data", flush=True)
        (run.folder / "prepared").mkdir(exist_ok=True)
        documents = {split: mixed_documents(recipe.documents, texts, split, seed=recipe.seed) for split in SPLITS}
        write_json(run.folder / "prepared" / "documents.json", documents)
        run.journal.finish("documents", {split: _counts(rows) for split, rows in documents.items()})
    for name in recipe.new_experts:
        part = f"prepare/{name}"
        if part not in run.journal.finished:
            data = recipe.expert_recipe(name)
            needed = blocks_for(data, {"adapt": run.plan.pretrain_examples})
            run.journal.finish(part, prepare(data, texts, needed, run.folder / "prepared" / name))
    if "lengths" not in run.journal.finished:
        run.journal.finish("lengths", _longest(run))


def train_expert(run: ThoughtsRun, name: str) -> None:
    """Train one new expert on its own domains, from weights that the recipe's seed draws."""
    from transformers import AutoModelForCausalLM, set_seed

    from hf_mixture.data.encoding import separator_id
    from hf_mixture.training.models import config_of
    from hf_mixture.training.stage import train_stage

    part = f"experts/{name}"
    if part in run.journal.finished:
        return
    recipe, data = run.recipe, run.recipe.expert_recipe(name)
    print(f"\n== expert {name}: {run.plan.pretrain_steps:,} steps", flush=True)
    tokenizer = run.prepared(name).tokenizer()
    set_seed(recipe.seed)
    config = config_of(
        recipe.experts[name].from_config or {},
        vocab_size=len(tokenizer),
        separator=separator_id(tokenizer),
        block_size=recipe.block_size,
    )
    model = AutoModelForCausalLM.from_config(config)
    rows = training_rows(data, run.prepared(name), "adapt", run.plan.pretrain_examples)
    validation = run.prepared(name).windows("validation", recipe.block_size)
    arguments = filled_arguments(recipe.pretrain or {}, recipe.seed)
    result = train_stage(model, rows, validation, arguments, run.folder / "checkpoints" / part)
    write_log(run, part, result.log)
    with replaced_folder(run.folder / "experts" / name) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    measured = {
        "parameters": model.num_parameters(),
        "seconds_per_step": result.seconds_per_step,
        "curve": learning_curve(result.log, validation),
    }
    run.finish(part, measured)


def score_experts_alone(run: ThoughtsRun) -> None:
    """Score every expert on all documents: the rows of single experts, and the targets of the router."""
    from hf_mixture.training.thoughts.scores import expert_nats, num_answer_bytes, pooled_bits_per_byte

    if EXPERT_SCORES in run.journal.finished:
        return
    print("\n== experts alone on the mixed documents", flush=True)
    experts, processor = run.experts(), run.processor()
    scores, validation = {}, []
    for split in SPLITS:
        documents = run.documents(split)
        nats = expert_nats(
            experts, processor, documents, batch_size=run.recipe.evaluation.batch_size, progress=f"scoring {split}"
        )
        scores[split] = nats.tolist()
        if split == "validation":
            num_bytes = num_answer_bytes(documents)
            validation = [pooled_bits_per_byte(column, num_bytes) for column in nats.T]
    run.write_scores("experts", scores)
    names = list(run.recipe.experts)
    run.journal.finish(
        EXPERT_SCORES,
        {
            "validation_bits_per_byte": dict(zip(names, validation, strict=True)),
            "best": names[int(np.argmin(validation))],
        },
    )


def write_log(run: ThoughtsRun, part: str, log: list[dict[str, Any]]) -> None:
    """Keep the Trainer's log of a part."""
    (run.folder / "logs").mkdir(exist_ok=True)
    report.write_log(log, run.folder / "logs" / f"{part.replace('/', '-')}.jsonl")


def _counts(documents: list[Document]) -> dict[str, dict[str, int]]:
    kinds = dict.fromkeys(row["kind"] for row in documents)
    return {
        kind: {
            "documents": sum(row["kind"] == kind for row in documents),
            "answer_bytes": sum(len(row["answer"].encode()) for row in documents if row["kind"] == kind),
        }
        for kind in kinds
    }


def _longest(run: ThoughtsRun) -> dict[str, int]:
    """Tokens of the longest document for each expert.

    Raises:
        ValueError: If an expert has fewer positions than that.
    """
    texts = [row["prompt"] + row["answer"] for split in SPLITS for row in run.documents(split)]
    found = {}
    for (name, config), tokenizer in zip(run.plan.configs.items(), run.tokenizers(), strict=True):
        # One token more where prompt and answer meet, and the end of the text.
        longest = max(map(len, tokenizer(texts, verbose=False)["input_ids"])) + 2
        positions = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
        if positions is not None and longest > positions:
            raise ValueError(
                f"experts.{name} has {positions} positions, and the longest document has {longest} tokens; raise "
                "block_size, or lower documents.num_segments or documents.segment_characters"
            )
        found[name] = longest
    return found
