"""What a GGUF says about the model beside its weights: where it comes from and under which licence."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from datasets_cfg.errors import BadInput

from .checkpoint import read_json

if TYPE_CHECKING:
    import gguf


@dataclass(frozen=True)
class Provenance:
    """What the checkpoint's model card and koala.json say; empty where they say nothing.

    Attributes:
        license: the card's licence, usually an SPDX identifier; of an unusual licence its `license_name`.
        license_link: where the text of an unusual licence is.
        base_models, datasets: hub ids or titles; of folders only the last part, since a path is nobody's business.
        languages: ISO 639 codes.
        koala: the plain values of koala.json (recipe, mixture, seed, commit, …) by their dotted path.
    """

    license: str | None = None
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
    license = next(iter(_strings(told.get("license"))), None)
    named = next(iter(_strings(told.get("license_name"))), None)
    return Provenance(
        license=named if license == "other" and named else license,
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
    block = re.match(r"---\r?\n(.*?)\r?\n---\s*$", text, re.DOTALL | re.MULTILINE)
    try:
        content = yaml.safe_load(block[1]) if block else {}
    except yaml.YAMLError as error:
        raise BadInput(
            f"{path}: its front matter is not YAML ({' '.join(str(error).split())}); mend or remove it"
        ) from None
    return content if isinstance(content, dict) else {}


def _strings(value: Any) -> list[str]:
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    # A dataset may be a record with a name, and YAML reads the language code `no` as false.
    named = [item.get("name") if isinstance(item, dict) else item for item in values]
    return ["no" if item is False else str(item) for item in named if item is not None]


def without_folders(name: str) -> str:
    """A hub id or a title as it is, of a path only its end."""
    is_path = name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name
    return PureWindowsPath(name).name if is_path and "://" not in name else name


def _flatten(values: Mapping[str, Any], prefix: str = ""):
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, (str, int, float, bool)):
            yield f"{prefix}{key}", value
