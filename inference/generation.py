"""The token loop: a prompt goes in, pieces of text come out, and either can be stopped."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from .events import Delta, Finished, Folded, PromptProgress
from .llama_model import LlamaModel
from .prompt import Prompt
from .reply_text import ReplyText
from .sampling import Sampling

# Fast models are read out in steps of this many seconds: a message for each token would cost more than the token.
DELTA_SECONDS = 0.05


class Generation:
    """One reply in the making. Read `events` to their end; then `reply` is its text.

    `prompt` is what the model has read, `folded` how many messages are not in it; both change when the context fills
    up and `shorten(number of reply tokens)` returns a prompt to go on with. `ids` are the tokens that stand for the
    reply, without an end token, or None where no row of whole tokens does.
    """

    def __init__(
        self,
        model: LlamaModel,
        prompt: Prompt,
        sampling: Sampling,
        *,
        folded: int = 0,
        stops: Iterable[str] = (),
        goes_on: bool = False,
        stopped: Callable[[], bool],
        shorten: Callable[[int], tuple[int, Prompt] | None] = lambda _tokens: None,
    ) -> None:
        self._model, self._sampling, self._stopped, self._shorten = model, sampling, stopped, shorten
        self.prompt, self.folded = prompt, folded
        self.reply = ""
        self.ids: list[int] | None = []
        self._text = ReplyText(stops, on=goes_on)
        self._evaluated = 0

    def events(self, started: float, restored: int = 0) -> Iterator[PromptProgress | Delta | Folded | Finished]:
        """Evaluate what is new of the prompt, then sample a reply, until it ends or `stopped()` is true.

        `started` is when the request came, by `time.perf_counter`; `restored` tokens came into the context from the
        disk since then. Space before the first word is not part of the reply's text.
        """
        model, limit = self._model, self._sampling.max_tokens
        cached = model.keep_prefix(self.prompt.ids)
        yield from self._read(self.prompt.ids)
        prompt_done = time.perf_counter()

        text, ids = self._text, []
        completion = waiting = 0
        first_token_at = sent_at = None
        reason = "cancelled"
        sampler = model.sampler(self._sampling, self.prompt.ids)
        try:
            while not self._stopped():
                token = sampler.sample()
                completion += 1
                now = time.perf_counter()
                first_token_at = first_token_at or now
                if model.is_end(token):
                    reason = "stop"
                    break
                ids.append(token)
                text.add(model.piece(token))
                waiting += 1
                if text.stopped:
                    reason = "stop"
                    break
                if text.ready and (sent_at is None or now - sent_at >= DELTA_SECONDS):
                    yield self._delta(waiting)
                    waiting, sent_at = 0, now
                if len(model.context_ids) < model.n_ctx:
                    model.evaluate([token])
                elif completion < limit:
                    shorter = self._shorten(len(ids))
                    if shorter is None:
                        reason = "context"
                        break
                    self.folded, self.prompt = shorter
                    yield Folded(self.folded)
                    model.keep_prefix([*self.prompt.ids, *ids])
                    yield from self._read([*self.prompt.ids, *ids])
                if completion >= limit:
                    reason = "length"
                    break
        finally:
            sampler.close()
        if reason == "stop":
            text.close()
        if text.ready:
            yield self._delta(waiting)
        self.ids = ids[: text.settled] if text.ends_settled else None
        yield Finished(
            reason=reason,
            seed=self._sampling.seed or 0,
            prompt_tokens=len(self.prompt.ids),
            evaluated_tokens=self._evaluated,
            cached_tokens=cached,
            completion_tokens=completion,
            prompt_seconds=prompt_done - started,
            decode_seconds=time.perf_counter() - prompt_done,
            time_to_first_token=None if first_token_at is None else first_token_at - started,
            restored_tokens=min(restored, cached),
            folded=self.folded,
        )

    def _read(self, ids: Sequence[int]) -> Iterator[PromptProgress]:
        """Evaluate what the context does not hold of the ids, unless stopped."""
        model = self._model
        done = len(model.context_ids)
        yield PromptProgress(done, len(ids))
        said_at = time.perf_counter()
        while done < len(ids) and not self._stopped():
            chunk = ids[done : done + model.chunk]
            if not model.evaluate(chunk):
                return
            done += len(chunk)
            self._evaluated += len(chunk)
            if done == len(ids) or time.perf_counter() - said_at >= DELTA_SECONDS:
                yield PromptProgress(done, len(ids))
                said_at = time.perf_counter()

    def _delta(self, tokens: int) -> Delta:
        text = self._text.take()
        self.reply += text
        return Delta(text, tokens)
