"""The text of a configuration: read before the model is loaded, as far as it need not be written by the model."""

from collections.abc import Callable
from typing import Any

from searcher.errors import UsageError
from searcher.loading.chat_template import ChatTemplate
from searcher.loading.model import LoadedModel, load_tokenizer
from searcher.loading.sources import MAX_CHARACTERS
from searcher.loading.text import Reading, Texts, read_texts
from searcher.replay.own_text import write_text
from searcher.runs.config import MeasurementConfig
from searcher.runs.defaults import default_amounts
from searcher.runs.generated import Generated


def begin_reading(
    config: MeasurementConfig, say: Callable[[str], None], load: Callable[[], Any] | None = None
) -> Reading:
    """Read what can be read without the model.

    Args:
        config: names the texts.
        say: told what a user should know of them.
        load: gives the tokenizer, where there are chats; by default it is loaded alone.

    Raises:
        UsageError: a text cannot be read.
    """

    def tokenizer() -> Any:
        return load_tokenizer(config.model, revision=config.revision, trust_remote_code=config.trust_remote_code)

    say("Reading the text")
    template = ChatTemplate(load or tokenizer, config.model or "the default model")
    answers = template.answers if config.heal_answers else None
    reading = read_texts(config.data, template.render, config.heal_data, answers)
    if config.heal_answers:
        _refuse_text(reading)
    for name in reading.truncated:
        say(f"{name} is longer than {MAX_CHARACTERS:,} characters; the rest is left out")
    return reading


def _refuse_text(reading: Reading) -> None:
    for one in reading.healed_on:
        if isinstance(one, Generated) or one.answers is None:
            raise UsageError(
                f"--heal-answers is for chats, and '{one.name}' holds none",
                "Give chats ('messages') to heal on with --heal-data, or leave --heal-answers out",
            )


def finish_reading(
    reading: Reading, config: MeasurementConfig, model: LoadedModel, say: Callable[[str], None]
) -> Texts:
    """All of the text, with what the model writes itself.

    Raises:
        UsageError: the model cannot write, two texts are the same, or nothing is left to heal on.
    """
    tokens = config.window_tokens or default_amounts(model.device.type)["window_tokens"]
    return reading.split(lambda wanted: write_text(wanted, model, tokens, say))
