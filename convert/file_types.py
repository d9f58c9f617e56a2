"""The file types of llama.cpp: what each is called, and how far a file of that type may be from the checkpoint."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from datasets_cfg.errors import BadInput

AUTO = "auto"
"""Stands for the best type that fits into the RAM that the user names."""

UNQUANTIZED = ("F32", "BF16", "F16")
"""Types that keep every weight as a floating-point number."""

# The one marks files that name no type; the quantizer of llama-cpp-python 0.3.36 refuses the other.
_NOT_MADE = ("LLAMA_FTYPE_GUESSED", "NVFP4")
_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


@dataclass(frozen=True)
class Limits:
    """How far a GGUF may be from its reference, over all positions that are compared.

    An unquantized file is held to transformers in float32, a quantized one to the unquantized file.

    Attributes:
        kld: mean Kullback-Leibler divergence of the next-token distributions, in nats.
        tie: another first choice than the reference's is accepted where the reference prefers its own by no more than
            this many standard deviations of the logits at that position; None where any choice is accepted.
        largest: largest difference of two logits, relative to the largest logit; None where any is accepted.
    """

    kld: float
    tie: float | None = None
    largest: float | None = None


# docs/convert.md has the figures that these stand well above: they are to catch a broken file, not to judge a type.
# In F16 and BF16 files llama.cpp rounds the activations to the type of the weights, so F32's limits are not theirs.
_FLOAT_LIMITS = {
    "F32": Limits(kld=1e-6, tie=1e-3, largest=1e-3),
    "F16": Limits(kld=5e-4, tie=0.05),
    "BF16": Limits(kld=5e-3, tie=0.25),
}
TABULATED = Limits(kld=1e-4, tie=0.05, largest=1e-2)
"""Of an unquantized file of any type where llama.cpp's activation comes from a table of 16-bit numbers."""

_LIMITS_BY_BITS = {
    8: Limits(kld=0.02),
    6: Limits(kld=0.05),
    5: Limits(kld=0.1),
    4: Limits(kld=0.3),
    3: Limits(kld=1.0),
    2: Limits(kld=2.0),
    1: Limits(kld=3.0),
}


def known_types() -> dict[str, int]:
    """Every type that llama.cpp's quantizer makes, by its usual name (`Q4_K_M`), and llama.cpp's number for it."""
    import llama_cpp

    numbers = {name: number for name, number in vars(llama_cpp).items() if name.startswith("LLAMA_FTYPE_")}
    types = {re.sub("^LLAMA_FTYPE_(ALL|MOSTLY)_", "", name): number for name, number in numbers.items()}
    return {name: number for name, number in types.items() if name not in _NOT_MADE}


def chosen_types(names: Iterable[str]) -> list[str]:
    """Usual names of the types that the user named, in the user's order, each once; upper and lower case are one.

    `AUTO` stays as it is.

    Raises:
        BadInput: llama.cpp's quantizer has no such type.
    """
    known = known_types()
    chosen = []
    for name in names:
        if name.lower() == AUTO:
            chosen.append(AUTO)
            continue
        usual = _ALIASES.get(name.upper(), name.upper())
        if usual not in known:
            raise BadInput(
                f"--quantize {name}: there is no such type; the types are {AUTO}, {', '.join(sorted(known))}"
            )
        chosen.append(usual)
    return list(dict.fromkeys(chosen))


def limits(file_type: str) -> Limits:
    """The limits that a file of this type must keep; quantized types go by the bits in their name."""
    if file_type in _FLOAT_LIMITS:
        return _FLOAT_LIMITS[file_type]
    return _LIMITS_BY_BITS[int(re.search(r"\d", file_type).group())]
