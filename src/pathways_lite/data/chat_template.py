"""Chat templates: the text that an instruct model reads for messages, as its files say, by Jinja in its sandbox.

A template is a program that came with a model. It is rendered where it can read what it is given, and change nothing;
its names and filters are those of transformers' `apply_chat_template`, so its text is the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pathways_lite.data.control_tokens import special_token_names
from pathways_lite.data.tokenizers import HFTokenizer, Tokenizer
from pathways_lite.errors import UserError

Messages = Sequence[Mapping[str, Any]]
"""Each has a `role` (system, user or assistant) and its `content`."""

ROLES = ("system", "user", "assistant")
_MARK = "ANSWER_BEGUN "  # where an answer that is begun ends; templates that strip messages take the space
_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")  # the first that has one counts


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
      name: of the model, for errors.
      today: what templates that tell the model the date are told; None: now.
      option: of the command line that asked for it, for errors.

    Raises UserError where the tokenizer has none, or one that cannot be used.
    """

    def __init__(self, tokenizer: Tokenizer, name: str, today: datetime | None = None, option: str = "--chat") -> None:
        files = tokenizer.files()
        source = find_template(files, name)
        if source is None:
            raise UserError(
                f"{name} has no chat template: none of {', '.join(_FILES)} came with its tokenizer. Instruct models "
                f"have one; let the model continue texts, without {option}"
            )
        if not isinstance(tokenizer, HFTokenizer):
            raise UserError(
                f"{name} has a chat template, but its tokenizer is no tokenizer.json, which finds special tokens in a "
                "text; import the model again with its tokenizer.json"
            )
        self.source = source
        self._tokenizer, self._name, self._names = tokenizer, name, special_token_names(files, name)
        try:
            self._template = _environment(today).from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"the chat template of {name} is no Jinja: line {error.lineno}: {error.message}") from error

    def render(self, messages: Messages) -> str:
        """Return the text of messages, up to where the assistant answers.

        Raises UserError for messages that the template, or `check_messages`, refuses.
        """
        check_messages(messages, "the chat")
        return self._render(messages, add_generation_prompt=True)

    def render_begun(self, messages: Messages) -> str:
        """Return the text of messages, of which the last is the beginning of the assistant's answer, up to its end.

        Raises UserError for messages that the template, or `check_messages`, refuses.
        """
        *before, begun = messages
        check_messages(before, "the chat")
        text = self._render([*before, {**begun, "content": begun["content"] + _MARK}], add_generation_prompt=False)
        answer, mark, after = text.rpartition(_MARK.strip())
        if not mark:
            raise UserError(f"the chat template of {self._name} leaves out what an answer begins with")
        return answer if after.startswith(" ") else answer.rstrip()  # a template that strips messages strips this one

    def _render(self, messages: Messages, *, add_generation_prompt: bool) -> str:
        # Templates ask whether tools and documents are none, not whether they are defined.
        given: dict[str, Any] = self._names | {"tools": None, "documents": None}
        given["add_generation_prompt"] = add_generation_prompt
        try:
            return self._template.render(messages=[dict(message) for message in messages], **given)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            raise UserError(f"the chat template of {self._name} refuses the messages: {error}") from error

    def encode(self, messages: Messages) -> list[int]:
        """Return the ids of messages. Raises UserError as `render`."""
        return self.encode_text(self.render(messages))

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of a rendered text, in which the names of special tokens stand for these."""
        return self._tokenizer.encode_with_special(text)


def find_template(files: Mapping[str, bytes], name: str) -> str | None:
    """Return the template among the files of a tokenizer; None where there is none.

    Of several, which have names, it is the one named `default`. Raises UserError for a file that cannot be read.
    """
    for file in _FILES:
        if file not in files:
            continue
        try:
            text = files[file].decode()
            found = text if file.endswith(".jinja") else json.loads(text).get("chat_template")
        except (ValueError, AttributeError) as error:
            raise UserError(f"{file} of {name} cannot be read: {error}") from error
        if isinstance(found, list):
            named = {str(entry["name"]): entry["template"] for entry in found}
            found = named.get("default", next(iter(named.values()), None))
        if found is not None:
            return str(found)
    return None


def check_messages(messages: Messages, where: str) -> None:
    """Raise UserError unless all messages have a role and a content, and the last one is not the assistant's."""
    if not messages:
        raise UserError(f"{where} has no messages")
    for number, message in enumerate(messages, 1):
        if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
            raise UserError(
                f"message {number} of {where} has role={message.get('role')!r} and "
                f"content={message.get('content')!r}; a message has a role, one of {', '.join(ROLES)}, and a text as "
                "content"
            )
    if messages[-1]["role"] == "assistant":
        raise UserError(f"the last message of {where} is the assistant's, so there is nothing to answer; leave it out")


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`, by which transformers marks what an assistant wrote, changes no text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment(today: datetime | None) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _refuse,
        "strftime_now": lambda form: (today or datetime.now()).strftime(form),
    }
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """Return JSON, without the escapes for HTML of Jinja's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
