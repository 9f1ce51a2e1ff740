"""Task-level routing: the task of a sequence, or token, decides on its experts.

Letters: T tokens, E experts, K chosen, H hidden, N tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hf_mixture.moe.anatomy import RouterOutput
from hf_mixture.moe.routers.allowed import check_groups, check_ids, membership, route_allowed
from hf_mixture.moe.routers.base import RegistryRouter, RouterShape
from hf_mixture.moe.routers.checks import check_integer
from hf_mixture.moe.routers.registry import register_router


TASK_KEY = "task_ids"


def route_fixed(ids: Tensor, groups: Sequence[Sequence[int]], num_experts: int, dtype: torch.dtype) -> RouterOutput:
    """Send every token to all experts of its task, with equal weights.

    Args:
        ids: Tasks of the tokens [T].
        groups: Experts of each task.
        num_experts: E.
        dtype: Type of logits and weights.

    Returns:
        Logits [T, E], 0 at the experts of the task and the smallest finite number elsewhere; weights and indices
        [T, K], where K is the length of the longest list; shorter ones are filled up with index E and weight 0.
    """
    longest = max(len(group) for group in groups)
    table = torch.tensor([[*group, *[num_experts] * (longest - len(group))] for group in groups], device=ids.device)
    indices = table[ids]
    used = indices < num_experts
    weights = used.to(dtype) / used.sum(dim=-1, keepdim=True)
    logits = torch.zeros(len(ids), num_experts, dtype=dtype, device=ids.device)
    allowed = membership(groups, num_experts, ids.device)[ids]
    return RouterOutput(logits.masked_fill(~allowed, torch.finfo(dtype).min), weights, indices)


def task_logits(hidden: Tensor, ids: Tensor, weight: Tensor) -> Tensor:
    """Logits by the gate of each token's task: z = W_task x.

    Args:
        hidden: Hidden states [T, H].
        ids: Tasks of the tokens [T].
        weight: Gates of the tasks [N, E, H].

    Returns:
        Raw logits [T, E].
    """
    by_task = torch.einsum("th,neh->tne", hidden, weight)
    return by_task.gather(1, ids.view(-1, 1, 1).expand(-1, 1, weight.shape[1])).squeeze(1)


@register_router(
    "task",
    causal=True,
    context=(TASK_KEY,),
    paper="https://arxiv.org/abs/2110.03742",
    summary="Experts by task: fixed ones, learned ones, or those of a gate of the task.",
)
class TaskRouter(RegistryRouter):
    """Experts by the task id of each sequence, or token, in `task_ids` of the batch.

    With `experts`, a task has fixed experts, used with equal weights. Otherwise each task has a gate: the K largest
    logits, weighed by a softmax and divided by their sum if K > 1. That gate reads the token, or, without
    `reads_token`, is one row of logits, so that all tokens of a task go to the same, learned, experts.

    Args:
        shape: Numbers of experts, of hidden features and of choices.
        num_tasks: N, for gates; `experts` says it otherwise.
        experts: Fixed experts of each task.
        reads_token: Whether gates read the token.
    """

    def __init__(
        self,
        shape: RouterShape,
        *,
        num_tasks: int | None = None,
        experts: list[list[int]] | None = None,
        reads_token: bool = True,
    ) -> None:
        super().__init__(shape)
        if (num_tasks is None) == (experts is None):
            raise ValueError(
                f"num_tasks={num_tasks!r} with experts={experts!r}: give num_tasks for a gate of each task, or "
                "experts for fixed experts of each task"
            )
        self.experts: list[list[int]] | None = None
        self.reads_token = reads_token
        self.task_weight: nn.Parameter | None = None
        if experts is not None:
            self.experts = check_groups("experts", experts, shape.num_experts)
            self.num_tasks = len(experts)
        else:
            self.num_tasks = check_integer("num_tasks", num_tasks or 0, at_least=1)
            features = (shape.hidden_size,) if reads_token else ()
            self.task_weight = nn.Parameter(torch.empty(self.num_tasks, shape.num_experts, *features))

    @property
    def pads(self) -> bool:
        """Tasks may have lists of different lengths."""
        return self.experts is not None and len({len(group) for group in self.experts}) > 1

    def reset_parameters(self, std: float) -> None:
        """Draw the gates from a normal distribution."""
        if self.task_weight is not None:
            nn.init.normal_(self.task_weight, std=std)

    def route(self, hidden: Tensor) -> RouterOutput:
        """Look up the task of each token, and choose its experts."""
        assert self.context is not None  # noqa: S101 - the entry asks for one
        ids = check_ids(TASK_KEY, self.context.per_token(TASK_KEY, len(hidden)), self.num_tasks)
        if self.experts is not None:
            return route_fixed(ids, self.experts, self.num_experts, hidden.dtype)
        assert self.task_weight is not None  # noqa: S101 - without fixed experts there are gates
        logits = task_logits(hidden, ids, self.task_weight) if self.reads_token else self.task_weight[ids]
        return route_allowed(logits, torch.ones_like(logits, dtype=torch.bool), self.top_k)
