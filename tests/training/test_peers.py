import subprocess
import sys
import venv

import pytest

from lesionkeras.errors import RunError
from lesionkeras.training.peers import Child, get_peers_dir, make_environment

ECHO = """
import json, os, sys
print(json.dumps({"name": os.environ["WHO"]}), flush=True)
for line in sys.stdin:
    question = json.loads(line)
    if question.get("end"):
        sys.exit(7)
    print(json.dumps({"got": question}), flush=True)
"""


def test_a_child_answers_each_question_and_ends_with_us():
    with Child("echo", [sys.executable, "-c", ECHO], {"WHO": "me"}) as child:
        assert child.about == {"name": "me"}
        assert child.ask(a=1, b="x") == {"got": {"a": 1, "b": "x"}}
        assert child.ask(a=2) == {"got": {"a": 2}}
        process = child._process
    assert process.returncode == 0


def test_a_child_that_ends_is_named_with_its_status():
    wanted = (
        "A peer of the benchmark has ended in echo: found exit status 7, wanted an answer; its "
        "last words are above."
    )
    with Child("echo", [sys.executable, "-c", ECHO], {"WHO": ""}) as child:
        for _ in range(2):  # the second finds the pipe closed
            with pytest.raises(RunError) as caught:
                child.ask(end=True)
            assert str(caught.value) == wanted


def test_an_error_here_ends_the_child():
    with pytest.raises(KeyError), Child("echo", [sys.executable, "-c", ECHO], {"WHO": ""}) as child:
        raise KeyError
    assert child._process.returncode is not None


@pytest.fixture
def pip(monkeypatch):
    """Stands for venv and pip: what was asked for, and what pip answers."""
    monkeypatch.setattr(venv, "create", lambda folder, **_: folder.mkdir(exist_ok=True))

    class Calls(list):
        status, said = 0, ""

    calls = Calls()

    def run(command, **_):
        calls.append([str(word) for word in command])
        return subprocess.CompletedProcess(command, calls.status, None, calls.said)

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_an_environment_is_made_once_and_again_for_other_pins(tmp_path, pip, capsys):
    folder = tmp_path / "peer"
    python = make_environment(folder, ["a==1", "b==2"], "https://index")
    assert python.parent.parent == folder
    (command,) = pip
    assert command[:4] == [str(python), "-m", "pip", "install"]
    assert command[5:9] == ["a==1", "b==2", "--extra-index-url", "https://index"]
    assert f"Making an environment of a==1, b==2 in {folder}" in capsys.readouterr().err
    assert make_environment(folder, ["a==1", "b==2"]) == python and len(pip) == 1
    assert capsys.readouterr().err == ""
    make_environment(folder, ["a==1", "b==3"])
    assert len(pip) == 2


def test_what_pip_says_is_in_the_error_and_it_is_tried_again(tmp_path, pip):
    pip.status, pip.said = 1, "x" * 900 + "\nERROR: No matching\n  distribution\n"
    with pytest.raises(RunError) as caught:
        make_environment(tmp_path / "peer", ["a==1"])
    text = str(caught.value)
    assert text.startswith(
        f"The peer's packages cannot be installed in {tmp_path / 'peer'}: found xxx"
    )
    assert text.endswith(
        "ERROR: No matching distribution; look at the network and the free space, and run the same "
        "command again."
    )
    pip.status = 0
    make_environment(tmp_path / "peer", ["a==1"])
    assert len(pip) == 2


def test_a_full_disk_is_the_same_error(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(venv, "create", fail)
    with pytest.raises(RunError, match="found No space left on device"):
        make_environment(tmp_path / "peer", ["a==1"])


def test_peers_lie_in_the_cache():
    assert get_peers_dir().parts[-3:] == (".cache", "lesionkeras", "peers")
