"""`ProxyRunner`: each proxy trained and scored by the stock Trainer, one after the other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from hf_mixture._compat.processes import alone
from hf_mixture.data.proxy.experiments import ProxyExperiments
from hf_mixture.data.proxy.models import build_model, check_tokens, own_randomness
from hf_mixture.data.proxy.samples import FixedSamples, MixedSamples, collate
from hf_mixture.data.search.protocol import Trial


class ProxyRunner(ProxyExperiments):
    """Turns mixtures into losses with the stock `transformers.Trainer`, one run after the other.

    Every run starts from the same weights and reads its mixture in the order of a `MixturePlan`, so that a trial gives
    the same losses bit by bit whenever it is run. Finished runs are kept in a journal, one line each; a process that
    is killed loses at most the run in flight. Under `torchrun` or `accelerate launch` the runs are shared out among
    the processes, each training its own. `ProxySwarm` gives the same losses sooner.

    Args:
        spec: Model, length, optimizer, seed.
        train: For each domain its samples of T tokens: int tensor [n, T], `pack.blocks(T)`, or a map-style dataset
            with `input_ids`.
        validation: The same for each domain whose loss is measured; domains that are not trained on are allowed.
        folder: Where the journal is kept; shared by all processes. Default: nowhere, and runs are remembered by the
            object alone.
        device: Device of the training. Default: the GPU of this process, else the CPU.

    Raises:
        ValueError: A domain is empty, samples differ in length, the model is refused, or the folder holds runs of
            another spec or other data.

    Example:
        ```python
        >>> import torch
        >>> from hf_mixture.data.proxy import ProxyRunner, ProxySpec
        >>> from hf_mixture.data.search import Trial
        >>> train = {"odd": torch.full((9, 8), 1), "even": torch.full((9, 8), 2)}
        >>> runner = ProxyRunner(ProxySpec(num_steps=5, learning_rate=0.01), train, validation=train)
        >>> losses = runner(Trial("all-odd", ("odd", "even"), (1.0, 0.0)))
        >>> losses["loss/odd"] < losses["loss/even"]
        True

        ```
    """

    kind = "trainer"

    def _groups(self, trials: Sequence[Trial]) -> list[list[Trial]]:
        return [[trial] for trial in trials]

    def _measure(self, group: Sequence[Trial], progress: Callable[[int], Any]) -> list[dict[str, float]]:
        (trial,) = group
        with own_randomness(), alone(), tempfile.TemporaryDirectory() as scratch:
            losses = self._train(trial, scratch)
        progress(1)
        return [losses]

    def _train(self, trial: Trial, scratch: str) -> dict[str, float]:
        from transformers import PrinterCallback, Trainer

        spec = self.spec
        num_steps = spec.steps(trial.fidelity)
        model = build_model(spec)
        stream = MixedSamples(self.data, self.data.plan(self.shares(trial), num_steps * spec.batch_size, spec.seed))
        held_out = dict(self.data.validation_samples())
        for name, ids in held_out.items():
            check_tokens(ids, model.config.vocab_size, f"validation[{name!r}]")
        trainer = Trainer(
            model=model,
            args=self._arguments(num_steps, scratch),
            train_dataset=stream,
            data_collator=collate,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return {
            name: trainer.evaluate(FixedSamples(ids), metric_key_prefix="eval")["eval_loss"]
            for name, ids in held_out.items()
        }

    def _arguments(self, num_steps: int, scratch: str) -> Any:
        from transformers import TrainingArguments

        spec = self.spec
        settings = TrainingArguments(
            output_dir=scratch,
            max_steps=num_steps,
            per_device_train_batch_size=spec.batch_size,
            per_device_eval_batch_size=spec.eval_batch_size,
            train_sampling_strategy="sequential",
            learning_rate=spec.learning_rate,
            lr_scheduler_type=spec.lr_scheduler_type,
            warmup_steps=spec.warmup_steps(num_steps),
            weight_decay=spec.weight_decay,
            adam_beta1=spec.adam_betas[0],
            adam_beta2=spec.adam_betas[1],
            adam_epsilon=spec.adam_epsilon,
            max_grad_norm=spec.max_grad_norm,
            optim="adamw_torch_fused",
            seed=spec.seed,
            prediction_loss_only=True,
            use_cpu=self.device.type == "cpu",
            dataloader_pin_memory=self.device.type != "cpu",
            remove_unused_columns=False,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        if settings.n_gpu > 1:
            raise ValueError(
                f"this process sees {settings.n_gpu} GPUs and the Trainer would spread one run over all of them; set "
                "CUDA_VISIBLE_DEVICES to one GPU a process"
            )
        return settings
