"""A stock Trainer that trains alone inside one of several processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager


_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def alone() -> Iterator[None]:
    """Hide the other processes from accelerate: a Trainer made inside neither splits its data nor averages gradients.

    accelerate learns of them from the variables that the launcher set, and keeps what it learnt in shared states; both
    are put back afterwards, so that an `Accelerator` from before works on.
    """
    from accelerate.state import AcceleratorState, GradientState, PartialState

    states = (PartialState, AcceleratorState, GradientState)
    saved = [dict(state._shared_state) for state in states]
    variables = {name: os.environ.pop(name) for name in _LAUNCHER if name in os.environ}
    # It warns that a process group exists and is not used, which is what is wanted here.
    warner = logging.getLogger("transformers.training_args")
    level = warner.level
    if variables:
        warner.setLevel(logging.ERROR)
    try:
        for state in states:
            state._shared_state.clear()
        yield
    finally:
        warner.setLevel(level)
        os.environ.update(variables)
        for state, content in zip(states, saved, strict=True):
            state._shared_state.clear()
            state._shared_state.update(content)
