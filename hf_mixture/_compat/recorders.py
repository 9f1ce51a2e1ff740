"""What the models of transformers declare that they can record."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel
from transformers.utils.output_capturing import OutputRecorder


def recorded_classes(model: nn.Module, key: str) -> tuple[type[nn.Module], ...]:
    """The module classes whose outputs a model records under one key.

    Args:
        model: A model; the declarations of all `PreTrainedModel` inside it count.
        key: Such as `"router_logits"`.

    Returns:
        The classes, each once, in the order of the modules.
    """
    classes: dict[type[nn.Module], None] = {}
    for module in model.modules():
        if not isinstance(module, PreTrainedModel):
            continue
        declared = (module._can_record_outputs or {}).get(key, ())
        for recorder in declared if isinstance(declared, list) else [declared] if declared else ():
            target = recorder.target_class if isinstance(recorder, OutputRecorder) else recorder
            # A recorder of several classes holds a tuple of them.
            for one in target if isinstance(target, tuple) else (target,):
                if isinstance(one, type):
                    classes[one] = None
    return tuple(classes)
