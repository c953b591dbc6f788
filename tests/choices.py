"""Made-up multiple-choice items, as a file and as a local task of lm-evaluation-harness, and a tokenizer for them."""

import json
import random
from pathlib import Path

import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LETTERS = "abcdefgh"


def make_items(count: int, seed: int = 0, empty_contexts: bool = False) -> list[dict]:
    """Items of two to four choices; some contexts end with spaces, and some are empty if that is wanted."""
    rng = random.Random(seed)

    def words(low, high):
        return " ".join("".join(rng.choices(LETTERS, k=rng.randint(1, 5))) for _ in range(rng.randint(low, high)))

    items = []
    for number in range(count):
        choices = [words(1, 5) for _ in range(rng.randint(2, 4))]
        context = "" if empty_contexts and number % 4 == 0 else words(1, 8) + rng.choice(["", "", " ", "  "])
        items.append({"context": context, "choices": choices, "answer": rng.randrange(len(choices))})
    return items


def write_items(path: Path, items: list[dict]) -> Path:
    """One item a line."""
    path.write_text("".join(f"{json.dumps(item)}\n" for item in items))
    return path


def write_task(folder: Path, items: list[dict], **fields) -> Path:
    """A task of lm-evaluation-harness on these items; the file of the task."""
    folder.mkdir(exist_ok=True)
    data = write_items(folder / "items.jsonl", items)
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    task = {
        "task": "made_up",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": metrics,
    }
    path = folder / "made_up.yaml"
    path.write_text(yaml.safe_dump(task | fields))
    return path


def merging_tokenizer(adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer of 97 entries that merges letters, so that tokens depend on what stands beside them."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=97, special_tokens=["[UNK]", "[BOS]", "[EOS]"], show_progress=False)
    text = [f"{item['context']} {choice}" for item in make_items(200, seed=7) for choice in item["choices"]]
    tokenizer.train_from_iterator(text, trainer)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="[BOS] $A", special_tokens=[("[BOS]", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", bos_token="[BOS]", eos_token="[EOS]")
