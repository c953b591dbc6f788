"""A checkpoint and a text so small that a whole run takes a second."""

import json
import os
import random
from collections.abc import Collection
from pathlib import Path

import torch
from families import tiny_model

from searcher.testing import tiny_tokenizer

# on models this small threads only wait for one another: a run takes a fifth of the time with one
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

OPTIONS = {"windows": 4, "window_tokens": 16, "report_windows": 32, "dtype": "float32", "device": "cpu"}
"""What a run on this text must ask for."""


def save_tiny_checkpoint(folder: Path, num_blocks: int = 6) -> Path:
    """A random Llama whose blocks all matter, with a tokenizer of characters."""
    tiny_model("llama", num_blocks=num_blocks).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_text(path: Path, documents: int = 60) -> Path:
    """JSON lines of made-up sentences, the same every time."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 8))) for _ in range(400)]
    rows = [{"text": " ".join(rng.choices(words, k=30))} for _ in range(documents)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def command(folder: Path, without: Collection[str] = ()) -> list[str]:
    """The options of the command line for the checkpoint and text in this folder, but for some."""
    given = {name: value for name, value in OPTIONS.items() if name not in without}
    flags = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return ["--model", str(folder / "model"), "--data", str(folder / "text.jsonl"), *flags]


SLOW_OBJECTIVE = '''
import time
from objectives.loss import Loss

class Slow(Loss):
    """The loss, taken slowly, so that there is time to be killed."""
    def __init__(self, seconds: float = 0.004):
        self.seconds = seconds
    def measure(self, candidate):
        time.sleep(self.seconds)
        return super().measure(candidate)
'''


def slow_run(folder: str, runs_dir: str) -> None:
    """A run of some 70 plans, each measured in two groups of windows; for a process of its own."""
    import searcher
    import searcher.replay.batching

    searcher.replay.batching.GROUP_TOKENS["cpu"] = (
        64  # groups of four windows, so that a kill comes between those of a plan
    )
    searcher.run(
        model=f"{folder}/model",
        data=f"{folder}/text.jsonl",
        objective=f"{runs_dir}/slow.py:Slow",
        strategy="shapley",
        granularity="sublayer",
        budget=6,
        name="run",
        runs_dir=runs_dir,
        quiet=True,
        **{**OPTIONS, "windows": 6},
    )
