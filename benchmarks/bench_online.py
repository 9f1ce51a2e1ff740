"""Online mixing on a tiny model: losses at equal tokens, fidelity of the measured matrix A, cost of the callbacks.

    python benchmarks/bench_online.py
    python benchmarks/bench_online.py --smoke

Three domains of installed text, bytes as tokens: code of the standard library, descriptions of installed packages,
licences. Training is the stock Trainer's; the same steps, batches and held-out rows for all methods.

- Losses: the mean over domains of the held-out loss after `--steps` steps, for Aioli (LearnParams included), the
  other online methods, equal weights and natural weights; with the seconds and evaluations of each run.
- Fidelity: A* is fitted by least squares to the drops of the losses in runs of `--horizon` steps, on mixtures drawn
  from Dir(1), each from the same checkpoint. Matrices measured from that checkpoint by Aioli and DoGE are compared
  with it: half cosine, half rank correlation of the column sums.
"""

from __future__ import annotations

import argparse
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import print_table, write
from datasets import Dataset
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed
from transformers.utils import logging as transformers_logging

from hf_mixture import Mixture
from hf_mixture.data.mixture_dataset import MixtureDataset
from hf_mixture.data.online import (
    AioliCallback,
    DoGECallback,
    DoReMiCallback,
    MixingLawCallback,
    ODMCallback,
    SkillItCallback,
    similarity,
)
from hf_mixture.data.online.effects import diagonal_effects
from hf_mixture.data.online.validation import ValidationSets
from hf_mixture.data.trainer import MixtureCallback


LENGTH = 128
BATCH = 16
MOST_BYTES = 2_000_000
TRAIN_ROWS, HELD_OUT_ROWS = 8000, 48


def texts() -> dict[str, list[Path]]:
    """The files of each domain, in a fixed order."""
    library, packages = (Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib"))
    code = [path for path in library.rglob("*.py") if not {"site-packages", "test", "tests"} & set(path.parts)]
    licences = [path for path in packages.rglob("*LICEN[CS]E*") if path.is_file() and path.suffix != ".py"]
    return {
        "code": sorted(code),
        "descriptions": sorted(packages.glob("*.dist-info/METADATA")),
        "licences": sorted(licences),
    }


def domains() -> tuple[dict[str, Dataset], dict[str, Dataset], dict[str, float]]:
    """Rows to train on, rows held out (by file), and natural weights by bytes."""
    train, held_out, sizes = {}, {}, {}
    for name, paths in texts().items():
        seen: set[bytes] = set()
        parts: tuple[list[list[int]], list[list[int]]] = ([], [])
        for number, path in enumerate(paths):
            content = path.read_bytes()
            if content in seen or sum(map(len, parts)) * LENGTH > MOST_BYTES:
                continue
            seen.add(content)
            rows = [list(content[at : at + LENGTH]) for at in range(0, len(content) - LENGTH + 1, LENGTH)]
            parts[number % 10 == 0].extend(rows)
        sizes[name] = len(parts[0])
        order = np.random.default_rng(0).permutation(len(parts[1]))
        train[name] = table(parts[0][:TRAIN_ROWS])
        held_out[name] = table([parts[1][row] for row in order[:HELD_OUT_ROWS]])
    total = sum(sizes.values())
    return train, held_out, {name: size / total for name, size in sizes.items()}


def table(rows: list[list[int]]) -> Dataset:
    return Dataset.from_dict({"input_ids": rows, "labels": rows})


def new_model(seed: int) -> GPT2LMHeadModel:
    set_seed(seed)
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = GPT2Config(
        vocab_size=256, n_embd=64, n_layer=2, n_head=4, n_positions=LENGTH, bos_token_id=0, eos_token_id=0, **rates
    )
    return GPT2LMHeadModel(config)


def trainer_of(
    model: Any,
    train: dict[str, Dataset],
    weights: dict[str, float],
    callback: Any,
    *,
    steps: int,
    folder: Path,
    **more: Any,
) -> Trainer:
    settings: dict[str, Any] = {"learning_rate": 2e-3, "warmup_steps": 10, "lr_scheduler_type": "cosine"}
    arguments = TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        train_sampling_strategy="sequential",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **(settings | more),
    )
    mixture = Mixture(weights, unit="examples", normalise=True, seed=arguments.seed)
    mixed = MixtureDataset(train, mixture, num_examples=steps * BATCH)
    return Trainer(model, arguments, train_dataset=mixed, callbacks=[callback])


def compare_losses(steps: int, seeds: int, only: list[str] | None, folder: Path) -> dict[str, Any]:
    """Held-out losses after the same number of steps; equal weights always run, because all are compared with them."""
    train, held_out, natural = domains()
    equal = dict.fromkeys(train, 1 / len(train))
    sets = ValidationSets(held_out)
    plain = {"log_domain_loss": False}
    methods = {
        "equal weights": (equal, lambda: MixtureCallback(**plain)),
        "natural weights": (natural, lambda: MixtureCallback(**plain)),
        "Aioli": (equal, lambda: AioliCallback(held_out)),
        "Aioli, eta 1": (equal, lambda: AioliCallback(held_out, eta=1.0)),
        "Aioli, 2 x 1 steps": (equal, lambda: AioliCallback(held_out, lp_steps=1)),
        "Aioli, static": (equal, lambda: AioliCallback(held_out, static=True)),
        "DoGE": (equal, lambda: DoGECallback(held_out)),
        "Skill-It": (equal, lambda: SkillItCallback(held_out)),
        "ODM": (equal, ODMCallback),
        "DoReMi": (equal, lambda: DoReMiCallback(held_out, references[-1])),
    }
    methods = {name: method for name, method in methods.items() if not only or name in [*only, "equal weights"]}
    references: list[Any] = []
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    progress = tqdm(total=seeds * len(methods), desc="runs")
    for seed in range(seeds):
        for name, (weights, build) in methods.items():
            callback = build()
            trainer = trainer_of(
                new_model(seed), train, weights, callback, steps=steps, folder=folder, seed=seed, data_seed=seed
            )
            start = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - start
            losses = sets.losses(trainer.model, batch_size=BATCH)
            history = callback.report() if isinstance(callback, MixingLawCallback) else None
            runs[name].append(
                {
                    "seed": seed,
                    "losses": dict(zip(sets.names, losses.tolist(), strict=True)),
                    "mean": float(losses.mean()),
                    "seconds": seconds,
                    "decisions": len(history["rounds"]) if history else 0,
                    "num_evaluations": history["num_evaluations"] if history else 0,
                    "last_weights": history["rounds"][-1]["weights"] if history and history["rounds"] else weights,
                }
            )
            if name == "equal weights":
                references.append(trainer.model)
            progress.update()
    base = np.array([run["mean"] for run in runs["equal weights"]])
    summary = {
        name: {
            "mean": float(np.mean([run["mean"] for run in group])),
            "excess_over_equal": float(np.mean(np.array([run["mean"] for run in group]) / base - 1)),
            "worst_excess": float(np.max(np.array([run["mean"] for run in group]) / base - 1)),
        }
        for name, group in runs.items()
    }
    return {"steps": steps, "seeds": seeds, "natural": natural, "runs": runs, "summary": summary}


def fidelity(parent: int, horizon: int, mixtures: int, seed: int, folder: Path) -> dict[str, Any]:
    """Matrices measured from a checkpoint against A* of a sweep from it."""
    train, held_out, _ = domains()
    equal = dict.fromkeys(train, 1 / len(train))
    sets = ValidationSets(held_out)
    more = {"lr_scheduler_type": "constant_with_warmup", "seed": seed, "data_seed": seed}

    def child(weights: dict[str, float], callback: Any, steps: int) -> Trainer:
        """A run from the checkpoint: model and optimizer as the parent left them."""
        model = new_model(seed)
        model.load_state_dict(state)
        trainer = trainer_of(
            model, train, weights, callback, steps=steps, folder=folder, **(more | {"warmup_steps": 0})
        )
        trainer.create_optimizer()
        trainer.optimizer.load_state_dict(optimizer)
        trainer.train()
        return trainer

    first = trainer_of(
        new_model(seed), train, equal, MixtureCallback(log_domain_loss=False), steps=parent, folder=folder, **more
    )
    first.train()
    state = {name: tensor.clone() for name, tensor in first.model.state_dict().items()}
    optimizer = first.optimizer.state_dict()
    before = sets.losses(first.model, batch_size=BATCH)

    shares = np.random.default_rng(seed).dirichlet(np.ones(len(train)), size=mixtures)
    drops = []
    for row in tqdm(shares, desc="sweep"):
        weights = dict(zip(train, row.tolist(), strict=True))
        trainer = child(weights, MixtureCallback(log_domain_loss=False), horizon)
        drops.append(before - sets.losses(trainer.model, batch_size=BATCH))
    target = np.linalg.lstsq(shares, np.array(drops), rcond=None)[0].T
    explained = 1 - np.sum((np.array(drops) - shares @ target.T) ** 2) / np.sum((drops - np.mean(drops, axis=0)) ** 2)

    found: dict[str, Any] = {}
    for name, sweeps, size in (("4 x 4 steps", 4, 4), ("2 x 4 steps", 2, 4), ("2 x 1 steps", 2, 1)):
        aioli = AioliCallback(held_out, lp_rounds=sweeps, lp_steps=size, static=True, seed=seed)
        child(equal, aioli, sweeps * size * len(train) + 4)
        measured = aioli.history[0]
        found[f"Aioli, {name}"] = np.array(measured["effects"])
        found[f"diagonal, {name}"] = diagonal_effects(np.array(measured["drops"]), np.array(measured["shares"]))
    doge = DoGECallback(held_out, update_steps=1, num_rows=16, full=True)
    child(equal, doge, 2)
    found["DoGE"] = np.array(doge.history[0]["effects"])
    return {
        "parent_steps": parent,
        "horizon": horizon,
        "mixtures": mixtures,
        "seed": seed,
        "target": target.tolist(),
        "explained_variance": float(explained),
        "methods": {
            name: {"effects": effects.tolist(), "similarity": similarity(effects, target)}
            for name, effects in found.items()
        },
    }


def main() -> None:
    """Run everything, print tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", help="of the first table; default: all")
    parser.add_argument("--parents", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--horizon", type=int, default=24)
    parser.add_argument("--mixtures", type=int, default=10)
    parser.add_argument("--only", choices=["losses", "fidelity"])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, nothing is written")
    options = parser.parse_args()
    if options.smoke:
        options.steps, options.seeds, options.parents, options.horizon, options.mixtures = 64, 1, [8], 4, 4
    transformers_logging.set_verbosity_error()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        if options.only != "fidelity":
            results["losses"] = compare_losses(options.steps, options.seeds, options.methods, Path(name))
            rows = [
                [method, f"{entry['mean']:.4f}", f"{entry['excess_over_equal']:+.2%}", f"{entry['worst_excess']:+.2%}"]
                for method, entry in results["losses"]["summary"].items()
            ]
            print_table(["method", "mean loss", "against equal", "worst seed"], rows)
        if options.only != "losses":
            results["fidelity"] = [
                fidelity(parent, options.horizon, options.mixtures, seed, Path(name))
                for parent in options.parents
                for seed in range(options.seeds)
            ]
            rows = [
                [str(entry["parent_steps"]), str(entry["seed"]), method, f"{values['similarity']:.3f}"]
                for entry in results["fidelity"]
                for method, values in entry["methods"].items()
            ]
            print_table(["after steps", "seed", "method", "similarity to A*"], rows)
    if not options.smoke:
        write("online", results)


if __name__ == "__main__":
    main()
