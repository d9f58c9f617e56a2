"""What was folded out of the context is never answered from as if it were there without the marker showing."""

from inference.load_options import LoadOptions
from inference.sampling import Sampling
from tests.tiny_gguf import CONTROL, byte_symbols
from tests.tui.conftest import answered, screen_text, send, shown, state, until
from tui.app import KoalaApp
from tui.prompting import prompt
from tui.store import Store

FACT = "7391"
DIGITS = [len(CONTROL) + list(byte_symbols()).index(ord(digit)) for digit in FACT]


def holds(ids: list[int], part: list[int]) -> bool:
    return any(ids[start : start + len(part)] == part for start in range(len(ids)))


async def test_the_marker_shows_as_soon_as_the_model_cannot_see_the_fact(models):
    load = LoadOptions(n_threads=1, n_ctx=512)
    app = KoalaApp(
        store=Store.open(None), target=models["koala"], load=load, sampling=Sampling(temperature=0, max_tokens=40)
    )
    async with app.run_test(size=(100, 40)) as pilot:
        await until(lambda: state(app) == "ready")
        seen_at_turn = []
        for turn in range(8):
            await send(pilot, f"The code is {FACT}." if turn == 0 else f"Turn {turn}: which code did I tell you first?")
            await answered(pilot, turn + 1)
            path = app.store.path(app.chat_id)
            details = path[-1].details
            # What the model has read, by its own count.
            read = await app.host.running.prompt_ids(prompt(path[:-1], None), folded=details["folded"])
            assert len(read) == details["prompt_tokens"] <= 512
            seen_at_turn.append(holds(read, DIGITS))
            assert bool(shown(app, "marker")) == (details["folded"] > 0) == (not seen_at_turn[-1])
        assert seen_at_turn[0] and not seen_at_turn[-1], "there was room for all, or for nothing"
        app.screen_of_chats.conversation.jump_to(shown(app, "marker")[0].key)
        await until(lambda: "earlier messages are folded away" in screen_text(app))
