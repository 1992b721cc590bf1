"""Recognize rows of which only a part is learned: conversations, and prompts with their completions.

A row that has the text field is a text. One without it may have `messages`, `prompt` and `completion`, or `instruction`
and `output`, with an optional `input`. Messages of errors name fields and roles, never what is said. Imports neither
torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any, NamedTuple

from hypergen.data.rows import checked_text, listed, text_of, value_of
from hypergen.errors import InputError
from hypergen.storage.strict_json import kind_of
from hypergen.text.config import Settings

ASSISTANT, USER = "assistant", "user"
MESSAGES, INPUT = "messages", "input"
INSTRUCTION = ("instruction", "output")
FIELDS = ((MESSAGES,), ("prompt", "completion"), INSTRUCTION)  # of rows without the text field, the first ones first
PARAGRAPH = "\n\n"  # between instruction, input and output


class Message(NamedTuple):
    """Hold one turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """Hold messages, to be written by a tokenizer's chat template; the assistant's are learned."""

    messages: tuple[Message, ...]


@dataclass(frozen=True)
class PromptCompletion:
    """Hold a prompt and the completion that is learned."""

    prompt: str
    completion: str


Example = Conversation | PromptCompletion


def plain_text(item: object) -> str:
    """Return an item that is a text.

    Raises:
        InputError: it is a row of which a part is learned.
    """
    if not isinstance(item, str):
        raise InputError("texts are needed here, and a row has messages or a prompt and its completion; name one kind")
    return item


def has_text(item: str | Example) -> bool:
    """Tell whether there is anything but white space to learn."""
    if isinstance(item, PromptCompletion):
        return bool(item.completion.strip())
    if isinstance(item, Conversation):
        return any(message.content.strip() for message in item.messages if message.role == ASSISTANT)
    return bool(item.strip())


def fields_of(names: Container[str], field: str) -> tuple[str, ...]:
    """Choose the fields that make the item of a row: the text field, or where that is missing those of an example.

    Args:
        names: of the row's fields.
        field: the text field; one that the user names, other than the default, has no substitute.
    """
    if field in names or field != Settings.text_field:
        return (field,)
    return next((fields for fields in FIELDS if all(name in names for name in fields)), (field,))


def item_of(field: str, where: str, row: dict[str, Any]) -> str | Example:
    """Make the item of a row.

    Args:
        field: the text field; one that is called `messages` holds those.
        where: how messages of errors begin.
        row: its fields.

    Raises:
        InputError: the fields are missing or hold something else; it says what is allowed.
    """
    fields = fields_of(row, field)
    if fields[0].split(".")[-1] == MESSAGES:
        return _conversation(where, fields[0], value_of(where, row, fields[0]))
    if len(fields) == 1:
        return text_of(where, row, field)
    first, second = (text_of(where, row, name) for name in fields)
    if fields != INSTRUCTION:
        return PromptCompletion(first, second)
    given = "" if row.get(INPUT) is None else text_of(where, row, INPUT)
    return PromptCompletion("".join(part + PARAGRAPH for part in (first, given) if part), second)


def _conversation(where: str, field: str, value: Any) -> Conversation:
    if not isinstance(value, list):
        raise InputError(f"{where}: field '{field}' is {kind_of(value)}, not an array of objects with role and content")
    messages = tuple(_message(where, f"{field}[{number}]", one) for number, one in enumerate(value))
    if all(message.role != ASSISTANT for message in messages):
        roles = listed(dict.fromkeys(message.role for message in messages))
        raise InputError(f"{where}: field '{field}' has no message of role '{ASSISTANT}'; its roles are {roles}")
    return Conversation(messages)


def _message(where: str, field: str, value: Any) -> Message:
    if not isinstance(value, dict):
        raise InputError(f"{where}: field '{field}' is {kind_of(value)}, not an object with role and content")
    if missing := [name for name in Message._fields if name not in value]:
        raise InputError(f"{where}: field '{field}' has no {missing[0]}, which it needs; it has {listed(value)}")
    return Message(*(checked_text(where, f"{field}.{name}", value[name]) for name in Message._fields))
