"""What expert parallelism relies on of transformers and PyTorch."""

from __future__ import annotations

import inspect

from transformers.distributed.expert_parallel import EPImplementation, EPImplementationInterface

import hf_mixture  # noqa: F401 - registers the implementation
from hf_mixture._compat.collectives import exchange_rows


def test_the_implementation_is_registered_beside_those_of_transformers():
    names = list(EPImplementationInterface())
    assert "fssdp" in names
    assert "all_to_all" in names


def test_implementations_are_made_and_called_as_we_expect():
    """If one of these fails, transformers has changed how it makes or calls implementations."""
    assert list(inspect.signature(EPImplementation.__init__).parameters)[1:] == ["experts", "ep_mesh", "tp_mesh"]
    assert list(inspect.signature(EPImplementation.__call__).parameters)[1:] == [
        "hidden_states",
        "top_k_index",
        "top_k_weights",
    ]


def test_rows_are_exchanged_with_sizes_for_each_rank():
    assert list(inspect.signature(exchange_rows).parameters) == ["rows", "receive", "send", "group"]
