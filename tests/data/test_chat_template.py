"""Chat templates give the text and the ids that transformers' `apply_chat_template` gives."""

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pathways_lite.data.chat_template import ChatTemplate
from pathways_lite.data.tokenizers import ByteTokenizer, HFTokenizer
from pathways_lite.errors import UserError

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))
import make_chat_goldens as tool  # noqa: E402

sys.path.pop(0)
GOLDENS = json.loads((Path(__file__).parent / "chat_goldens.json").read_text())
USER = [{"role": "user", "content": "Why?"}]


def tokenizer(special: tuple[str, ...] = ("<bos>", "<eos>"), **files: Any) -> HFTokenizer:
    config = {"bos_token": special[0], "eos_token": {"content": special[1]}} | files.pop("config", {})
    companions = {"tokenizer_config.json": json.dumps(config).encode()}
    companions |= {name.replace("_jinja", ".jinja"): content.encode() for name, content in files.items()}
    return HFTokenizer(tool.byte_level(special).encode(), "it", special[1], companions)


@pytest.mark.parametrize("case", list(tool.CASES))
@pytest.mark.parametrize("place", ["config", "named", "file"])
def test_text_and_ids_are_those_of_transformers(case: str, place: str):
    source, special = tool.CASES[case]
    named = [{"name": "tool_use", "template": "-"}, {"name": "default", "template": source}]
    files: dict[str, Any] = {
        "config": {"config": {"chat_template": source}}, "named": {"config": {"chat_template": named}},
        "file": {"config": {"chat_template": "older"}, "chat_template_jinja": source},
    }[place]  # fmt: skip
    template = ChatTemplate(tokenizer(special, **files), "it")
    for name, expected in GOLDENS[case].items():
        messages = tool.CHATS[name]
        if "refused" in expected:
            with pytest.raises(UserError, match=f"of it refuses the messages: {expected['refused']}"):
                template.render(messages)
        elif messages[-1]["role"] == "assistant":
            assert (text := template.render_begun(messages)) == expected["text"]
            assert template.encode_text(text) == expected["ids"]
        else:
            assert template.render(messages) == expected["text"]
            assert template.encode(messages) == expected["ids"]


def test_a_template_may_ask_whether_tools_are_none():
    source = "{% if tools is not none or documents is not none %}bad{% endif %}{{ messages[0].content }}"
    assert ChatTemplate(tokenizer(config={"chat_template": source}), "it").render(USER) == "Why?"


def test_the_date_may_be_given():
    template = ChatTemplate(tokenizer(chat_template_jinja="{{ strftime_now('%d %b %Y') }}"), "it", datetime(2024, 7, 6))
    assert template.render(USER) == "06 Jul 2024"


def test_a_template_cannot_leave_its_sandbox():
    for source in (
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__subclasses__() }}",
    ):
        with pytest.raises(UserError, match="refuses the messages"):
            ChatTemplate(tokenizer(config={"chat_template": source}), "it").render(USER)


def test_what_is_no_chat_is_refused():
    with pytest.raises(UserError, match=r"it has no chat template: none of chat_template\.jinja.*without --chat"):
        ChatTemplate(tokenizer(), "it")
    with pytest.raises(UserError, match="has no chat template"):
        ChatTemplate(ByteTokenizer(), "it")
    with pytest.raises(UserError, match="is no Jinja: line 2"):
        ChatTemplate(tokenizer(chat_template_jinja="a\n{% if %}"), "it")
    template = ChatTemplate(tokenizer(chat_template_jinja=tool.SMOLLM2), "it")
    with pytest.raises(UserError, match="last message of the chat is the assistant's"):
        template.render([*USER, {"role": "assistant", "content": "Because."}])
    ignoring = ChatTemplate(tokenizer(chat_template_jinja="{{ messages[0].content }}"), "it")
    with pytest.raises(UserError, match="of it leaves out what an answer begins with"):
        ignoring.render_begun([*USER, {"role": "assistant", "content": "Because"}])
    with pytest.raises(UserError, match="message 1 of the chat has role='robot'"):
        template.render([{"role": "robot", "content": "x"}])
    with pytest.raises(UserError, match="has no messages"):
        template.render([])


def test_names_of_special_tokens_in_texts_are_text_and_in_chats_are_tokens():
    made = tokenizer(chat_template_jinja=tool.SMOLLM2)
    assert 257 not in made.encode("<eos>")
    assert made.encode_with_special("<eos>") == [257]
    assert 257 not in made.encode("<eos>")
