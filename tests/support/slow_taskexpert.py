"""TaskExpert one image, one task, one expert and one pixel at a time: the reference for the model and its losses."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def expert_map(block: Any, features: Tensor, expert: int, num_experts: int) -> Tensor:
    """One expert of a level [D, h, w], by its own slice of the weights, in evaluation mode."""
    weight = block.convolution.weight.chunk(num_experts)[expert]
    norm = block.normalization
    part = slice(expert * len(weight), (expert + 1) * len(weight))
    found = F.conv2d(features[None], weight, padding=weight.shape[-1] // 2)
    scaled = (found - norm.running_mean[part, None, None]) / (norm.running_var[part, None, None] + norm.eps).sqrt()
    return F.gelu(scaled * norm.weight[part, None, None] + norm.bias[part, None, None])[0]


def forward(model: Any, image: Tensor) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Logits maps by task, and gates by level and task, of one image [3, H, W]."""
    config = model.config
    maps = [features[0] for features in model.backbone(image[None]).feature_maps]
    grid = tuple(maps[0].shape[1:])
    logits, gates = {}, [{} for _ in maps]
    for task in config.tasks:
        if config.memory_init == "feature":
            memory = model.first_memory[task](maps[0][None])[0]
        else:
            memory = model.first_memory[task][:, None, None].repeat(1, *grid)
        for number, (projection, level, features) in enumerate(
            zip(model.projections, model.levels, maps, strict=True)
        ):
            x = F.interpolate(projection(features[None]), size=grid, mode="bilinear", align_corners=False)[0]
            gate = level.gates[task].classifier
            context = [float(channel.detach().sum() / channel.numel()) for channel in (*x, *memory)]
            raw = [
                math.fsum(float(w) * c for w, c in zip(row.tolist(), context, strict=True)) + float(b.detach())
                for row, b in zip(gate.weight, gate.bias, strict=True)
            ]
            shares = [math.exp(value - max(raw)) for value in raw]
            scores = [value / sum(shares) for value in shares]
            gates[number][task] = torch.tensor(scores)
            mixed = scores[-1] * memory
            for expert in range(config.num_experts):
                mixed = mixed + scores[expert] * expert_map(level.experts, x, expert, config.num_experts)
            written = level.updates[task](mixed[None])[0]
            memory = memory + written if config.memory_update == "residual" else written
        small = model.heads[task](memory[None])
        logits[task] = F.interpolate(small, size=image.shape[1:], mode="bilinear", align_corners=False)[0]
    return logits, gates


def loss(
    task: str, logits: Tensor, labels: Tensor, ignore_value: int = 255, edge_weight: float | None = 0.95
) -> float:
    """A loss by loops over pixels."""
    pixels = []
    for image in range(len(logits)):
        for y in range(logits.shape[2]):
            for x in range(logits.shape[3]):
                given = labels[image, ..., y, x]
                if (given != ignore_value).all():
                    pixels.append((logits[image, :, y, x].tolist(), given.tolist()))
    positives = sum(given == 1 for _, given in pixels)
    share = 1 - positives / len(pixels)
    total = 0.0
    for raw, given in pixels:
        if task in ("semseg", "parts", "saliency"):
            nats = math.log(sum(math.exp(value) for value in raw)) - raw[given]
            total += nats * ((share if given == 1 else 1 - share) if task == "saliency" else 1)
        elif task == "edges":
            w = share if edge_weight is None else edge_weight
            probability = 1 / (1 + math.exp(-raw[0]))
            total -= w * math.log(probability) if given == 1 else (1 - w) * math.log(1 - probability)
        elif task == "normals":
            length = math.sqrt(sum(value * value for value in raw))
            total += sum(abs(value / length - true) for value, true in zip(raw, given, strict=True))
        else:
            total += abs(raw[0] - given)
    return total / len(pixels)
