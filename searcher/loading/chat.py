"""Chats as they are read: rows of `messages`, each with a role and what was said."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from searcher.contracts.json_lines import kind_of
from searcher.errors import UsageError

FRAME = ("system", "developer")
"""Roles whose messages many chats have in common, without being the same text."""


@dataclass(frozen=True)
class Conversation:
    """The messages of one chat.

    Attributes:
        messages: each has `role` and `content`, both text.
        place: where it was read, for errors.
    """

    messages: tuple[Mapping[str, Any], ...]
    place: str

    @property
    def said(self) -> str:
        """What was said in it: all messages but those of the system, a line between two."""
        return "\n".join(message["content"] for message in self.messages if message["role"] not in FRAME)


def conversation_of(messages: Any, place: str) -> Conversation:
    """The `messages` of a row, checked.

    Args:
        messages: what the row holds.
        place: file and row, for errors.

    Raises:
        UsageError: they are no list of messages with role and content.
    """
    wanted = 'Write it as {"messages": [{"role": "user", "content": "…"}, …]}'
    if not isinstance(messages, list):
        raise UsageError(f"{place}: 'messages' is no list, but {kind_of(messages)}", wanted)
    if not messages:
        raise UsageError(f"{place}: 'messages' is empty", "Leave such rows out")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping):
            raise UsageError(f"{place}: message {number} is no object, but {kind_of(message)}", wanted)
        for field in ("role", "content"):
            if field not in message:
                raise UsageError(f"{place}: message {number} has no '{field}'", wanted)
            if not isinstance(message[field], str):
                found = kind_of(message[field])
                raise UsageError(f"{place}: the {field} of message {number} is no text, but {found}", wanted)
    return Conversation(tuple(messages), place)


Render = Callable[[Conversation], str]
"""Writes a chat as text."""
