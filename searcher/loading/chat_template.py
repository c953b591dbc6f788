"""Chats written as text, by the chat template of the model's tokenizer."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

from searcher.errors import UsageError, first_line
from searcher.loading.answers import Spans, find_answers
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
        return self._without_bos(self._written(conversation))

    def _written(self, conversation: Conversation) -> str:
        try:
            return str(self._tokenizer.apply_chat_template(list(conversation.messages), tokenize=False))
        except UsageError:
            raise
        except Exception as error:  # a template is a program of the model's, and may fail in any way
            raise UsageError(
                f"{conversation.place}: the chat template of {self._model} does not take these messages "
                f"({first_line(error)})",
                "Change the row, such as its roles or their order, or leave it out",
            ) from error

    def answers(self, conversation: Conversation) -> Spans:
        """Where the answers are in what :meth:`render` gives.

        Raises:
            UsageError: they cannot be found, or the tokenizer does not tell where its tokens are.
        """
        tokenizer = self._tokenizer
        if not tokenizer.is_fast:
            raise UsageError(
                f"The tokenizer of {self._model} does not tell where in a text its tokens are, so that answers cannot "
                "be told from questions",
                "Leave --heal-answers out, or save the model with a fast tokenizer",
            )
        whole = self._written(conversation)
        dropped = len(whole) - len(self._without_bos(whole))
        found = find_answers(tokenizer, conversation, whole)
        return tuple((start - dropped, end - dropped) for start, end in found)

    def _without_bos(self, text: str) -> str:
        return text.removeprefix(self._tokenizer.bos_token) if bos_token(self._tokenizer) else text
