"""What edits do to the behaviour of a model, beside random edits of the same size and the control of the topic."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.damage import reading
from hf_mixture.hub.reading import read_object
from hf_mixture.moe.anatomy import find_routers
from hf_mixture.moe.mote.baselines import draw_random_edits
from hf_mixture.moe.mote.behaviours import Behaviour
from hf_mixture.moe.mote.edits import ExpertEdits
from hf_mixture.moe.mote.patch import tune_experts
from hf_mixture.moe.mote.respond import Prompt, check_prompts, respond, text_of


MIN_DRAWS = 20


@dataclass(frozen=True)
class PromptGroup:
    """Prompts that are reported together, such as those that used to be refused, and benign ones.

    Args:
        name: The name of the group.
        prompts: The prompts; they should not be those that the experts were found with.
        expected: The right answer to each, compared without surrounding white space; None where there is none.

    Example:
        >>> from hf_mixture import PromptGroup
        >>> PromptGroup("capitals", ["The capital of France is"], expected=["Paris"]).name
        'capitals'
    """

    name: str
    prompts: Sequence[Prompt]
    expected: Sequence[str] | None = None


@dataclass
class EditEvaluator:
    """Measures a model under edits: shares of the labels in groups of prompts, and accuracy where answers are known.

    What was measured is kept under its name and not measured again, so that a mapping on disk makes an evaluation
    that was killed go on.

    Args:
        model: A causal mixture-of-experts model without a patch.
        tokenizer: Its tokenizer.
        groups: The groups.
        behaviour: Classifier of the responses.
        max_new_tokens: Longest response, in tokens. Default: 64.
        batch_size: Prompts of one batch. Default: 8.
        check_fingerprint: As in `tune_experts`. Default: True.
        measured: Where results are kept: name to group to values. Default: in memory.
        progress: Whether to show progress bars. Default: True.

    Raises:
        ValueError: If there are no groups, two of one name, or not as many answers as prompts.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM
        >>> from hf_mixture import EditEvaluator, PromptGroup, make_behaviour
        >>> words = Tokenizer(models.WordLevel({"<unk>": 0, "one": 1, "two": 2, "three": 3}, unk_token="<unk>"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<unk>")
        >>> config = Qwen3MoeConfig(
        ...     vocab_size=4, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        ...     intermediate_size=8, moe_intermediate_size=8, num_experts=4, num_experts_per_tok=2,
        ... )
        >>> model = Qwen3MoeForCausalLM(config)
        >>> says_one = make_behaviour({"name": "phrases", "classes": {"one": ["one"]}, "default": "other"})
        >>> groups = [PromptGroup("all", ["one two", "three"])]
        >>> evaluator = EditEvaluator(model, tokenizer, groups, says_one, max_new_tokens=2, progress=False)
        >>> evaluator.measure("unedited")["all"]["num_prompts"]
        2
    """

    model: Any
    tokenizer: Any
    groups: Sequence[PromptGroup]
    behaviour: Behaviour
    max_new_tokens: int = 64
    batch_size: int = 8
    check_fingerprint: bool = True
    measured: MutableMapping[str, Any] = field(default_factory=dict)
    progress: bool = True

    def __post_init__(self) -> None:
        names = [group.name for group in self.groups]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"groups={names} must be at least one, each with a name of its own")
        for group in self.groups:
            check_prompts(group.prompts)
            if group.expected is not None and len(group.expected) != len(group.prompts):
                raise ValueError(
                    f"group {group.name!r} has {len(group.prompts)} prompts and {len(group.expected)} expected "
                    "answers; give one for each"
                )

    def measure(self, name: str, edits: ExpertEdits | None = None) -> dict[str, Any]:
        """Measure the model under edits.

        Args:
            name: Name of the result.
            edits: The edits. Default: none.

        Returns:
            For each group the shares of its labels, the number of prompts, and the accuracy or None.
        """
        if name not in self.measured:
            if edits is None or len(edits) == 0:
                self.measured[name] = self._run(name)
            else:
                with tune_experts(self.model, edits, check_fingerprint=self.check_fingerprint):
                    self.measured[name] = self._run(name)
        found: dict[str, Any] = self.measured[name]
        return found

    def random(
        self, name: str, like: ExpertEdits, *, num_draws: int = MIN_DRAWS, seed: int = 0
    ) -> list[dict[str, Any]]:
        """Measure random edits of the same kind and number.

        Args:
            name: Begin of the names of the results.
            like: The edits that are to be compared.
            num_draws: Number of draws, at least 20: the spread between them is large. Default: 20.
            seed: Seed of the draws. Default: 0.

        Returns:
            The result of each draw.

        Raises:
            ValueError: If there are fewer than 20 draws, or none is possible.
        """
        if num_draws < MIN_DRAWS:
            raise ValueError(f"num_draws={num_draws} must be at least {MIN_DRAWS}: single draws differ widely")
        routers = find_routers(self.model)
        results = []
        for draw in tqdm(range(num_draws), desc=f"random {name}", disable=not self.progress):
            # Each draw has a seed of its own, so that it is the same after a resumption.
            generator = np.random.default_rng([seed, draw])
            results.append(self.measure(f"{name} random {draw}", draw_random_edits(routers, like, generator)))
        return results

    def _run(self, name: str) -> dict[str, Any]:
        was_training = self.model.training
        self.model.eval()
        try:
            return {group.name: self._group(name, group) for group in self.groups}
        finally:
            self.model.train(was_training)

    def _group(self, name: str, group: PromptGroup) -> dict[str, Any]:
        said: list[str] = []
        starts = range(0, len(group.prompts), self.batch_size)
        for start in tqdm(starts, desc=f"{name}: {group.name}", leave=False, disable=not self.progress):
            batch = group.prompts[start : start + self.batch_size]
            said += respond(self.model, self.tokenizer, batch, max_new_tokens=self.max_new_tokens)
        labels = [self.behaviour(text_of(prompt), text) for prompt, text in zip(group.prompts, said, strict=True)]
        right = None
        if group.expected is not None:
            hits = [text.strip() == answer.strip() for text, answer in zip(said, group.expected, strict=True)]
            right = sum(hits) / len(hits)
        shares = {label: labels.count(label) / len(labels) for label in sorted(set(labels))}
        return {"num_prompts": len(labels), "shares": shares, "accuracy": right}


class MeasuredFile(dict[str, Any]):
    """Results that are on disk as soon as they are there, so that an evaluation that was killed goes on.

    Args:
        path: The JSON file.
        settings: All that the results depend on, as plain data.

    Raises:
        ValueError: If the file holds results with other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self._path, self._settings = path, dict(settings)
        if path.exists():
            with reading(path, "name another folder"):
                before = read_object(path, allow_nan=True)
                if before["settings"] != self._settings:
                    raise ValueError(f"{path.parent} holds another evaluation, see {path}; name another folder")
                self.update(dict(before["measured"]))
        path.parent.mkdir(parents=True, exist_ok=True)

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        write_atomic(self._path, json.dumps({"settings": self._settings, "measured": dict(self)}) + "\n")


def summarise_draws(draws: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Take mean and standard deviation over random draws.

    Args:
        draws: Results of `EditEvaluator.random`.

    Returns:
        A result with the means, and `sd` beside them.

    Example:
        >>> from hf_mixture.moe.mote.evaluation import summarise_draws
        >>> draws = [{"all": {"num_prompts": 4, "shares": {"no": share}, "accuracy": None}} for share in (0.5, 1.0)]
        >>> summarise_draws(draws)["all"]["shares"], round(summarise_draws(draws)["all"]["sd"]["shares"]["no"], 3)
        ({'no': 0.75}, 0.354)
    """
    summary = {}
    for name, first in draws[0].items():
        groups = [draw[name] for draw in draws]
        labels = sorted({label for group in groups for label in group["shares"]})
        shares = {label: [group["shares"].get(label, 0.0) for group in groups] for label in labels}
        accuracy = None if first["accuracy"] is None else [group["accuracy"] for group in groups]
        summary[name] = {
            "num_prompts": first["num_prompts"],
            "shares": {label: statistics.fmean(values) for label, values in shares.items()},
            "accuracy": None if accuracy is None else statistics.fmean(accuracy),
            "sd": {
                "shares": {label: statistics.stdev(values) for label, values in shares.items()},
                "accuracy": None if accuracy is None else statistics.stdev(accuracy),
            },
        }
    return summary


def result_row(name: str, result: Mapping[str, Any], target: str) -> dict[str, str]:
    """Format a result as a row of a table.

    Args:
        name: What was measured.
        result: A result, or a summary of draws.
        target: The label whose share is shown.

    Returns:
        Column to text: for each group the share of the label, and the accuracy where it is known.
    """
    row = {"condition": name}
    for group, values in result.items():
        sd = values.get("sd")
        row[f"{group}: {target}"] = _figure(
            values["shares"].get(target, 0.0), None if sd is None else sd["shares"].get(target, 0.0)
        )
        if values["accuracy"] is not None:
            row[f"{group}: correct"] = _figure(values["accuracy"], None if sd is None else sd["accuracy"])
    return row


def _figure(value: float, sd: float | None) -> str:
    return f"{value:.3f}" if sd is None else f"{value:.3f} ± {sd:.3f}"
