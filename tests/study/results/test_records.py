"""records.jsonl under torn lines, damage, two writers and failing disks."""

import fcntl
import json
import os
import threading
import time
import zlib

import pytest

from warmeng.common import journal as module
from warmeng.common.errors import FolderLocked, InputError, StorageError
from warmeng.common.journal import Journal, encode
from warmeng.common.locks import FolderLock
from warmeng.study.results.records import LOCK, read_records


def record(k):
    return {"key": f"{k:032x}", "text": f"line {k} \u2028 \u0085 'é' {{}}", "grade": "correct"}


def filled(path, count=5):
    writer = Journal(path, "again")
    for k in range(count):
        writer.append(record(k))
    writer.close()
    return path.read_bytes()


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "records.jsonl"
    data = filled(path)
    assert data.count(b"\n") == 5
    assert [{k: v for k, v in r.items() if k != "crc32"} for r in read_records(path)] == [record(k) for k in range(5)]


def test_a_line_torn_at_any_offset_is_cut_and_the_rest_kept(tmp_path):
    path = tmp_path / "records.jsonl"
    data = filled(path, 3)
    start = data.rstrip(b"\n").rindex(b"\n") + 1
    for end in range(start, len(data)):
        path.write_bytes(data[:end])
        assert len(list(read_records(path))) == 2
        writer = Journal(path, "again")
        assert (writer.cut, len(writer.done)) == (end - start, 2)
        assert path.read_bytes() == data[:start]
        writer.append(record(2))
        writer.close()
        assert path.read_bytes() == data


def test_damage_elsewhere_names_file_line_and_offset_and_changes_nothing(tmp_path):
    path = tmp_path / "records.jsonl"
    data = filled(path, 4)
    second = data.index(b"\n") + 1
    third = data.index(b"\n", second) + 1
    for at in range(second, third - 1):
        damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        path.write_bytes(damaged)
        with pytest.raises(InputError) as error:
            Journal(path, "again")
        assert str(error.value).startswith(f"{path}:2: the line at byte {second} ")
        assert path.read_bytes() == damaged
    path.write_bytes(data + encode(record(1)))
    with pytest.raises(InputError, match=r":5: .* is there twice"):
        list(read_records(path))
    path.write_bytes(data[:second] + b"\0" * 50 + b"\n" + data[second:])
    with pytest.raises(InputError, match=r":2: "):
        list(read_records(path))


def test_a_tail_of_zeros_after_a_power_loss_is_cut(tmp_path):
    path = tmp_path / "records.jsonl"
    data = filled(path, 3)
    path.write_bytes(data + b"\0" * 4096)
    writer = Journal(path, "again")
    writer.close()
    assert writer.cut == 4096
    assert path.read_bytes() == data


def test_one_writer_at_a_time(tmp_path):
    with FolderLock(tmp_path / "run", LOCK), pytest.raises(FolderLocked, match=f"process {os.getpid()} "):
        FolderLock(tmp_path / "run", LOCK)
    with FolderLock(tmp_path / "run", LOCK):
        pass
    assert FolderLocked.exit_code == 73


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        FolderLock(tmp_path / "file" / "run", LOCK)


def test_a_full_disk_keeps_whole_lines_and_says_how_to_go_on(tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    writer = Journal(path, "warmeng run --out x")
    writer.append(record(0))
    whole = path.read_bytes()
    real, calls = os.write, []

    def fills_up(handle, data):
        calls.append(len(data))
        if len(calls) == 1:
            return real(handle, bytes(data[:10]))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "write", fills_up)
    with pytest.raises(StorageError, match=r"No space left .* 1 records are kept: .* warmeng run --out x"):
        writer.append(record(1))
    monkeypatch.setattr(module.os, "write", real)
    assert path.read_bytes() == whole
    with pytest.raises(StorageError):
        writer.append(record(2))
    with pytest.raises(StorageError):
        writer.close()


def test_a_failed_fsync_is_never_retried(tmp_path, monkeypatch):
    writer = Journal(tmp_path / "records.jsonl", "again")
    calls = []

    def failing(handle):
        calls.append(handle)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module.os, "fsync", failing)
    for k in range(99):
        writer.append(record(k))
    with pytest.raises(StorageError, match="Input/output error"):
        writer.append(record(99))
    with pytest.raises(StorageError):
        writer.append(record(999))
    with pytest.raises(StorageError):
        writer.close()
    assert len(calls) == 1


def test_records_reach_the_disk_within_a_hundred_or_a_second(tmp_path, monkeypatch):
    writer = Journal(tmp_path / "records.jsonl", "again")
    calls = []
    real = os.fsync
    monkeypatch.setattr(module.os, "fsync", lambda handle: (calls.append(time.monotonic()), real(handle)))
    for k in range(100):
        writer.append(record(k))
    assert len(calls) >= 1
    writer.append(record(100))
    before = len(calls)
    time.sleep(1.3)
    assert len(calls) == before + 1
    writer.close()
    assert len(calls) == before + 1, "nothing was left to make durable"


def test_many_threads_leave_whole_lines(tmp_path):
    path = tmp_path / "records.jsonl"
    writer = Journal(path, "again")
    threads = [
        threading.Thread(target=lambda n=n: [writer.append(record(n * 100 + k)) for k in range(50)]) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert len(list(read_records(path))) == 200


def test_the_lock_goes_with_its_process(tmp_path):
    lock = FolderLock(tmp_path, LOCK)
    handle = os.open(tmp_path / "run.lock", os.O_RDWR)
    with pytest.raises(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lock.release()
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(handle)


def test_the_bytes_of_a_line_are_these():
    assert encode({"key": "00ff", "text": "é\n"}) == '{"key":"00ff","text":"é\\n","crc32":"eff7be91"}\n'.encode()


def test_lines_with_blanks_as_preparations_once_wrote_them_are_read(tmp_path):
    path = tmp_path / "attempts.jsonl"
    body = json.dumps(record(0), ensure_ascii=False).encode()[:-1]
    path.write_bytes(b'%b, "crc32": "%08x"}\n' % (body, zlib.crc32(body)))
    with Journal(path, "again") as writer:
        assert list(writer.done) == [record(0)["key"]]
        writer.append(record(1))
    assert [line["text"] for line in read_records(path)] == [record(0)["text"], record(1)["text"]]


def test_what_is_no_record_is_refused_by_its_line(tmp_path):
    path = tmp_path / "records.jsonl"
    for line, why in (({"text": "a"}, "no key"), ({"key": "xyz"}, "no key"), ({"key": 1}, "no key")):
        path.write_bytes(encode(line))
        with pytest.raises(InputError, match=f"{path}:1: the line at byte 0 is damaged .*{why}"):
            list(read_records(path))
