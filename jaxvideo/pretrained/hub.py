"""Networks on the Hugging Face Hub; needs the extra [hub].

A repository has `model.safetensors`, which is jaxvideo's own format, its description `config.json`
and a model card. huggingface_hub downloads with resume, locks and a cache of its own, and honors
`HF_ENDPOINT`, `HF_HOME` and `HF_TOKEN`.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from jaxvideo import __version__
from jaxvideo.pretrained.card import model_card
from jaxvideo.pretrained.saving import Weights, save_weights
from jaxvideo.types import CheckpointError, ConfigError

#: Prefix of a repository where a path may stand, too.
PREFIX = "hf:"

_FILE, _CONFIG, _CARD = "model.safetensors", "config.json", "README.md"
_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def push(
    weights: Weights,
    repo: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    license: str | None = None,
    message: str = "Upload a network of jaxvideo",
) -> str:
    """Uploads weights, their description and a model card in one commit.

    Args:
      weights: the weights.
      repo: "owner/name"; it is created if it does not exist. Its files of the same names are
        replaced.
      private: whether a new repository is private; None (default): as the owner's settings say.
      token: access token; None (default): the one of `hf auth login` or `HF_TOKEN`.
      license: license identifier for the card; None (default): the one published with the weights.
      message: message of the commit.

    Returns:
      The address of the commit.

    Raises:
      ConfigError: `repo` is not "owner/name".
      CheckpointError: huggingface_hub is not installed, or the Hub refuses.
    """
    repo = _checked(repo)
    hub = _library()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _FILE
        described = save_weights(path, weights)
        path.with_suffix(".json").unlink()
        (path.parent / _CONFIG).write_text(json.dumps(described, indent=2) + "\n")
        (path.parent / _CARD).write_text(model_card(weights, repo, license), encoding="utf-8")
        api = hub.HfApi(
            endpoint=_endpoint(),
            token=token,
            library_name="jaxvideo",
            library_version=__version__,
        )
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            done = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
        except Exception as error:  # of HTTP, of the network, or of the Hub
            raise CheckpointError(
                f"{repo} was not uploaded: {_first_line(error)}. `hf auth login` stores a token "
                "with write access"
            ) from error
    return str(getattr(done, "commit_url", done))


def fetch(repo: str) -> Path:
    """Returns the weight file of a repository, from the cache of huggingface_hub or the Hub.

    Args:
      repo: "owner/name", or "owner/name@REVISION" for a branch, a tag or a commit.

    Raises:
      ConfigError: `repo` is not of that form.
      CheckpointError: huggingface_hub is not installed, the repository or its file does not exist,
        or the Hub is not reached.
    """
    from jaxvideo.weights.download import offline

    name, _, revision = repo.partition("@")
    name = _checked(name)
    hub = _library()
    errors = hub.errors
    try:
        return Path(
            hub.hf_hub_download(
                name,
                _FILE,
                revision=revision or None,
                library_name="jaxvideo",
                library_version=__version__,
                endpoint=_endpoint(),
                local_files_only=offline(),
            )
        )
    except errors.LocalEntryNotFoundError as error:
        why = "JAXVIDEO_OFFLINE is set" if offline() else "the Hub is not reached"
        raise CheckpointError(f"hf:{repo} is not in the cache, and {why}") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"hf:{name} has no revision {revision!r}") from error
    except errors.EntryNotFoundError as error:
        raise CheckpointError(
            f"hf:{repo} has no {_FILE}, hence no network of jaxvideo. Such repositories are "
            "written by Network.push_to_hub"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"hf:{repo} does not exist, or is private or gated; then log in with `hf auth login`"
        ) from error
    except Exception as error:
        raise CheckpointError(f"hf:{repo} was not downloaded: {_first_line(error)}") from error


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise CheckpointError(
            "huggingface_hub is not installed: pip install 'jaxvideo[hub]'"
        ) from None
    return huggingface_hub


def _endpoint() -> str | None:
    """Returns `HF_ENDPOINT`, also if it was set after huggingface_hub was imported."""
    return os.environ.get("HF_ENDPOINT") or None


def _checked(repo: str) -> str:
    name = repo.removeprefix(PREFIX)
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{repo!r} is not a repository of the Hub: it must be owner/name")
    return name


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
