"""Files of a batch."""

import errno
import os

import fsspec
import pytest

from airflow_raif.spool.files import Folder


@pytest.fixture(params=["file", "memory"])
def folder(request, tmp_path):
    """A folder on local disk and one on object storage."""
    fs = fsspec.filesystem(request.param)
    path = str(tmp_path / "spool") if request.param == "file" else "/spool-" + tmp_path.name
    folder = Folder(fs, path, f"{request.param}://{path}")
    yield folder
    folder.delete()


def test_a_written_file_can_be_read_in_blocks_again_and_again(folder):
    """A repeated upload reads from the start."""
    with folder.write("a.jsonl") as file:
        file.write(b"x" * 3_000_000)
    read = folder.blocks("a.jsonl")
    assert b"".join(read()) == b"".join(read()) == b"x" * 3_000_000
    assert max(map(len, read())) <= 1 << 20


def test_a_file_that_was_not_finished_does_not_exist(folder):
    """A crash in the middle leaves nothing under the name."""
    with pytest.raises(RuntimeError), folder.write("a.jsonl") as file:
        file.write(b"half")
        raise RuntimeError
    assert not folder.exists("a.jsonl")


def test_a_file_may_be_named_at_its_end(folder):
    """Named after what is in it, and found in the list from then on."""
    assert folder.names() == []
    lines = []
    with folder.write(lambda: f"{len(lines)}-lines.jsonl") as file:
        lines.append(file.write(b"a"))
        assert "1-lines.jsonl" not in folder.names()
    assert folder.names() == ["1-lines.jsonl"]


def test_a_whole_file_stays_when_its_replacement_fails(folder):
    """What was there before is not lost."""
    with folder.write("a.jsonl") as file:
        file.write(b"old")
    with pytest.raises(RuntimeError), folder.write("a.jsonl") as file:
        file.write(b"new")
        raise RuntimeError
    assert b"".join(folder.blocks("a.jsonl")()) == b"old"


def test_a_local_copy_is_read_at_any_offset(folder):
    """Results are looked up where they lie."""
    with folder.write("a.jsonl") as file:
        file.write(b"0123456789")
    with folder.local_copy("a.jsonl") as file:
        file.seek(7)
        assert file.read(2) == b"78"


def test_deleting_takes_everything(folder):
    """A discarded batch leaves no files."""
    with folder.child("b").write("a.jsonl") as file:
        file.write(b"x")
    folder.child("b").delete()
    folder.child("b").delete()
    assert not folder.child("b").exists("a.jsonl")


def test_a_file_that_is_written_once_stays(folder):
    """Others note where in it they read."""
    with folder.write("a.jsonl", once=True) as mine:
        mine.write(b"mine")
        with folder.write("a.jsonl", once=True) as other:
            other.write(b"the other's, whole by now")
    assert b"".join(folder.blocks("a.jsonl")()) == b"the other's, whole by now"


def test_a_file_system_without_links(folder, monkeypatch):
    """A share may have none; a file is there all the same."""

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    for content in (b"first", b"second"):
        with folder.write("a.jsonl", once=True) as file:
            file.write(content)
    assert b"".join(folder.blocks("a.jsonl")()) == b"first"


def test_renaming_and_removing(folder):
    """A file takes the place of another."""
    for name in ("a", "b"):
        with folder.write(name) as file:
            file.write(name.encode())
    folder.rename("a", "b")
    assert not folder.exists("a")
    assert b"".join(folder.blocks("b")()) == b"a"
    folder.remove("b")
    assert not folder.exists("b")


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTEMPTY])
def test_deleting_together_with_another(folder, monkeypatch, number):
    """What somebody else deletes or writes meanwhile does not stop the deletion."""
    with folder.write("a.jsonl") as file:
        file.write(b"x")
    real = folder.fs.rm

    def disturbed(*arguments, **named):
        monkeypatch.setattr(folder.fs, "rm", real)
        raise OSError(number, "somebody else is at it")

    monkeypatch.setattr(folder.fs, "rm", disturbed)
    folder.delete()
    assert not folder.exists("a.jsonl")


def test_a_folder_that_may_not_be_deleted(folder, monkeypatch):
    """Is told."""
    with folder.write("a.jsonl") as file:
        file.write(b"x")

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "no")

    with monkeypatch.context() as patch:
        patch.setattr(folder.fs, "rm", refuse)
        with pytest.raises(PermissionError):
            folder.delete()
