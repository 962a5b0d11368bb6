#!/usr/bin/env python3
"""What transformers' `apply_chat_template` makes of chats, for the tests of chat templates. Prints JSON.

    PYTHON tools/make_chat_goldens.py > tests/data/chat_goldens.json       PYTHON has transformers, not torch
    PYTHON tools/make_chat_goldens.py --model DIR                          what a real model's template gives

The templates write the formats of Llama 3, Qwen 2.5, Gemma, SmolLM2 and Mistral, by the means that theirs use:
namespaces, loops with `break`, trimmed blocks, filters, JSON, refusals. They are written for these tests; no file of a
model is in the repository. The tokenizer is one of bytes with the format's special tokens.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

LLAMA_3 = """
{%- set system = '' %}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- bos_token + '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{{- 'Cutting Knowledge Date: December 2023\\n\\n' + system + '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\\n\\n' ~ message.content | trim ~ '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt is defined and add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
QWEN = """
{%- if tools %}
    {{- tools | tojson }}
{%- endif %}
{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' and not message.tool_calls %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}{{- message.content + '<|im_end|>' }}{% endgeneration %}{{- '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{{- '<|im_start|>assistant\\n' if add_generation_prompt }}"""
GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {% endif %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
<start_of_turn>{{ role }}
{{ message['content'] | trim }}<end_of_turn>
{% endfor %}
{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a small model.<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MISTRAL = """
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- set ns = namespace(last=0) %}
{%- for message in turns | reverse %}
    {%- if message["role"] == "user" %}
        {%- set ns.last = loop.revindex0 %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in turns %}
    {%- if message["role"] == "user" %}
        {%- if loop.index0 == ns.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + " [/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + " [/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""
CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "llama3": (LLAMA_3, ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")),
    "qwen2.5": (QWEN, ("<|endoftext|>", "<|im_end|>", "<|im_start|>")),
    "gemma": (GEMMA, ("<bos>", "<end_of_turn>", "<start_of_turn>", "<eos>")),
    "smollm2": (SMOLLM2, ("<|endoftext|>", "<|im_end|>", "<|im_start|>")),
    "mistral": (MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]")),
}
"""By name: the template, and the special tokens, of which the first is BOS and the second EOS."""
CHATS: dict[str, list[dict[str, str]]] = {
    "one": [{"role": "user", "content": "Name three rivers."}],
    "turns": [
        {"role": "user", "content": " 1 < 2 & \"é\"\n"}, {"role": "assistant", "content": " Yes.\n\n"},
        {"role": "user", "content": "{{ 7 * 7 }} <|im_end|> </s>"},
    ],
    "system": [{"role": "system", "content": "Answer briefly. "}, {"role": "user", "content": "Why?"}],
    "begun": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "The answer is"}],
    "begun with spaces": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": " It is:  "}],
}  # fmt: skip


def byte_level(special: tuple[str, ...]) -> str:
    """Return a tokenizer.json: bytes in the order of ByteLevel's alphabet, no merges, and special tokens."""
    import tokenizers as hf

    alphabet = sorted(hf.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = hf.Tokenizer(hf.models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = hf.decoders.ByteLevel()
    tokenizer.add_special_tokens([hf.AddedToken(name, special=True) for name in special])
    return str(tokenizer.to_str())


def answers(tokenizer: Any) -> dict[str, Any]:
    """Return the text and ids of every chat, or why it is refused; an answer that is the last message is continued."""
    found: dict[str, Any] = {}
    for name, messages in CHATS.items():
        is_begun = messages[-1]["role"] == "assistant"
        options = {"add_generation_prompt": not is_begun, "continue_final_message": is_begun}
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        except Exception as error:  # jinja2's, by which a template refuses messages
            found[name] = {"refused": str(error)}
            continue
        ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
        found[name] = {"text": text, "ids": [int(i) for i in ids]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a directory with the tokenizer of a real model")
    arguments = parser.parse_args()
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if arguments.model:
        print(json.dumps(answers(AutoTokenizer.from_pretrained(arguments.model)), ensure_ascii=False, indent=1))
        return
    import tokenizers as hf

    result = {}
    for name, (template, special) in CASES.items():
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=hf.Tokenizer.from_str(byte_level(special)), bos_token=special[0], eos_token=special[1]
        )
        tokenizer.chat_template = template
        result[name] = answers(tokenizer)
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
