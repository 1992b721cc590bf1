"""What the assistant says of a conversation, by its template. Alone: pytest tests/text/test_chat_template.py"""

import pytest

from hypergen.errors import InputError
from hypergen.text.chat_template import parts_of, require_template, user_turn
from hypergen.text.conversations import Conversation, Message, PromptCompletion
from tests.text import tiny

CHAT = Conversation(
    (
        Message("system", "Be brief."),
        Message("user", "Who rows?"),
        Message("assistant", "He."),
        Message("user", "Who?"),
        Message("assistant", "The ferryman."),
        Message("user", "Thanks."),
    )
)
THINKING = """\
{% for m in messages %}<{{ m.role }}>{% if loop.last and m.role == 'assistant' %}<think>{% endif %}{{ m.content }}\
{% endfor %}"""
MORE_THAN_A_HEAD = """\
{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}\
{% if add_generation_prompt %}<assistant>Hm. {% endif %}"""


def tokenizer(template=tiny.CHAT_TEMPLATE):
    return tiny.with_chat_template(template=template).tokenizer


def test_every_turn_of_the_assistant_is_learned_with_its_end_and_without_its_head():
    parts = parts_of(tokenizer(), CHAT)
    assert [text for text, counts in parts if counts] == ["He.<|im_end|>\n", "The ferryman.<|im_end|>\n"]
    whole = tokenizer().apply_chat_template([one._asdict() for one in CHAT.messages], tokenize=False)
    assert "".join(text for text, _ in parts) == whole
    assert parts[0][0].startswith("<s><|im_start|>system\nBe brief.") and parts[0][0].endswith(
        "<|im_start|>assistant\n"
    )
    assert parts[-1] == ("<|im_start|>user\nThanks.<|im_end|>\n", False)


def test_a_prompt_and_its_completion_need_no_template():
    assert parts_of(tokenizer(None), PromptCompletion("a", "b")) == [("a", False), ("b", True)]


def test_a_conversation_may_begin_with_the_assistant():
    parts = parts_of(tokenizer(), Conversation((Message("assistant", "Hello."),)))
    assert parts == [("", False), ("<s><|im_start|>assistant\nHello.<|im_end|>\n", True), ("", False)]


def test_a_head_with_more_in_it_than_the_turn_has_is_learned_with_the_turn():
    parts = parts_of(tokenizer(MORE_THAN_A_HEAD), Conversation(CHAT.messages[1:3]))
    assert parts == [("<user>Who rows?", False), ("<assistant>He.", True), ("", False)]


def test_a_template_that_rewrites_earlier_turns_is_refused():
    said = r"^rows of messages: the chat template writes message 3 of 6 otherwise once others follow"
    with pytest.raises(InputError, match=said):
        parts_of(tokenizer(THINKING), CHAT)
    last = parts_of(tokenizer(THINKING), Conversation(CHAT.messages[:3]))
    assert [text for text, counts in last if counts] == ["<assistant><think>He."]


def test_roles_that_a_template_refuses_are_named():
    chat = Conversation((Message("tool", "secret"), *CHAT.messages[:3]))
    with pytest.raises(InputError) as error:
        parts_of(tokenizer(), chat)
    assert str(error.value) == (
        "the chat template refuses messages of roles tool, system, user, assistant (no tools here)"
    )


def test_without_a_template_there_is_no_chat():
    for call in (
        lambda: parts_of(tokenizer(None), CHAT),
        lambda: require_template(tokenizer(None), "rows of messages"),
    ):
        with pytest.raises(InputError, match=r"^rows of messages: the model's tokenizer has no chat template; take a"):
            call()
    with pytest.raises(InputError, match=r"^--chat: the model's tokenizer has no chat template"):
        user_turn(tokenizer(None), "Who rows?")
    require_template(tokenizer(), "rows of messages")


def test_a_text_becomes_a_users_turn():
    assert user_turn(tokenizer(), "Who?") == "<s><|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
