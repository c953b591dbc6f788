"""A checkpoint and a text so small that a whole run takes a second."""

import json
import random
from pathlib import Path

from families import tiny_model

from searcher.testing import tiny_tokenizer

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


def command(folder: Path) -> list[str]:
    """The options of the command line for the checkpoint and text in this folder."""
    flags = [text for name, value in OPTIONS.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return ["--model", str(folder / "model"), "--data", str(folder / "text.jsonl"), *flags]


SLOW_OBJECTIVE = '''
import time
from objectives.loss import Loss

class Slow(Loss):
    """The loss, taken slowly, so that there is time to be killed."""
    def measure(self, candidate):
        time.sleep(0.01)
        return super().measure(candidate)
'''


def slow_run(folder: str, runs_dir: str) -> None:
    """A run of some 80 plans; for a process of its own."""
    import searcher

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
        **OPTIONS,
    )
