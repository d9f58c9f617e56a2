"""What the commands do in a chat: a method `action_<name>` each, with what was typed after it where it takes that."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from inference.errors import EngineError, InputError

from ..attachments import fenced, read_text
from ..commands import command, key_names, matching
from ..presets import all_presets
from ..store import StoredMessage, StoreError
from ..text import harmless

if TYPE_CHECKING:
    from .chat import ChatScreen


Result = TypeVar("Result")


class ChatActions:
    """The actions of the chat screen."""

    # ---- chats

    def action_new(self: "ChatScreen") -> None:
        """Begin a new chat."""
        self.app.open_chat(None)
        self.composer.focus()

    def action_search(self: "ChatScreen", text: str = "") -> None:
        """Search everything said."""
        from .search import SearchScreen

        self.app.push_screen(SearchScreen(text))

    def action_sidebar(self: "ChatScreen") -> None:
        """Show the list of chats and go there, or hide it."""
        shown = self.chat_list.display
        if self.chat_list.has_class("-overlay"):
            self.sidebar_over = not shown
        else:
            self.sidebar_wanted = not shown
            self.app.remember(sidebar=self.sidebar_wanted)
        self.arrange_sidebar()
        if shown:
            self.composer.focus()
        else:
            self.chat_list.focus()

    def action_rename(self: "ChatScreen", title: str = "") -> None:
        """Give the open chat another title."""
        self._rename(self.app.chat_id, title)

    def action_rename_chat(self: "ChatScreen") -> None:
        """Give the chat under the cursor another title."""
        chat = self.chat_list.cursor_chat
        if chat is not None:
            self._rename(chat.id, "")

    def _rename(self: "ChatScreen", chat_id: int | None, title: str) -> None:
        if chat_id is None:
            self.app.say("there is no chat yet that could have a title", "warning")
            return

        def rename(new: str | None) -> None:
            if new and self._store(lambda: self.keeper.change_chat(chat_id, title=new)):
                self._chats_changed()

        if title:
            rename(" ".join(title.split()))
            return
        from .prompt import PromptScreen

        chat = self._try(lambda: self.keeper.chat(chat_id))
        if chat is not None:
            self.app.push_screen(PromptScreen("Title of this chat", chat.title), rename)

    def action_pin(self: "ChatScreen") -> None:
        """Keep the open chat at the top, or no longer."""
        self._pin(self.app.chat_id)

    def action_pin_chat(self: "ChatScreen") -> None:
        """Keep the chat under the cursor at the top, or no longer."""
        chat = self.chat_list.cursor_chat
        self._pin(chat.id if chat is not None else None)

    def _pin(self: "ChatScreen", chat_id: int | None) -> None:
        if chat_id is None:
            self.app.say("there is no chat yet that could be pinned", "warning")
            return
        chat = self._try(lambda: self.keeper.chat(chat_id))
        if chat is None:
            return
        pinned = not chat.pinned
        if self._store(lambda: self.keeper.change_chat(chat_id, pinned=pinned)):
            self.app.say("pinned: it stays at the top of the list" if pinned else "no longer pinned")
            self._chats_changed()

    def action_delete(self: "ChatScreen") -> None:
        """Delete the open chat."""
        if self.app.chat_id is None:
            self.app.say("there is no chat yet that could be deleted", "warning")
        else:
            self.run_worker(self._delete(self.app.chat_id))

    def action_delete_chat(self: "ChatScreen") -> None:
        """Delete the chat under the cursor."""
        chat = self.chat_list.cursor_chat
        if chat is not None:
            self.run_worker(self._delete(chat.id))

    async def _delete(self: "ChatScreen", chat_id: int) -> None:
        reply = self.app.runner.of(chat_id)
        if reply is not None and reply.task is not None:
            reply.stop()
            await asyncio.wait([reply.task])
        if chat_id == self.app.chat_id:
            self.save_draft()
        chat_id = self.keeper.stored(chat_id)
        if not self._store(lambda: self.app.store.delete(chat_id)):
            return
        self.app.deleted.append(chat_id)
        undo = key_names(command("undo"), self.app.config.keys).split(", ")[0]
        self.app.say(f"deleted · {undo} brings it back")
        next_chat = self.chat_list.neighbour(chat_id)
        if chat_id == self.app.chat_id:
            self.app.open_chat(None)
        self._chats_changed()
        if next_chat is not None:
            self.chat_list.put_cursor(next_chat)

    def action_undo(self: "ChatScreen") -> None:
        """Bring back the chat that was deleted last."""
        if not self.app.deleted:
            self.app.say("nothing was deleted that could be brought back")
            return
        chat_id = self.app.deleted[-1]
        if self._store(lambda: self.app.store.undelete(chat_id)):
            self.app.deleted.pop()
            self.app.open_chat(chat_id)
            self._chats_changed()

    def _chats_changed(self: "ChatScreen") -> None:
        self.app.note_trouble(self.keeper.trouble)
        self.app.refresh_chat()
        self.chat_list.reload()
        self.show_around()

    def _store(self: "ChatScreen", write: Callable[[], None]) -> bool:
        """Write to the store; return whether that went well, after saying why not."""
        try:
            write()
        except StoreError as error:
            self.app.say(str(error), "error")
            return False
        return True

    # ---- replies

    def action_stop(self: "ChatScreen") -> None:
        """Stop the reply; or leave what is open, or go back to the composer."""
        if self.sidebar_over and self.chat_list.display:
            self.sidebar_over = False
            self.arrange_sidebar()
        elif self.editing is not None:
            self.end_editing()
        elif self.app.chat.reply is not None:
            self.app.chat.reply.stop()
            return
        self.composer.focus()

    def action_continue(self: "ChatScreen") -> None:
        """Let the last reply go on."""
        self._try(lambda: self.app.chat.go_on())

    def action_regenerate(self: "ChatScreen") -> None:
        """Ask for another reply."""
        self._try(lambda: self.app.chat.regenerate())

    def action_regenerate_message(self: "ChatScreen") -> None:
        """Ask for another reply in the place of the selected one."""
        self._try(lambda: self.app.chat.regenerate(self._selected()))

    def action_edit(self: "ChatScreen") -> None:
        """Change what the user said last."""
        self._edit(self.app.chat.last_of_user())

    def action_edit_message(self: "ChatScreen") -> None:
        """Change what the user said in the selected message, or before the selected reply."""
        selected = self.app.chat.message(self._selected())
        if selected is not None and selected.role != "user":
            selected = self.app.chat.message(selected.parent_id)
        self._edit(selected)

    def _edit(self: "ChatScreen", message: StoredMessage | None) -> None:
        if message is None:
            self.app.say("there is nothing yet that could be changed", "warning")
            return
        if self.editing is None:
            self.unsent = self.composer.text
        self.editing = message.id
        self.composer.fill(message.content)
        self.composer.add_class("-editing")
        self.composer.border_title = "changing what you said · Enter asks again, Esc leaves it"
        self.composer.focus()

    def end_editing(self: "ChatScreen") -> None:
        """Return to what was being written before."""
        self.editing = None
        self.composer.remove_class("-editing")
        self.composer.border_title = ""
        self.composer.fill(self.unsent)

    def action_prev(self: "ChatScreen") -> None:
        """Show the version before."""
        self.switch_version(self.app.chat.last_with_siblings(), -1)

    def action_next(self: "ChatScreen") -> None:
        """Show the version after."""
        self.switch_version(self.app.chat.last_with_siblings(), 1)

    def action_previous_version(self: "ChatScreen") -> None:
        """Show the version before the selected one."""
        self.switch_version(self._selected(), -1)

    def action_next_version(self: "ChatScreen") -> None:
        """Show the version after the selected one."""
        self.switch_version(self._selected(), 1)

    def switch_version(self: "ChatScreen", message_id: int | None, step: int) -> None:
        """Show another version of a message, and what follows it."""
        if message_id is None:
            self.app.say("no message here has several versions; Ctrl+R makes another", "warning")
            return
        other = self._try(lambda: self.app.chat.switch(message_id, step))
        if other is not None:
            self.show_messages()
            self.conversation.jump_to(other)
            self.conversation.selected = other
            self.count_tokens()

    def _selected(self: "ChatScreen") -> int | None:
        """Return the selected message, or else the last one."""
        selected = self.conversation.selected
        if self.app.chat.message(selected) is not None:
            return selected
        return self.app.chat.path[-1].id if self.app.chat.path else None

    def _try(self: "ChatScreen", do: Callable[[], Result]) -> Result | None:
        try:
            return do()
        except (EngineError, StoreError) as error:
            self.app.say(str(error), "warning")
            return None

    # ---- copying and writing

    def action_copy(self: "ChatScreen", number: str = "") -> None:
        """Copy the last reply, or one of its code blocks."""
        last = next((each for each in reversed(self.app.chat.path) if each.role == "assistant"), None)
        if last is None:
            self.app.say("there is no reply yet that could be copied", "warning")
        elif not number:
            self.copy(last.content, "reply")
        else:
            blocks = self.conversation.code_blocks(last.id)
            if not number.isdecimal() or not 1 <= int(number) <= len(blocks):
                has = f"code blocks 1 to {len(blocks)}" if blocks else "no code blocks"
                self.app.say(f"the last reply has {has}", "warning")
                return
            self.copy(blocks[int(number) - 1], f"code block {number}")

    def action_copy_message(self: "ChatScreen") -> None:
        """Copy the selected message."""
        message = self.app.chat.message(self._selected())
        if message is not None:
            self.copy(message.content, "message")

    def copy(self: "ChatScreen", text: str, what: str) -> None:
        """Copy and say where to."""
        self.run_worker(self.app.copy_text(text, what))

    def action_write(self: "ChatScreen") -> None:
        """Go to the composer."""
        self.composer.focus()

    def action_file(self: "ChatScreen", path: str) -> None:
        """Put the text of a file into the message."""
        self.run_worker(self.insert_files([path]))

    async def insert_files(self: "ChatScreen", files: Sequence[str | Path], in_place_of: str = "") -> None:
        """Insert the texts of the files, each in a block under its name; the step before is the pasted path."""
        blocks = []
        for file in files:
            try:
                text = await asyncio.to_thread(read_text, file)
            except InputError as error:
                self.app.say(str(error), "warning")
                continue
            path = Path(str(file).strip("'\""))
            blocks.append(fenced(path, text))
            self.app.say(f"inserted {harmless(path.name)}, {len(text.splitlines()):,} lines")
        if not blocks:
            return
        self.composer.add_block("\n".join(blocks), in_place_of)
        self.composer.focus()

    def complete(self: "ChatScreen") -> bool:
        """Complete the command, preset, theme or path that is being typed; return whether there was one."""
        text = self.composer.text
        if not text.startswith("/") or "\n" in text:
            return False
        name, space, rest = text[1:].partition(" ")
        if not space:
            names = [each.name for each in matching(name)]
            if not names:
                return False
            found = _common(names) if len(names) > 1 and len(_common(names)) > len(name) else names[0]
            whole = found in names
            self.composer.fill(f"/{found}" + (" " if whole and command(found).arguments else ""))
            return True
        choices = {
            "preset": lambda: [each for each in all_presets(self.app.config.presets) if each.startswith(rest)],
            "theme": lambda: [each for each in self.app.available_themes if each.startswith(rest)],
            "file": lambda: _paths(rest),
        }.get(name)
        found = choices() if choices else []
        if found:
            self.composer.fill(f"/{name} {_common(found) if len(_common(found)) > len(rest) else found[0]}")
        return True

    # ---- settings

    def action_system(self: "ChatScreen", text: str = "") -> None:
        """Set the system prompt of this chat."""
        self.app.set_chat_settings(replace(self.app.chat_settings(), system=text or None))
        self.app.say("the system prompt is set" if text else "this chat has no system prompt")

    def action_set(self: "ChatScreen", setting: str) -> None:
        """Change a setting of this chat."""
        settings = self.app.chat_settings()
        sampling = self._try(lambda: settings.sampling.with_settings(setting.split()))
        if sampling is not None:
            self.app.set_chat_settings(replace(settings, sampling=sampling))
            self.app.say(f"set for this chat: {setting}")

    def action_preset(self: "ChatScreen", name: str) -> None:
        """Use a preset in this chat."""
        presets = all_presets(self.app.config.presets)
        if name not in presets:
            self.app.say(f"there is no preset {name!r}; there are {', '.join(presets)}", "warning")
            return
        self.app.set_chat_settings(self.app.chat_settings().with_preset(name, presets[name]))
        self.app.say(f"this chat uses the preset {name}")


def _common(words: Sequence[str]) -> str:
    """Return the beginning that all the words have."""
    first, last = min(words), max(words)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:length]


def _paths(typed: str) -> list[str]:
    folder, _, begun = typed.rpartition("/")
    try:
        found = sorted(Path(f"{folder}/" if "/" in typed else ".").expanduser().iterdir())
    except (OSError, RuntimeError):
        return []
    prefix = f"{folder}/" if "/" in typed else ""
    return [
        f"{prefix}{path.name}{'/' if path.is_dir() else ''}"
        for path in found
        if path.name.startswith(begun) and (begun.startswith(".") or not path.name.startswith("."))
    ]
