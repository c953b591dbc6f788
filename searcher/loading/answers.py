"""Where the answers of a chat are in its text, so that a healing can learn from them alone."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searcher.errors import UsageError, first_line
from searcher.loading.chat import Conversation

Spans = tuple[tuple[int, int], ...]
"""Beginnings and ends, in characters of a document."""

ANSWERS = "assistant"
"""The role whose messages are answers."""

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


def find_answers(tokenizer: Any, conversation: Conversation, text: str) -> Spans:
    """The spans of the answers, each with the token that ends the turn, if one follows at once.

    A template that marks them itself (`{% generation %}`) is believed. Of another one, they are where the text differs
    from that of the same chat with other words in it.

    Args:
        tokenizer: with a chat template.
        conversation: the chat.
        text: what the template makes of it.

    Raises:
        UsageError: the template does not write the messages as they are, so that they cannot be found.
    """
    if _MARKED.search(tokenizer.get_chat_template()):
        return _marked(tokenizer, conversation)
    frames = _frames(tokenizer, conversation)
    ends = sorted(filter(None, tokenizer.all_special_tokens), key=len, reverse=True)
    spans, place = [], len(frames[0])
    matches = text.startswith(frames[0])
    for message, frame in zip(conversation.messages, frames[1:], strict=True):
        end = _end(text, place, message["content"], frame)
        matches = matches and end is not None
        if end is None:
            break
        if message["role"] == ANSWERS:
            turn = next((len(token) for token in ends if frame.startswith(token)), 0)
            spans.append((place, end + turn))
        place = end + len(frame)
    if not matches or place != len(text):
        raise _not_found(conversation, "it does not write the messages as they are")
    return tuple(spans)


def _marked(tokenizer: Any, conversation: Conversation) -> Spans:
    found = tokenizer.apply_chat_template(
        list(conversation.messages),
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"return_offsets_mapping": True},
    )
    places = zip(found["offset_mapping"], found["assistant_masks"], strict=True)
    return tuple((start, end) for (start, end), answered in places if answered)


def _frames(tokenizer: Any, conversation: Conversation) -> list[str]:
    """What the template writes before, between and after the messages."""
    marks = [f"\ue000{number}\ue001" for number in range(len(conversation.messages))]
    messages = [{**one, "content": mark} for one, mark in zip(conversation.messages, marks, strict=True)]
    try:
        rest = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception as error:  # a template is a program of the model's, and may fail in any way
        raise _not_found(conversation, first_line(error)) from error
    frames = []
    for mark in marks:
        frame, found, rest = rest.partition(mark)
        if not found:
            raise _not_found(conversation, "it leaves messages out, or moves them")
        frames.append(frame)
    return [*frames, rest]


def _end(text: str, place: int, content: str, frame: str) -> int | None:
    """Where a message ends that begins there, as it is or without spaces around it, and is followed by that frame."""
    for written in (content, content.strip(), content.lstrip(), content.rstrip()):
        if text.startswith(written + frame, place):
            return place + len(written)
    return None


def _not_found(conversation: Conversation, why: str) -> UsageError:
    return UsageError(
        f"{conversation.place}: the answers cannot be found in what the chat template makes of this chat ({why})",
        "Mark them in the template with {% generation %}, leave the row out, or leave --heal-answers out",
    )


def covered(offsets: Sequence[tuple[int, int]], spans: Spans, length: int) -> NDArray[np.bool_]:
    """Of each token, whether a character of it is in one of the spans.

    Args:
        offsets: where each token begins and ends.
        spans: see :data:`Spans`.
        length: of the text, in characters.
    """
    inside = np.zeros(length + 1, dtype=np.int64)
    for start, end in spans:
        inside[start + 1 : end + 1] = 1
    before = np.cumsum(inside)
    places = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    covers: NDArray[np.bool_] = before[places[:, 1]] > before[places[:, 0]]
    return covers
