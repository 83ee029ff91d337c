"""The manifest of a version: what it covers and what it notices."""

import shutil
import subprocess

import pytest

from ddefense.serving import checksums
from ddefense.serving.checksums import ChecksumError


@pytest.fixture
def version(tmp_path):
    directory = tmp_path / "model" / "1"
    (directory / "variables").mkdir(parents=True)
    (directory / "saved_model.pb").write_bytes(b"graph")
    (directory / "variables" / "a name.data").write_bytes(b"")
    checksums.write(directory)
    return directory


def test_every_file_is_listed_but_the_manifest(version):
    # The digests of "graph" and of nothing, from sha256sum.
    assert (version / checksums.MANIFEST).read_text() == (
        "eef93e1d14482804277fca0172464032d1a4fdbcc338524059fa1e861454ad4d  saved_model.pb\n"
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  variables/a name.data\n"
    )
    assert checksums.check(version) == 2


def test_writing_again_changes_nothing(version):
    before = (version / checksums.MANIFEST).read_bytes()
    checksums.write(version)
    assert (version / checksums.MANIFEST).read_bytes() == before


def test_a_copy_elsewhere_is_checked_alike(version, tmp_path):
    shutil.copytree(version, tmp_path / "copy")
    assert checksums.check(tmp_path / "copy") == 2


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda d: (d / "saved_model.pb").write_bytes(b"Graph"), "changed: saved_model.pb"),
        (lambda d: (d / "saved_model.pb").unlink(), "missing: saved_model.pb"),
        (lambda d: (d / "variables" / "b").touch(), "not in the manifest: variables/b"),
    ],
)
def test_a_difference_is_named(version, spoil, problem):
    spoil(version)
    with pytest.raises(ChecksumError, match=f"found 1 differences: {problem}. Do not serve it"):
        checksums.check(version)


def test_a_link_is_no_file(version, tmp_path):
    (version / "saved_model.pb").rename(tmp_path / "graph")
    (version / "saved_model.pb").symlink_to(tmp_path / "graph")
    with pytest.raises(ChecksumError, match=r"no plain file: saved_model\.pb; missing"):
        checksums.check(version)


def test_a_linked_folder_is_none(version, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (version / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ChecksumError, match="no plain file: more"):
        checksums.check(version)


def test_all_differences_are_named(version):
    (version / "saved_model.pb").unlink()
    (version / "new").touch()
    with pytest.raises(ChecksumError, match=r"missing: saved_model\.pb; not in the manifest: new"):
        checksums.check(version)


@pytest.mark.parametrize("text", [None, "no such line", "\x00\n"])
def test_no_manifest(version, text):
    (version / checksums.MANIFEST).unlink()
    if text is not None:
        (version / checksums.MANIFEST).write_text(text)
    with pytest.raises(ChecksumError, match=r"Expected the manifest assets\.extra/SHA256SUMS in"):
        checksums.check(version)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not on the PATH")
def test_sha256sum_reads_it(version):
    command = ["sha256sum", "--check", "--strict", str(checksums.MANIFEST)]
    assert subprocess.run(command, cwd=version, capture_output=True, check=False).returncode == 0
    (version / "saved_model.pb").write_bytes(b"Graph")
    assert subprocess.run(command, cwd=version, capture_output=True, check=False).returncode == 1
