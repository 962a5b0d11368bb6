"""Ask the items of tasks as chats: of instruct models, by their chat template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from pathways_lite.data.chat_template import ChatTemplate, Messages
from pathways_lite.tasks.scored_items import Item, Task


@dataclass(frozen=True)
class TaskChat:
    """How items become messages.

    Attributes:
      multiturn: shots are earlier turns, each a question and its answer; otherwise they stand in the user's message.
        Those of problems that have messages of their own are always turns.
    """

    template: ChatTemplate
    multiturn: bool = True

    def messages(self, item: Item) -> Messages:
        """Return what an item asks, its shots before it."""
        if item.messages is None and not self.multiturn:
            return [_message("user", item.prompt)]
        asked = item.messages or [_message("user", item.question)]
        turns: list[Mapping[str, str]] = []
        for prompt, solution in item.shots:
            turns += [_message("user", prompt), _message("assistant", solution.strip())]
        first = 1 if asked[0].get("role") == "system" else 0
        return [*asked[:first], *turns, *asked[first:]]

    def context(self, item: Item) -> str:
        """Return the text that an answer follows. Raises UserError for messages that the template refuses."""
        return self.template.render(self.messages(item))

    def digest(self, task: Task) -> str:
        """Return the SHA-256 of what is asked, its first 12 digits: that of the task, and of its chats."""
        contexts = [self.context(item) for item in task.items]
        return f"sha256-{hashlib.sha256(json.dumps([task.digest, *contexts]).encode()).hexdigest()[:12]}"


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
