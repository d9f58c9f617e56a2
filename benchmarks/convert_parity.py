"""Whether our GGUFs are llama.cpp's own: every tensor's bytes and every hyper-parameter, for each architecture.

    KOALA_REAL_DATA=… python -m benchmarks.convert_parity --llama-cpp DIR

DIR is llama.cpp's source, whose convert_hf_to_gguf.py makes the files that ours are compared with. The one that belongs
to the installed llama-cpp-python lies in its source package:

    pip download --no-deps --no-binary :all: llama-cpp-python==VERSION
    tar xzf llama_cpp_python-VERSION.tar.gz        # DIR is llama_cpp_python-VERSION/vendor/llama.cpp

The models are small, randomly initialised ones of tests/convert/test_architecture.py, in float32 and in bfloat16. That
converter refuses tokenizers that it does not know, so they have the real ones of the real data folder: Llama 3's,
Qwen 2's, and for the others LLaMA's (ours reads its tokenizer.json, llama.cpp's the tokenizer.model).

A tensor or a number of the architecture that differs, or that ours lacks, is an error (exit code 1). Ours has more:
`key_length`, `value_length`, `vocab_size` and `rope.dimension_count` for each architecture, the rope's base for Gemma
(theirs relies on llama.cpp's defaults). What the tokenizer's metadata says otherwise is listed and judged by nobody
here: the ids are proven in the conversion. Known and right are
 - `add_bos_token` and `add_eos_token`, which ours takes from what the tokenizer does and always writes, and
   `add_sep_token`, which it never needs;
 - `add_space_prefix`, which ours always writes; theirs is false for each Gemma, whose own tokenizers have no prefix,
   while the Gemma here has LLaMA's;
 - Gemma 1's five ids of CodeGemma, which theirs writes whatever the tokenizer is;
 - the unknown token, which ours has from transformers' tokenizer;
 - `pre` for Llama 3's tokenizer as the real data folder has it: theirs finds smaug-bpe by a hash, which has the same
   regular expression but merges tokens from their parts, where the tokenizer.json says that they are taken whole.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from convert.__main__ import main as convert
from convert.gguf_layout import read_layout
from tests.convert.test_architecture import MODELS, make_model

TOKENIZERS = {"llama_3": "llama3", "smollm_3": "llama3", "qwen_2": "qwen2", "qwen_2_yarn": "qwen2"}
TOKENIZERS |= {"qwen_3": "qwen2", "qwen_3_yarn": "qwen2"}
TYPES = {"F32": "float32", "BF16": "bfloat16"}
ROWS = {"llama": 32000, "llama3": 128256, "qwen2": 151680}
"""Rows of the embedding for each tokenizer; Qwen's are more than it has tokens, as in its models."""


def main() -> int:
    """Convert each model in both ways, compare, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--llama-cpp", type=Path, required=True, help="folder of llama.cpp's source")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS), help="(default all)")
    options = parser.parse_args()
    script = options.llama_cpp / "convert_hf_to_gguf.py"
    if not script.is_file():
        print(f"error: {script} does not exist; see the head of this file for where to get it", file=sys.stderr)
        return 2
    if not os.environ.get("KOALA_REAL_DATA"):
        print("error: set KOALA_REAL_DATA to the folder with real rows and tokenizers", file=sys.stderr)
        return 2
    tokenizers = Path(os.environ["KOALA_REAL_DATA"]).resolve() / "tokenizers"
    print("model              type  tensors  equal  hyper-parameters  equal  tokenizer's metadata that differs")
    wrong = 0
    for name in options.models:
        for file_type in TYPES:
            with tempfile.TemporaryDirectory() as scratch:
                wrong += compare(name, file_type, script, tokenizers, Path(scratch))
    print(f"{wrong} differences" if wrong else "no differences")
    return 1 if wrong else 0


def compare(name: str, file_type: str, script: Path, tokenizers: Path, scratch: Path) -> int:
    """Print a row of the table; returns how many tensors and hyper-parameters differ."""
    checkpoint = make_checkpoint(name, TYPES[file_type], tokenizers, scratch / name)
    wanted = ["--out", str(scratch / "ours"), "--quantize", file_type, "--no-verify", "--quiet"]
    if convert([str(checkpoint), *wanted]):
        sys.exit(f"{name}: our conversion failed")
    ours, theirs = scratch / "ours" / f"{name}-{file_type}.gguf", scratch / "theirs.gguf"
    run_llama_cpp(script, checkpoint, "--outfile", theirs, "--outtype", file_type.lower())
    our_tensors, their_tensors = digests(ours), digests(theirs)
    our_values, their_values = metadata(ours), metadata(theirs)
    architecture = their_values["general.architecture"]
    different = [
        tensor
        for tensor in our_tensors.keys() | their_tensors.keys()
        if our_tensors.get(tensor) != their_tensors.get(tensor)
    ]
    known = [key for key in their_values if key == "general.architecture" or key.startswith(f"{architecture}.")]
    wrong = [key for key in known if our_values.get(key) != their_values[key]]
    # The template is ours to write, and theirs writes none where there is none.
    other = [
        f"{key.removeprefix('tokenizer.ggml.')} {our_values.get(key, '-')}/{their_values.get(key, '-')}"
        for key in sorted(our_values.keys() | their_values.keys())
        if key.startswith("tokenizer.ggml.") and our_values.get(key) != their_values.get(key)
    ]
    print(
        f"{name:18} {file_type:4} {len(their_tensors):8} {len(their_tensors) - len(different):6} {len(known):17} "
        f"{len(known) - len(wrong):6}  {', '.join(other) or '-'}",
        flush=True,
    )
    for key in sorted(wrong):
        print(f"  {key}: ours {our_values.get(key)}, llama.cpp's {their_values[key]}")
    for tensor in sorted(different):
        print(f"  {tensor} differs: ours {our_tensors.get(tensor)}, llama.cpp's {their_tensors.get(tensor)}")
    return len(different) + len(wrong)


def make_checkpoint(name: str, dtype: str, tokenizers: Path, folder: Path) -> Path:
    """Write the model in `dtype` with its real tokenizer."""
    import torch

    tokenizer = TOKENIZERS.get(name, "llama")
    model = make_model(name, ROWS[tokenizer]).to(getattr(torch, dtype))
    for role in ("bos", "eos", "pad"):  # the tokenizer knows them better
        setattr(model.config, f"{role}_token_id", None)
        setattr(model.generation_config, f"{role}_token_id", None)
    model.save_pretrained(folder)
    for file in (tokenizers / "hf" / tokenizer).iterdir():
        shutil.copy(file, folder)
    if tokenizer == "llama":
        shutil.copy(tokenizers / "raw" / "llama" / "tokenizer.model", folder)
    return folder


def run_llama_cpp(*arguments: object) -> None:
    """Run llama.cpp's converter; its output is shown only where it fails."""
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")


def digests(path: Path) -> dict[str, tuple[int, tuple[int, ...], str]]:
    """The type, shape and sha256 of each tensor."""
    layout, content = read_layout(path), path.read_bytes()
    found = {}
    for tensor in layout.tensors:
        start = layout.data_start + tensor.offset
        digest = hashlib.sha256(content[start : start + tensor.size]).hexdigest()[:16]
        found[tensor.name] = (tensor.type, tensor.shape, digest)
    return found


def metadata(path: Path) -> Mapping[str, str]:
    """The metadata without arrays, as llama.cpp reads it."""
    from llama_cpp import Llama

    return Llama(str(path), vocab_only=True, verbose=False).metadata


if __name__ == "__main__":
    sys.exit(main())
