"""Inner parts of the Trainer that this package relies on.

A callback that adds to a log entry in `on_log` comes too late for the reporters, which the Trainer places before it,
and for `log_history`, which the Trainer has extended already.
"""

from __future__ import annotations

import functools
from typing import Any

from transformers.trainer_callback import CallbackHandler


_MARK = "_hf_mixture_extends_logs"


def extend_logs() -> None:
    """Let callbacks with a method `extend_logs(args, state, logs)` add to a log entry before anybody sees it.

    What the method returns, a dictionary, becomes part of the entry of `log_history` and of what all callbacks get.
    Callbacks without the method, and Trainers without such callbacks, notice nothing. A second call changes nothing.
    """
    original = CallbackHandler.on_log
    if hasattr(original, _MARK):
        return

    @functools.wraps(original)
    def on_log(self: Any, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> Any:
        for callback in self.callbacks:
            if hasattr(callback, "extend_logs"):
                more = callback.extend_logs(args, state, logs)
                logs.update(more)
                state.log_history[-1].update(more)
        return original(self, args, state, control, logs, **kwargs)

    setattr(on_log, _MARK, True)
    CallbackHandler.on_log = on_log
