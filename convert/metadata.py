"""What a GGUF says about the model beside its weights: where it comes from and under which licence."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from datasets_cfg.errors import BadInput, one_line

from .checkpoint import read_json

if TYPE_CHECKING:
    import gguf


_LONGEST = 1000
"""Characters of a name; what is longer is none."""


@dataclass(frozen=True)
class Provenance:
    """What the checkpoint's model card and koala.json say; empty where they say nothing.

    Attributes:
        license: the card's licence, usually an SPDX identifier; of an unusual one `other`.
        license_name, license_link: what an unusual licence is called, and where its text is.
        base_models, datasets: hub ids or titles; of folders only the last part, since a path is nobody's business.
        languages: ISO 639 codes.
        koala: the plain values of koala.json (recipe, mixture, seed, commit, …) by their dotted path.
    """

    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    base_models: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    koala: Mapping[str, str | int | float | bool] = field(default_factory=dict)


def read_provenance(folder: Path) -> Provenance:
    """Read README.md's front matter and koala.json where they exist; koala.json's own keys fill gaps of the card.

    Raises:
        BadInput: one of them is there and cannot be read.
    """
    card = _front_matter(folder / "README.md")
    koala = read_json(folder / "koala.json") if (folder / "koala.json").is_file() else {}
    told = {**koala, **card}
    return Provenance(
        license=next(iter(_strings(told.get("license"))), None),
        license_name=next(iter(_strings(told.get("license_name"))), None),
        license_link=next(iter(_strings(told.get("license_link"))), None),
        base_models=[without_folders(name) for name in _strings(told.get("base_model"))],
        datasets=[without_folders(name) for name in _strings(told.get("datasets"))],
        languages=_strings(told.get("language")),
        koala=dict(_flatten(koala)),
    )


def add_provenance(writer: "gguf.GGUFWriter", provenance: Provenance) -> None:
    """Write it into the metadata: GGUF's general keys, and koala.json under `koala.`."""
    if provenance.license:
        writer.add_license(provenance.license)
    if provenance.license_name:
        writer.add_license_name(provenance.license_name)
    if provenance.license_link:
        writer.add_license_link(provenance.license_link)
    if provenance.base_models:
        writer.add_base_model_count(len(provenance.base_models))
        for number, name in enumerate(provenance.base_models):
            writer.add_base_model_name(number, name)
    if provenance.datasets:
        writer.add_dataset_count(len(provenance.datasets))
        for number, name in enumerate(provenance.datasets):
            writer.add_dataset_name(number, name)
    if provenance.languages:
        writer.add_languages(provenance.languages)
    for key, value in provenance.koala.items():
        writer.add_string(f"koala.{key}", str(value))


def _front_matter(path: Path) -> dict[str, Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as text in UTF-8 ({one_line(error)}); mend or remove it") from None
    block = re.match(r"---\r?\n(.*?)\r?\n---\s*$", text, re.DOTALL | re.MULTILINE)
    try:
        content = yaml.safe_load(block[1]) if block else {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: its front matter is not YAML ({one_line(error)}); mend or remove it") from None
    return content if isinstance(content, dict) else {}


def _strings(value: Any) -> list[str]:
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    # A dataset may be a record with a name, and YAML reads the language code `no` as false.
    named = [item.get("name") if isinstance(item, dict) else item for item in values]
    texts = ["no" if item is False else str(item) for item in named if isinstance(item, (str, int, float))]
    return [text for text in texts if len(text) <= _LONGEST]


def without_folders(name: str) -> str:
    """A hub id or a title as it is, of a path only its end."""
    is_path = name.startswith(("/", "./", "../", "~")) or "\\" in name or (name.count("/") > 1 and " " not in name)
    return PureWindowsPath(name).name if is_path and "://" not in name else name


def _flatten(values: Mapping[str, Any], prefix: str = ""):
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, str):
            yield f"{prefix}{key}", without_folders(value)
        elif isinstance(value, (int, float, bool)):
            yield f"{prefix}{key}", value
