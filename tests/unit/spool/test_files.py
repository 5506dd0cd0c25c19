"""Files of a batch."""

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
