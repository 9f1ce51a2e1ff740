"""A run with Aioli that is killed and started again; see test_killed.py."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint


sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

from online_run import Recorder, domains, make

from hf_mixture.data.online import AioliCallback
from hf_mixture.training.stage import remove_torn_checkpoints


class Log(TrainerCallback):
    """Writes what each step trained on and what it led to, as soon as it is done; slow enough to be killed."""

    def __init__(self, path: Path, recorder: Recorder, seconds: float) -> None:
        self.path, self.recorder, self.seconds = path, recorder, seconds

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            entry = {"step": state.global_step, "logs": logs, "digests": self.recorder.digests}
            with self.path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
            self.recorder.digests = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        time.sleep(self.seconds)


if __name__ == "__main__":
    folder, restore, seconds = Path(sys.argv[1]), sys.argv[2] == "restore", float(sys.argv[3])
    folder.mkdir(exist_ok=True)
    remove_torn_checkpoints(folder, 1)
    recorder = Recorder()
    trainer = make(
        folder,
        AioliCallback(domains()[1], lp_rounds=1, lp_steps=2, update_steps=12, eta=5.0),
        recorder,
        Log(folder / "log.jsonl", recorder, seconds),
        save_strategy="steps",
        save_steps=1,
        restore_callback_states_from_checkpoint=restore,
        dataloader_num_workers=1,
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if os.listdir(folder) else None)
