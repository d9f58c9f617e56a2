"""The process that asks llama.cpp about a GGUF: ids of texts, greedy continuations, logits, end tokens, speed."""

from collections.abc import Callable
from typing import Any

from .child import COMPLAINTS, follow_log, serve_parent

_SPEED_PROMPT, _SPEED_ANSWER = 128, 32
"""Tokens that are read at once, and tokens that are read one by one, to measure the speed."""


def _work(request: dict, report: Callable[[dict], None]) -> None:
    import json
    from pathlib import Path

    import llama_cpp

    follow_log(lambda level, text: level in COMPLAINTS and text and report({"log": text}))
    question = json.loads(Path(request["question"]).read_text(encoding="utf-8"))
    prompts, more, passages = question["prompts"], question["continuation"], question["passages"]
    if not prompts and not passages:
        model = llama_cpp.Llama(request["gguf"], vocab_only=True, verbose=False)
        report(_tokens(model, question))
        return
    longest = max([len(ids) + more for ids in prompts] + [len(passage["ids"]) for passage in question["passages"]])
    # The cache in F32 and plain attention, so that nothing but the weights' own type rounds.
    model = llama_cpp.Llama(
        request["gguf"],
        lora_path=request["adapter"],
        n_ctx=longest,
        n_batch=longest,
        n_ubatch=longest,
        n_threads=request["threads"],
        n_threads_batch=request["threads"],
        n_gpu_layers=0,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        flash_attn=False,
        logits_all=True,
        verbose=False,
    )

    def continued(prompt: list[int]) -> list[int]:
        model.reset()
        ids, fresh = list(prompt), prompt
        for _ in range(more):
            model.eval(fresh)
            fresh = [int(model.scores[len(ids) - 1].argmax())]
            ids += fresh
        return ids

    report(_tokens(model, question))
    if prompts:
        sequences = [continued(prompt) for prompt in prompts]
        report({"continued": sequences})
        passages = [*({"ids": ids, "positions": list(range(len(ids)))} for ids in sequences), *passages]
    with Path(request["logits"]).open("wb") as file:
        for passage in passages:
            model.reset()
            model.eval(passage["ids"])
            model.scores[passage["positions"]].tofile(file)
            report({"passages": 1})
    model.close()
    report({"speed": _speed(request, max((passage["ids"] for passage in passages), key=len))})


def _tokens(model: Any, question: dict) -> dict[str, Any]:
    """What can be said without weights."""
    import llama_cpp

    vocabulary = llama_cpp.llama_model_get_vocab(model.model)

    def ids_of(piece: dict) -> list[int]:
        return model.tokenize(piece["text"].encode("utf-8"), add_bos=False, special=piece["control"])

    return {
        "ids": [[token for piece in pieces for token in ids_of(piece)] for pieces in question["texts"]],
        "automatic": model.tokenize(question["plain"].encode("utf-8"), add_bos=True, special=False),
        "endless": [token for token in question["stop_ids"] if not llama_cpp.llama_vocab_is_eog(vocabulary, token)],
        "vocabulary": model.n_vocab(),
        "chat_template": model.metadata.get("tokenizer.chat_template"),
    }


def _speed(request: dict, ids: list[int]) -> dict[str, float]:
    """Tokens per second with llama.cpp's usual settings: of a prompt, and of an answer."""
    import time

    import llama_cpp

    threads = request["threads"]
    model = llama_cpp.Llama(
        request["gguf"],
        lora_path=request["adapter"],
        n_ctx=_SPEED_PROMPT + _SPEED_ANSWER,
        n_threads=threads,
        n_threads_batch=threads,
        n_gpu_layers=0,
        verbose=False,
    )
    ids = (ids * (1 + (_SPEED_PROMPT + _SPEED_ANSWER) // len(ids)))[: _SPEED_PROMPT + _SPEED_ANSWER]
    model.eval(ids[:1])  # the first evaluation also sets things up
    model.reset()
    begin = time.perf_counter()
    model.eval(ids[:_SPEED_PROMPT])
    read = time.perf_counter()
    for token in ids[_SPEED_PROMPT:]:
        model.eval([token])
    end = time.perf_counter()
    return {"prompt": _SPEED_PROMPT / (read - begin), "answer": _SPEED_ANSWER / (end - read)}


if __name__ == "__main__":
    serve_parent(_work)
