import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from searcher.errors import UsageError
from searcher.runs.files import replacing, whole


def write(path: Path, text: str = "new") -> None:
    with whole(path) as temporary:
        temporary.write_text(text)


def write_half(path: Path) -> None:
    path.write_text("half")
    raise KeyboardInterrupt


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_the_old_one_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    path.chmod(0o600)
    with whole(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600  # whoever could not read it still cannot
    assert names(tmp_path) == ["page.html"]


def test_nothing_is_left_of_what_is_interrupted(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole(path) as temporary:
        write_half(temporary)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["page.html"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_a_link_and_what_it_leads_to_is_written(tmp_path, there):
    (tmp_path / "kept").mkdir()
    target, link = tmp_path / "kept" / "page.html", tmp_path / "link.html"
    if there:
        target.write_text("old")
    link.symlink_to(target)
    write(link)
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert not target.is_symlink()


def test_a_device_is_written_into_and_stays_one(tmp_path):
    null = tmp_path / "null"
    null.symlink_to("/dev/null")
    for path in (Path("/dev/null"), null):
        write(path)
        assert path.is_char_device()
    assert null.is_symlink()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no such device")
def test_a_device_that_takes_nothing_is_told_and_stays_one():
    with pytest.raises(UsageError, match=r"/dev/full cannot be written \(No space left on device\)") as error:
        write(Path("/dev/full"))
    assert "disk is full" in error.value.hint
    assert Path("/dev/full").is_char_device()


def test_a_pipe_is_written_into(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write(pipe)
    reader.join()
    assert read == ["new"]
    assert pipe.is_fifo()


@pytest.mark.parametrize("to", ["pipe", "file"])
def test_what_stdout_goes_to_is_written_after_what_was_printed(tmp_path, to):
    script = (
        "import sys\nfrom pathlib import Path\nfrom searcher.runs.files import whole\nprint('before')\n"
        "with whole(Path('/dev/stdout')) as temporary:\n    temporary.write_text('page\\n')\nprint('after')"
    )
    printed = tmp_path / "printed"
    with printed.open("wb") as file:
        sink = file if to == "file" else subprocess.PIPE
        done = subprocess.run([sys.executable, "-c", script], stdout=sink, check=True)
    assert (printed.read_bytes() if to == "file" else done.stdout) == b"before\npage\nafter\n"


BAD = {
    "no folder": (errno.ENOENT, "a folder that exists"),
    "a file where a folder should be": (errno.ENOTDIR, "a folder that exists"),
    "a folder": (errno.EISDIR, "not a folder"),
    "no permission": (errno.EACCES, "may write to"),
    "read only": (errno.EROFS, "may write to"),
    "full": (errno.ENOSPC, "disk is full"),
    "over quota": (errno.EDQUOT, "disk is full"),
}


@pytest.mark.parametrize("case", BAD)
def test_says_what_is_wrong_and_what_to_do(tmp_path, case):
    number, hint = BAD[case]
    with pytest.raises(UsageError, match=os.strerror(number)) as error, whole(tmp_path / "page.html"):
        raise OSError(number, os.strerror(number))
    assert hint in error.value.hint


def test_finds_out_by_itself_what_is_no_file(tmp_path):
    (tmp_path / "file").write_text("")
    for path, number in (
        (tmp_path, errno.EISDIR),
        (tmp_path / "no" / "x", errno.ENOENT),
        (tmp_path / "file" / "x", errno.ENOTDIR),
    ):
        with pytest.raises(OSError, match=os.strerror(number)), replacing(path) as temporary:
            temporary.write_text("new")
