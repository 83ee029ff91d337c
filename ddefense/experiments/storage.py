"""Finished stages in a folder or object store that every node of a cluster reaches."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
import urllib.parse
import uuid
from typing import Any

import fsspec

from ddefense.records import RunError
from ddefense.settings import ConfigError

MARKER = "stage.json"
"""The file that says that a directory is complete: object stores cannot rename a directory, so it
is written after all others."""
_TEMPORARY = ".tmp-"


class Storage:
    """Directories under a URL that fsspec knows, such as `s3://bucket/sweep` or `file:///mnt/sweep`.

    Args:
        url: the folder; made when needed.

    Raises:
        ConfigError: if no file system is known for it, or the library for it is not installed.
    """

    def __init__(self, url: str) -> None:
        """Connects to the file system."""
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError, OSError) as error:
            raise ConfigError(
                "storage",
                "expected a folder or a URL that fsspec knows, such as s3://bucket/sweep; "
                f"received {url!r}: {' '.join(str(error).split())}",
            ) from error
        self._root = root.rstrip("/")
        self._is_local = "file" in _protocols(self._files)
        if self._is_local:  # whatever the working directory of other processes is
            url = self._files.unstrip_protocol(root)
        head, separator, path = url.rpartition("://")
        self.url = head + separator + (path.rstrip("/") or path[:1])

    def __eq__(self, other: object) -> bool:
        """Whether it is the same folder."""
        return isinstance(other, Storage) and other.url == self.url

    def __hash__(self) -> int:
        """Of the URL."""
        return hash(self.url)

    def __reduce__(self) -> tuple[type["Storage"], tuple[str]]:
        """Other processes connect themselves."""
        return Storage, (self.url,)

    def copies(self) -> pathlib.Path:
        """Where a machine that shares nothing else keeps copies while a run goes on."""
        parts = [urllib.parse.quote(part, safe="") for part in self.url.split("/") if part]
        return pathlib.Path(tempfile.gettempdir(), f"ddefense-{os.getuid()}", *parts)

    @property
    def of_one_process(self) -> bool:
        """Whether no other process sees what is written here."""
        return "memory" in _protocols(self._files)

    def within(self, name: str) -> "Storage":
        """A folder in it."""
        return Storage(f"{self.url.removesuffix('/')}/{name}")

    def marker(self, key: str) -> Any:
        """What the marker of a directory says, a JSON object; None if it is not complete.

        Raises:
            RunError: if it cannot be read, or is damaged.
        """
        # Listings may be remembered from before another node wrote.
        self._files.invalidate_cache()
        try:
            found = json.loads(self._files.cat_file(f"{self._root}/{key}/{MARKER}"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunError(f"Cannot read {self.url}/{key}/{MARKER}: {error}") from error
        if not isinstance(found, dict):
            raise RunError(f"Cannot read {self.url}/{key}/{MARKER}: it is no JSON object.")
        return found

    def publish(self, key: str, directory: pathlib.Path, *, without: str) -> None:
        """Copies a directory here, its marker last.

        Args:
            key: what it is called here.
            directory: with a marker.
            without: name of a subdirectory that stays.
        """
        for path in sorted(directory.rglob("*")):
            inside = path.relative_to(directory)
            if path.is_file() and inside.parts[0] != without and inside != pathlib.Path(MARKER):
                self._put(path, f"{self._root}/{key}/{inside.as_posix()}")
        self._put_marker((directory / MARKER).read_bytes(), f"{self._root}/{key}")

    def fetch(self, key: str, directory: pathlib.Path) -> None:
        """Copies a complete directory to this machine.

        Args:
            key: what it is called here.
            directory: where it goes; not there yet.

        Raises:
            RunError: if it is not complete, or is removed meanwhile.
        """
        missing = f"Expected a finished stage at {self.url}/{key}, received none."
        if self.marker(key) is None:
            raise RunError(missing)
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = directory.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
        base = f"{self._root}/{key}"
        try:
            start = len(self._files._strip_protocol(base)) + 1
            inside = {found[start:] for found in self._files.find(base)}
            inside = {name for name in inside if not name.startswith(_TEMPORARY)}
            # The marker is the first to be removed, so if it is there at the end, all were.
            for name in (*sorted(inside - {MARKER}), MARKER):
                target = temporary / name
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    self._files.get_file(f"{base}/{name}", str(target))
                except FileNotFoundError as error:
                    raise RunError(missing) from error
            try:
                temporary.rename(directory)
            except OSError:
                if not directory.exists():  # unless another process was faster
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def remove(self, key: str) -> None:
        """Removes a directory and those in it, their markers first, if it is there."""
        base = f"{self._root}/{key}"
        self._files.invalidate_cache()
        for found in self._files.find(base):
            if found.endswith(f"/{MARKER}"):
                with contextlib.suppress(FileNotFoundError):
                    self._files.rm_file(found)
        # Another node may be at it, too.
        with contextlib.suppress(FileNotFoundError):
            if self._files.exists(base):
                self._files.rm(base, recursive=True)

    def write(self, name: str, content: bytes) -> None:
        """Writes a small file."""
        self._files.makedirs(self._root, exist_ok=True)
        self._files.pipe_file(f"{self._root}/{name}", content)

    def read(self, name: str) -> bytes | None:
        """Reads a small file; None if it is not there."""
        self._files.invalidate_cache()
        try:
            content: bytes = self._files.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None
        return content

    def delete(self, name: str) -> None:
        """Removes a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")

    def _put(self, path: pathlib.Path, target: str) -> None:
        self._files.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        self._files.put_file(str(path), target)

    def _put_marker(self, content: bytes, base: str) -> None:
        """Writes it so that nobody sees half of it; object stores do so anyway."""
        self._files.makedirs(base, exist_ok=True)
        if not self._is_local:
            self._files.pipe_file(f"{base}/{MARKER}", content)
            return
        temporary = f"{base}/{_TEMPORARY}{uuid.uuid4().hex}"
        self._files.pipe_file(temporary, content)
        self._files.mv(temporary, f"{base}/{MARKER}")


def _protocols(file_system: Any) -> tuple[str, ...]:
    found = file_system.protocol
    return (found,) if isinstance(found, str) else tuple(found)
