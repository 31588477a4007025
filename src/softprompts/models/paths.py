"""Find and check the path of a base model, without the libraries that load it."""

from __future__ import annotations

from pathlib import Path

from softprompts.config.sections import ModelConfig
from softprompts.errors import UserError
from softprompts.models.bundled import PREFIX, lookup, resolve
from softprompts.system.files import is_folder


def check_model(config: ModelConfig) -> None:
    """Raise `UserError` for an unknown bundled name and for a folder that is missing or has no model."""
    if config.name_or_path.startswith(PREFIX):
        lookup(config.name_or_path)
    else:
        _check_folder(config.name_or_path)


def model_path(config: ModelConfig) -> str:
    """Return the folder or Hub id of `name_or_path`; a bundled model is made if it is missing.

    Raises:
        UserError: as `check_model`; a bundled model cannot be made.
    """
    path = resolve(config.name_or_path)
    _check_folder(path)
    return path


def names_folder(path: str) -> bool:
    """Return whether a name of a model or dataset is a folder's, and not an id of the Hub. The folder may be gone."""
    return is_folder(Path(path)) or path.startswith((".", "/", "~")) or path.count("/") > 1


def _check_folder(path: str) -> None:
    folder = Path(path)
    adapter = (folder / "adapter_config.json").is_file()
    if folder.exists() and not (folder / "config.json").is_file():
        if adapter:
            raise UserError(f"model.name_or_path: {path} is an adapter; name its base model here")
        raise UserError(f"model.name_or_path: {path} is not a model folder: it has no config.json")
    if adapter:  # transformers would load the adapter on the base model that it names, instead of this model
        raise UserError(
            f"model.name_or_path: {path} has both a model and an adapter (adapter_config.json); put them into two "
            "folders"
        )
    if not folder.exists() and names_folder(path):
        raise UserError(f"model.name_or_path: no such folder: {path}")
