"""A randomly initialised checkpoint of any size, written shard by shard: for trying what large models take."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.setting import start
from benchmarks.steps import Steps
from searcher.checkpoint.target import check_room, check_target, new_folder
from searcher.checkpoint.tensor_file import TensorSpec, write_tensors
from searcher.errors import UsageError
from searcher.loading.embedded import find_embedded
from searcher.loading.gguf import convert_gguf

HEAD = 128
"""Numbers of an attention head, as in Llama of 7 billion parameters and more."""
ASPECT = 108
"""Width over depth, about that of Llamas of 3 to 70 billion parameters."""
DEVIATION = 0.02
"""Of random weights, as transformers initialises them."""
INDEX = "model.safetensors.index.json"


def shape_of(parameters: float, vocabulary: int) -> LlamaConfig:
    """The config of a Llama with about so many parameters, embedding and head being one.

    Raises:
        UsageError: the embedding alone would be more.
    """
    shapes = [_config(width, parameters, vocabulary) for width in range(4 * HEAD, 64 * 4 * HEAD, 4 * HEAD)]
    fitting = [one for one in shapes if one.num_hidden_layers >= 4]
    if not fitting:
        raise UsageError(f"{parameters:g} parameters are too few for {vocabulary:,} tokens", "Take 4e7 or more")
    return min(fitting, key=lambda one: abs(one.hidden_size / one.num_hidden_layers - ASPECT))


def _config(width: int, parameters: float, vocabulary: int) -> LlamaConfig:
    heads = width // HEAD
    inner = -(-width * 8 // 3 // 256) * 256
    block = 2 * width * width * (1 + 1 / 4) + 3 * width * inner
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=max(1, round((parameters - vocabulary * width) / block)),
        num_attention_heads=heads,
        num_key_value_heads=heads // 4,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )


def shards_of(config: LlamaConfig, size: int) -> list[list[TensorSpec]]:
    """The weights of a model in bfloat16, in files of about this many bytes."""
    with torch.device("meta"):
        weights = dict(LlamaForCausalLM(config).named_parameters())
    shards: list[list[TensorSpec]] = [[]]
    for name, weight in weights.items():
        one = TensorSpec(name, "BF16", tuple(weight.shape), 2 * weight.numel())
        if shards[-1] and sum(other.bytes for other in shards[-1]) + one.bytes > size:
            shards.append([])
        shards[-1].append(one)
    return shards


def random_bytes(tensors: list[TensorSpec], random: torch.Generator) -> Iterator[list[bytes]]:
    """Ones for norms, else numbers of a normal distribution."""
    for one in tensors:
        made = torch.ones(one.shape, dtype=torch.bfloat16)
        if len(one.shape) > 1:
            made.normal_(0.0, DEVIATION, generator=random)
        yield [made.view(torch.int16).numpy().data.cast("B")]  # type: ignore[list-item]  # a view of the same bytes


def write_checkpoint(folder: Path, config: LlamaConfig, shard_bytes: int, seed: int) -> None:
    """Write weights, index, config, and the tokenizer of the embedded model into an empty folder."""
    shards, random = shards_of(config, shard_bytes), torch.Generator().manual_seed(seed)
    places: dict[str, str] = {}
    total = sum(one.bytes for shard in shards for one in shard)
    with Steps("big_checkpoint") as steps:
        steps.expect(total)
        for number, shard in enumerate(shards, start=1):
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            steps.at(name)
            for written in write_tensors(folder / name, shard, random_bytes(shard, random), {"format": "pt"}):
                steps.done(written)
            places |= dict.fromkeys((one.name for one in shard), name)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    config.save_pretrained(folder)
    source, _ = convert_gguf(find_embedded())
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copyfile(source / file, folder / file)


def main(
    folder: Annotated[Path, typer.Argument(help="Of the new checkpoint.")],
    parameters: Annotated[float, typer.Option(help="About how many.")] = 3e9,
    shard_bytes: Annotated[float, typer.Option(help="About how large a file becomes.")] = 1e9,
    seed: Annotated[int, typer.Option(help="Of the random numbers.")] = 0,
) -> None:
    """A Llama in bfloat16 with random weights and the tokenizer of the embedded model, in shards.

    Takes a minute and 6 GB for 3 billion parameters, and little memory.
    """
    check_target(folder, False)
    source, _ = convert_gguf(find_embedded())
    given = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config = shape_of(parameters, given["vocab_size"])
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, token, given[token])
    check_room(folder, 2 * round(parameters))
    with new_folder(folder, False) as partial:
        write_checkpoint(partial, config, int(shard_bytes), seed)
    typer.echo(f"{folder}: {config.num_hidden_layers} blocks of width {config.hidden_size}", file=sys.stderr)


if __name__ == "__main__":
    start(main)
