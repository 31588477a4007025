"""Files of public Git repositories at a fixed commit, checked by SHA-256, and kept in a folder for the next build."""

from __future__ import annotations

import hashlib
import http.client
import io
import tarfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

from softprompts.errors import UserError
from softprompts.system.files import replacing

FILES = "https://raw.githubusercontent.com/{repository}/{commit}/{path}"
ARCHIVES = "https://codeload.github.com/{repository}/tar.gz/{commit}"
TIMEOUT = 60  # seconds without a byte


def read_file(repository: str, commit: str, path: str, sha256: str, sources: Path) -> bytes:
    """Return a file of a repository, from `sources` or downloaded; UserError if it is another file or does not arrive.

    It is kept as `sources`/REPOSITORY-COMMIT/PATH, with REPOSITORY as the part after the owner.
    """
    kept = sources / f"{repository.partition('/')[2]}-{commit}" / path
    content = _kept(kept, FILES.format(repository=repository, commit=commit, path=path))
    if (actual := hashlib.sha256(content).hexdigest()) != sha256:
        raise UserError(f"{kept}: SHA-256 is {actual}, expected {sha256}; remove the file to download it again")
    return content


def read_archive(
    repository: str, commit: str, wanted: Callable[[str], bool], sha256: str, sources: Path
) -> dict[str, str]:
    """Return the texts of the files whose paths are `wanted`, by path in order, from an archive of a repository.

    The checksum is that of `contents_digest`, because the bytes of an archive depend on the program that packs it.
    The archive is kept as `sources`/REPOSITORY-COMMIT.tar.gz.

    Raises UserError if the archive does not arrive, cannot be read, or has other files.
    """
    kept = sources / f"{repository.partition('/')[2]}-{commit}.tar.gz"
    content = _kept(kept, ARCHIVES.format(repository=repository, commit=commit))
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
            for member in tar:
                path = member.name.partition("/")[2]
                if member.isfile() and wanted(path) and (file := tar.extractfile(member)):
                    found[path] = file.read().decode("utf-8", "replace")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{kept} is not a readable .tar.gz archive: {error}; remove it to download it again") from None
    found = dict(sorted(found.items()))
    if (actual := contents_digest(found)) != sha256:
        raise UserError(f"{kept}: the SHA-256 of its {len(found)} files is {actual}, expected {sha256}")
    return found


def contents_digest(files: dict[str, str]) -> str:
    """Return the SHA-256 of the paths and texts of files, in the order of their paths."""
    found = hashlib.sha256()
    for path, text in sorted(files.items()):
        found.update(f"{path}\0{len(text)}\0{text}".encode())
    return found.hexdigest()


def _kept(file: Path, address: str) -> bytes:
    """Return the bytes of `file`, which is first downloaded from `address` if it does not exist.

    Raises:
        UserError: the download fails or ends early; the file cannot be written. Then no part of the file is kept.
    """
    if not file.is_file():
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT) as response:
                content: bytes = response.read()
        except (OSError, http.client.HTTPException) as error:  # a connection that drops is no OSError
            raise UserError(f"{address} could not be downloaded ({error}); put the file at {file}") from None
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_bytes(content)
    return file.read_bytes()
