"""What a person wants to know about a model file before loading it: what it is, and whether the memory is enough."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from textual.content import Content

from inference.errors import InputError
from inference.fit import choose, estimate, gigabytes, will_it_fit
from inference.gguf_header import read_header
from inference.load_options import LoadOptions
from inference.machine import Memory, usable_memory

from .hub import size_text
from .memory import resident_bytes
from .model_host import Endpoint, ModelHost, Target
from .text import harmless
from .widgets.model_table import FIT_COLOURS, ModelRow, count_text

VERDICTS = {"yes": "fits", "tight": "tight", "no": "does not fit"}


def room(host: ModelHost, replaces: bool) -> tuple[Memory | None, bool]:
    """Return the memory that there is for a model, and whether a GPU takes part.

    Where it `replaces` the loaded one, the memory of that counts as free.
    """
    memory = usable_memory()
    if memory is not None and replaces and host.pid is not None:
        freed = memory.available + resident_bytes([host.pid])
        memory = memory._replace(available=min(memory.total, freed))
    return memory, host.loaded is not None and host.loaded.n_gpu_layers > 0


def has_room_beside(host: ModelHost, target: Target, options: LoadOptions) -> bool:
    """Tell whether a second model fits into memory beside the host's, before anything of it is loaded.

    A file that cannot be read passes: loading it says why.
    """
    memory, gpu = room(host, replaces=False)
    if memory is None or isinstance(target, Endpoint):
        return True
    with suppress(InputError):
        if host.running is None and isinstance(host.target, Path):  # it will be loaded
            header = read_header(host.target)
            first = choose(header, replace(host.options, force=True), gpu=gpu, memory=memory)
            flash = first.flash_attention is not False
            taken = estimate(header, first.n_ctx, first.kv_type, flash_attention=flash)
            memory = memory._replace(available=max(0, memory.available - taken.total))
        return will_it_fit(read_header(target), options, memory, gpu=gpu).verdict == "yes"
    return True


def fits_by_size(size: int, memory: Memory | None) -> str:
    """Return yes, tight or no for a model of which only the size is known; "" where the memory is not known."""
    if memory is None:
        return ""
    return "yes" if size <= 0.85 * memory.available else "tight" if size <= 0.9 * memory.total else "no"


def describe(row: ModelRow, options: LoadOptions | None, memory: Memory | None, *, gpu: bool) -> Content:
    """Return all there is to say about a file; `options` are None while they cannot be used."""
    header = row.header
    path = Content.styled(harmless(str(row.path)).replace("\n", " "), "$foreground-muted")
    if header is None:
        return Content.assemble((row.name, "bold"), "\n", path, "\n\n", (harmless(row.problem), "$error"))
    facts = [header.architecture, header.quantization, f"{count_text(header.parameters)} parameters"]
    facts.append(size_text(header.size_bytes))
    template = "its own template" if header.chat_template else "no template of its own: a built-in one is chosen"
    trained = f"trained on {header.context_length:,} tokens" if header.context_length else "context unknown"
    lines = [
        Content.styled(row.name, "bold"),
        Content(" · ".join(" ".join(harmless(fact).split()) for fact in facts)),
        _memory_lines(row, options, memory, gpu),
        Content(""),
        Content(f"{trained} · {template}"),
        path,
    ]
    return Content("\n").join(lines)


def _memory_lines(row: ModelRow, options: LoadOptions | None, memory: Memory | None, gpu: bool) -> Content:
    if options is None:
        return Content.styled("The load options cannot be used; they are marked.", "$error")
    try:
        decided = choose(row.header, replace(options, force=True), gpu=gpu, memory=memory)
        fit = will_it_fit(row.header, decided, memory, gpu=gpu)
    except InputError as error:
        return Content.styled(harmless(str(error)), "$error")
    needed = estimate(row.header, decided.n_ctx, decided.kv_type, flash_attention=decided.flash_attention is not False)
    rows = [
        ("weights", memory_text(needed.weights), ""),
        ("KV cache", memory_text(needed.kv), f"{decided.n_ctx:,} tokens, {decided.kv_type}"),
        ("working room", memory_text(needed.total - needed.weights - needed.kv), ""),
    ]
    whole = f": needs {memory_text(needed.total)}" + (f", {memory_text(memory.available)} free" if memory else "")
    lines = [Content.assemble((VERDICTS[fit.verdict], f"bold {FIT_COLOURS[fit.verdict]}"), whole)]
    lines += [
        Content.assemble((f"  {name:<13}", "$foreground-muted"), f"{size:>8}", (f"  {note}", "$foreground-muted"))
        for name, size, note in rows
    ]
    if fit.verdict != "yes":
        lines.append(Content.styled(f"{fit.sentence}.", "$warning"))
    return Content("\n").join(lines)


def memory_text(size: int) -> str:
    """Return an amount of memory as people read it, in units of 2**30 or 2**20 bytes."""
    return gigabytes(size) if size >= 0.95 * 2**30 else f"{size / 2**20:.0f} MB"
