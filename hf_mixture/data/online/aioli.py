"""Aioli (arXiv 2411.05735): estimate the mixing law on the current trajectory, follow it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_mixture.data.online.callback import MixingLawCallback
from hf_mixture.data.online.estimators import LearnParams
from hf_mixture.data.online.solvers import ExponentiatedGradient, Update


class AioliCallback(MixingLawCallback):
    """Choose the weights of a `MixtureDataset` by Aioli while the stock `Trainer` trains.

    A round begins with LearnParams: `lp_rounds` times, in random order, each domain is favoured for `lp_steps` steps,
    and the validation losses are measured after each block. From their drops follows A, and from the column sums of A,
    scaled to sum 1, the weights `p_j exp(eta * sum_i A_ij)` of the rest of the round. LearnParams is training like any
    other. It costs `1 + lp_rounds * m` evaluations a round and no extra model; its share of the steps,
    `delta = lp_rounds * lp_steps * m / update_steps`, should stay below .3. The defaults are for runs of some hundred
    steps; the paper has 4 blocks of 4 steps a domain in rounds of 250.

    Args:
        validation: Held-out rows by domain: anything with a length and rows with `input_ids` (and `labels`, if these
            differ). Its domains may be others than those trained on, unless `diagonal`.
        lp_rounds: Blocks of each domain in a round, >= 1. Default: 2.
        lp_steps: Optimizer steps of a block, >= 1. Shorter ones measure more noise. Default: 4.
        update_steps: Optimizer steps of a round; must divide the steps after the prior. Default: rounds of equal
            length with delta up to .1.
        one_hot_factor: f, the share of the favoured domain in its block, in (1/m, 1]. Default: .625.
        eta: Step size, > 0. As A has sum 1, a round changes no ratio of weights by more than `exp(eta)`. Default: .5.
        ema: Weight of the past matrices, in [0, 1). Default: None, no averaging.
        update: `"multiplicative"`: from the weights of the last round, as in the paper. `"reset"`: from equal weights,
            as in the published code. Default: `"multiplicative"`.
        diagonal: Ablation: each domain acts on its own loss only.
        static: Ablation: one round, whose weights hold to the end.
        prior: Weights of the first `prior_steps` steps, by domain, for example of `DMLSearch`. Default: the mixture's.
        prior_steps: Optimizer steps before the first round. Default: 0 with `update_steps` or `static`, otherwise a
            tenth of the run: LearnParams in the first steps of a short run costs most and tells least.
        seed: Seed of the order of the blocks. Default: 0.
        eval_batch_size: Rows of an evaluation batch. Default: `per_device_eval_batch_size`.
        lag: Optimizer steps from a decision to its effect. Default: the fewest that no process has fetched.

    Raises:
        ValueError: An argument breaks its rule; when training begins, if it does not fit the run or the domains.

    Example:
        ```python
        >>> import contextlib, io, tempfile
        >>> from datasets import Dataset
        >>> from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
        >>> from hf_mixture import AioliCallback, Mixture
        >>> from hf_mixture.data.mixture_dataset import MixtureDataset
        >>> rows = {name: Dataset.from_dict({"input_ids": [[i, i + 1] * 4] * 40, "labels": [[i, i + 1] * 4] * 40})
        ...         for i, name in enumerate(["a", "b"])}
        >>> mixed = MixtureDataset(rows, Mixture({"a": 0.5, "b": 0.5}, unit="examples"), num_examples=240)
        >>> held_out = {name: data.select(range(4)) for name, data in rows.items()}
        >>> aioli = AioliCallback(held_out, lp_steps=1, update_steps=20, one_hot_factor=0.75)
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1, n_positions=8))
        >>> with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        ...     arguments = TrainingArguments(
        ...         folder, max_steps=60, per_device_train_batch_size=4, train_sampling_strategy="sequential",
        ...         save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True)
        ...     _ = Trainer(model, arguments, train_dataset=mixed, callbacks=[aioli]).train()
        >>> len(aioli.history), round(sum(aioli.history[-1]["weights"].values()), 6)
        (3, 1.0)

        ```
    """

    def __init__(
        self,
        validation: Mapping[str, Any] | None = None,
        *,
        lp_rounds: int = 2,
        lp_steps: int = 4,
        update_steps: int | None = None,
        one_hot_factor: float = 0.625,
        eta: float = 0.5,
        ema: float | None = None,
        update: Update = "multiplicative",
        diagonal: bool = False,
        static: bool = False,
        prior: Mapping[str, float] | None = None,
        prior_steps: int | None = None,
        seed: int = 0,
        eval_batch_size: int | None = None,
        lag: int | None = None,
    ) -> None:
        for name, value in (("lp_rounds", lp_rounds), ("lp_steps", lp_steps)):
            if value < 1:
                raise ValueError(f"{name}={value!r} is below 1; without blocks of LearnParams nothing is measured")
        super().__init__(
            LearnParams(lp_rounds, diagonal=diagonal),
            ExponentiatedGradient(eta, update, ema=ema),
            settings={
                "lp_rounds": lp_rounds,
                "lp_steps": lp_steps,
                "update_steps": update_steps,
                "one_hot_factor": one_hot_factor,
                "eta": eta,
                "ema": ema,
                "update": update,
                "diagonal": diagonal,
                "static": static,
                "prior": None if prior is None else dict(prior),
                "prior_steps": prior_steps,
                "seed": seed,
                "eval_batch_size": eval_batch_size,
                "lag": lag,
            },
            resources={"validation": validation},
            prior=prior,
            prior_steps=prior_steps,
            update_steps=update_steps,
            sweeps=lp_rounds,
            block_steps=lp_steps,
            one_hot_factor=one_hot_factor,
            static=static,
            seed=seed,
            eval_batch_size=eval_batch_size,
            lag=lag,
        )
