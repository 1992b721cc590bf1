"""Rows of which a part is learned, and those that are wrong. Alone: pytest tests/text/test_conversations.py"""

import pytest

from hypergen.errors import InputError
from hypergen.text.conversations import (
    Conversation,
    Message,
    PromptCompletion,
    fields_of,
    has_text,
    item_of,
    plain_text,
)

TURNS = [{"role": "user", "content": "Who rows?"}, {"role": "assistant", "content": "The ferryman.", "name": None}]


def test_three_kinds_of_rows_are_recognized():
    messages = (Message("user", "Who rows?"), Message("assistant", "The ferryman."))
    assert item_of("text", "x", {"messages": TURNS, "id": float("nan")}) == Conversation(messages)
    assert item_of("text", "x", {"prompt": "a", "completion": "b"}) == PromptCompletion("a", "b")
    assert item_of("text", "x", {"instruction": "a", "output": "b"}) == PromptCompletion("a\n\n", "b")
    for nothing in ("", None):
        assert item_of("text", "x", {"instruction": "a", "input": nothing, "output": "b"}).prompt == "a\n\n"
    assert item_of("text", "x", {"instruction": "a", "input": "c", "output": "b"}).prompt == "a\n\nc\n\n"


def test_a_text_comes_first_and_what_the_user_names_has_no_substitute():
    row = {"text": "a", "messages": TURNS, "prompt": "b", "completion": "c", "data": {"messages": TURNS}}
    assert item_of("text", "x", row) == "a" and item_of("prompt", "x", row) == "b"
    assert (
        item_of("messages", "x", row) == item_of("data.messages", "x", row) == item_of("text", "x", {"messages": TURNS})
    )
    assert fields_of({"messages": 0, "prompt": 0, "completion": 0}, "text") == ("messages",)
    with pytest.raises(InputError, match=r"^x: has no field 'story' \(--text-field\); it has messages$"):
        item_of("story", "x", {"messages": TURNS})
    with pytest.raises(InputError, match=r"^x: has no field 'text' \(--text-field\); it has prompt, answer$"):
        item_of("text", "x", {"prompt": "a", "answer": "b"})


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("secret", "field 'messages' is a string, not an array of objects with role and content"),
        (None, "field 'messages' is null, not an array of objects with role and content"),
        ([], "field 'messages' has no message of role 'assistant'; its roles are none"),
        (TURNS[:1] * 2, "field 'messages' has no message of role 'assistant'; its roles are user"),
        (["secret"], "field 'messages[0]' is a string, not an object with role and content"),
        ([*TURNS, {"content": "secret"}], "field 'messages[2]' has no role, which it needs; it has content"),
        ([{"from": "human", "value": "x"}], "field 'messages[0]' has no role, which it needs; it has from, value"),
        ([{"role": "assistant"}], "field 'messages[0]' has no content, which it needs; it has role"),
        ([{"role": 3, "content": "x"}], "field 'messages[0].role' is a number, not a string"),
        ([{"role": "assistant", "content": None}], "field 'messages[0].content' is null, not a string"),
        ([{"role": "assistant", "content": ["x"]}], "field 'messages[0].content' is an array, not a string"),
        ([{"role": "assistant", "content": "a\0"}], "field 'messages[0].content' has a NUL character"),
        (
            [{"role": "gpt", "content": "secret"}],
            "field 'messages' has no message of role 'assistant'; its roles are gpt",
        ),
    ],
)
def test_messages_of_another_shape_are_one_line(messages, reason):
    with pytest.raises(InputError) as error:
        item_of("text", "a.jsonl:3", {"messages": messages})
    assert str(error.value) == f"a.jsonl:3: {reason}" and "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": ["secret"], "completion": "b"}, "field 'prompt' is an array, not a string"),
        ({"prompt": "a", "completion": None}, "field 'completion' is null, not a string"),
        ({"instruction": "a", "output": 3}, "field 'output' is a number, not a string"),
        ({"instruction": "a", "input": 3, "output": "b"}, "field 'input' is a number, not a string"),
    ],
)
def test_prompts_and_completions_of_another_type_are_one_line(row, reason):
    with pytest.raises(InputError) as error:
        item_of("text", "a.jsonl:3", row)
    assert str(error.value) == f"a.jsonl:3: {reason}"


def test_only_what_is_learned_is_text():
    assert has_text("a") and not has_text(" \n")
    assert has_text(PromptCompletion("", "b")) and not has_text(PromptCompletion("a", " "))
    assert has_text(item_of("text", "x", {"messages": TURNS}))
    assert not has_text(Conversation((Message("user", "a"), Message("assistant", " "))))


def test_a_place_for_texts_refuses_anything_else():
    assert plain_text("a") == "a"
    with pytest.raises(InputError, match=r"^texts are needed here, and a row has messages or a prompt"):
        plain_text(PromptCompletion("a", "b"))
