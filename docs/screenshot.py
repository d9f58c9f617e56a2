"""Make the pictures of koala-tui in the docs, from the real app: python -m docs.screenshot [SCENE ...].

The model in them is real too, but small and made on the spot: it says the same whatever it is asked.
"""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tests.tiny_gguf import write_tiny_gguf

if TYPE_CHECKING:
    from textual.pilot import Pilot

IMAGES = Path(__file__).resolve().parent / "images"
QUESTION = "How do I read a large file line by line in Python?"
REPLY = (
    *(
        " Iterate",
        " over",
        " the file",
        " object;",
        " it reads",
        " **one line",
        " at a time**",
        " and never",
        " the whole",
    ),
    *(" file:\n\n", "```python\n", "from pathlib import Path\n\n", "with Path('log.txt')", ".open() as lines:\n"),
    *("    for number, line", " in enumerate(lines, 1):\n", "        if 'error' in line:\n"),
    *("            print(number,", " line.rstrip())\n", "```\n\n"),
    *("| way ", "| memory |\n", "|---|---|\n", "| `for line in file` ", "| one line |\n"),
    *(
        "| `file.readlines()` ",
        "| the whole file |\n\n",
        "Pass `encoding='utf-8'`",
        " if the file",
        " comes from",
        " elsewhere.",
    ),
)
CHATS = {
    "A name for a reading group": ("Suggest a name for a reading group.", "**Dog-eared** is short and friendly."),
    "Sourdough without a scale": ("Can I bake sourdough without a scale?", "Yes: a cup of flour is about 120 g."),
    "Regular expression for dates": ("A regular expression for ISO dates?", "`\\d{4}-\\d{2}-\\d{2}` finds them."),
    "Why is the sky blue?": ("Why is the sky blue?", "Air scatters short waves of light more than long ones."),
}


async def chat(pilot: "Pilot") -> None:
    """A question, and the reply to it."""
    await pilot.press(*QUESTION, "enter")
    while not any(message.state == "complete" for message in pilot.app.chat.path[1:]):
        await pilot.pause(0.05)


async def first_run(pilot: "Pilot") -> None:
    """What stands there before the first message."""


async def search(pilot: "Pilot") -> None:
    """The search over everything said."""
    await pilot.press("ctrl+f", *"sourd")


async def models(pilot: "Pilot") -> None:
    """The models of this machine."""
    await pilot.press("ctrl+o")
    await pilot.pause(1)


async def settings(pilot: "Pilot") -> None:
    """How the chat is answered."""
    await pilot.press("ctrl+s")


SCENES: dict[str, tuple[tuple[int, int], Callable[["Pilot"], Awaitable[None]]]] = {
    "chat": ((110, 34), chat),
    "narrow": ((60, 20), chat),
    "first_run": ((110, 34), first_run),
    "search": ((110, 34), search),
    "models": ((110, 34), models),
    "settings": ((110, 34), settings),
}


async def render(name: str, folder: Path) -> Path:
    """Save the picture of a scene and return its file."""
    from inference.sampling import Sampling
    from tui.app import KoalaApp
    from tui.store import Store

    size, scene = SCENES[name]
    store = Store.open(None)
    if name != "first_run":
        for title, (asked, said) in reversed(CHATS.items()):
            chat_id = store.create_chat(title)
            parent = store.add_message(chat_id, None, "user", asked)
            store.add_message(chat_id, parent, "assistant", said)
    model = write_tiny_gguf(folder / "models" / "tiny-koala.gguf", reply=[piece.encode() for piece in REPLY])
    write_tiny_gguf(folder / "models" / "plain-koala.gguf", template=None, seed=1)
    (folder / "models" / "notes.gguf").write_text("not a model")
    app = KoalaApp(store=store, target=model, sampling=Sampling(temperature=0))
    async with app.run_test(size=size) as pilot:
        while app.host.running is None:
            await pilot.pause(0.05)
        await scene(pilot)
        await pilot.pause(0.5)
        file = IMAGES / f"{name}.svg"
        file.write_text(app.export_screenshot(title="koala-tui"), encoding="utf-8")
    store.close()
    return file


def main() -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description="Make the pictures of koala-tui in the docs.")
    parser.add_argument("scenes", nargs="*", metavar="SCENE", help=f"which (default: {' '.join(SCENES)})")
    arguments = parser.parse_args()
    if unknown := set(arguments.scenes) - set(SCENES):
        parser.error(f"there is no scene {unknown.pop()!r}; there are {', '.join(SCENES)}")
    IMAGES.mkdir(exist_ok=True)
    for name in arguments.scenes or SCENES:
        folder = Path(tempfile.gettempdir()) / "koala"  # its name is in a picture
        (folder / "models").mkdir(parents=True)
        os.environ["KOALA_HOME"] = str(folder)
        os.chdir(folder)
        try:
            print(asyncio.run(render(name, folder)))
        finally:
            os.chdir(IMAGES)
            shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
