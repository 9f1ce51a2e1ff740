"""Traces of routing: how often each expert was chosen, by optimizer step and layer."""

from hf_mixture.moe.trace.trace import RouterTrace as RouterTrace
from hf_mixture.moe.trace.trace import TracedRouter as TracedRouter
from hf_mixture.moe.trace.trace import load_trace as load_trace
