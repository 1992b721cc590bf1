"""Write conversations by a tokenizer's chat template, and tell which parts of the text the assistant says."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from hypergen.data.rows import listed
from hypergen.errors import InputError
from hypergen.runtime.console import first_line
from hypergen.text.conversations import ASSISTANT, USER, Conversation, Example, Message, PromptCompletion

Part = tuple[str, bool]  # a piece of a text, and whether it is learned


def require_template(tokenizer: PreTrainedTokenizerBase, what: str) -> None:
    """Refuse a tokenizer without a chat template.

    Args:
        tokenizer: of the model.
        what: needs one, for the message.

    Raises:
        InputError: it has none.
    """
    if not tokenizer.chat_template:
        raise InputError(f"{what}: the model's tokenizer has no chat template; take a model that was tuned to chat")


def user_turn(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Write a text as a user's turn, up to where the assistant begins.

    Raises:
        InputError: the tokenizer has no chat template, or it refuses this.
    """
    require_template(tokenizer, "--chat")
    return _write(tokenizer, [Message(USER, text)], answering=True)


def parts_of(tokenizer: PreTrainedTokenizerBase, example: Example) -> list[Part]:
    """Write an example, in parts: those that are learned, and those before, between and behind them.

    Every turn of the assistant is learned, with the mark that ends it and without its head, which is there when it is
    generated.

    Raises:
        InputError: a conversation, and the tokenizer has no chat template, or one that refuses these roles or writes a
            turn otherwise once others follow.
    """
    if isinstance(example, PromptCompletion):
        return [(example.prompt, False), (example.completion, True)]
    require_template(tokenizer, "rows of messages")
    return _turns(tokenizer, example)


def _turns(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> list[Part]:
    messages, parts, place = conversation.messages, list[Part](), 0
    whole = _write(tokenizer, messages)
    for index, message in enumerate(messages):
        if message.role != ASSISTANT:
            continue
        before = _write(tokenizer, messages[:index], answering=True) if index else ""
        if not whole.startswith(before):  # a head with more in it than the turn itself has
            before = _write(tokenizer, messages[:index])
        until = _write(tokenizer, messages[: index + 1])
        if not (whole.startswith(until) and until.startswith(before) and len(before) >= place):
            raise InputError(
                f"rows of messages: the chat template writes message {index + 1} of {len(messages)} otherwise once "
                "others follow, so what the assistant says cannot be told; give conversations that end with it"
            )
        parts += [(whole[place : len(before)], False), (whole[len(before) : len(until)], True)]
        place = len(until)
    return [*parts, (whole[place:], False)]


def _write(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, answering: bool = False) -> str:
    """Apply the template; `answering`: with the head of the assistant's turn behind it."""
    turns = [message._asdict() for message in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answering))
    except Exception as error:  # whatever Jinja and the template itself raise
        roles = listed(message.role for message in messages)
        raise InputError(f"the chat template refuses messages of roles {roles} ({first_line(error)})") from error
