"""Chats written as text, by the chat template of the model's tokenizer."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

from searcher.errors import UsageError, first_line
from searcher.loading.chat import Conversation
from searcher.loading.windows import bos_token


class ChatTemplate:
    """Writes chats as the model's tokenizer does.

    Args:
        load: gives the tokenizer, from transformers; called when the first chat comes.
        model: what to call the model in errors.
    """

    def __init__(self, load: Callable[[], Any], model: str) -> None:
        self._load, self._model = load, model

    @cached_property
    def _tokenizer(self) -> Any:
        tokenizer = self._load()
        if not tokenizer.chat_template:
            raise UsageError(
                f"The data holds chats ('messages'), but the tokenizer of {self._model} has no chat template",
                "Take a model that was made for chats, or write each chat as one string into a field 'text'",
            )
        return tokenizer

    def render(self, conversation: Conversation) -> str:
        """The chat as text; without the BOS token where windows get one anyway.

        Raises:
            UsageError: the tokenizer has no template, or its template refuses the messages.
        """
        tokenizer = self._tokenizer
        try:
            text = str(tokenizer.apply_chat_template(list(conversation.messages), tokenize=False))
        except Exception as error:  # a template is a program of the model's, and may fail in any way
            raise UsageError(
                f"{conversation.place}: the chat template of {self._model} does not take these messages "
                f"({first_line(error)})",
                "Change the row, such as its roles or their order, or leave it out",
            ) from error
        return text.removeprefix(tokenizer.bos_token) if bos_token(tokenizer) else text
