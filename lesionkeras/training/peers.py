"""Peers that live elsewhere: their environment, and a child process that takes turns."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lesionkeras.errors import RunError

MONAI_PINS = ("torch==2.13.0", "monai==1.6.1", "numpy==2.4.6")
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"  # 200 MB; PyPI's is 3 GB of CUDA
_MARK = "installed.txt"
_SHOWN_CHARACTERS = 300  # of what pip says


def get_peers_dir() -> Path:
    """Returns where environments of peers lie."""
    return Path("~/.cache/lesionkeras/peers").expanduser()


def make_environment(
    folder: Path, pins: Sequence[str] = MONAI_PINS, index: str = TORCH_INDEX
) -> Path:
    """Makes a virtual environment with pinned packages, unless it is there.

    Args:
        folder: Its place; what is left of an attempt that did not end is replaced.
        pins: Requirements, as pip reads them.
        index: A package index beside the usual one.

    Returns:
        Its Python.

    Raises:
        RunError: It cannot be made: no network, no space, no wheel for this machine.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    mark = folder / _MARK
    if mark.is_file() and mark.read_text(encoding="utf-8").split() == list(pins):
        return python
    print(
        f"Making an environment of {', '.join(pins)} in {folder}: 1 GB, once, minutes",
        file=sys.stderr,
        flush=True,
    )
    try:
        venv.create(folder, clear=True, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *pins]
        done = subprocess.run(
            [*command, "--extra-index-url", index, "--progress-bar", "off"],
            stdout=sys.stderr,  # its progress; stdout is the report's
            stderr=subprocess.PIPE,
            text=True,
        )
        failed, said = done.returncode != 0, done.stderr
    except (OSError, subprocess.SubprocessError) as error:
        failed, said = True, str(error)
    if failed:
        raise RunError(
            "The peer's packages cannot be installed",
            where=str(folder),
            found=" ".join(said.split())[-_SHOWN_CHARACTERS:] or "no text of pip",
            next_step="look at the network and the free space, and run the same command again",
        )
    mark.write_text("\n".join(pins) + "\n", encoding="utf-8")
    return python


class Child:
    """A process that answers questions, a JSON a line each; see `monai_unet.serve`.

    Args:
        name: Of the peer, for errors.
        command: The program and its words.
        environment: Variables that it gets beside this process's.

    Raises:
        RunError: It ended before its first answer.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self._name = name
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.about = self._read()

    def ask(self, **question: Any) -> dict[str, Any]:
        """Asks one question and waits.

        Args:
            question: Values of JSON.

        Returns:
            The answer.

        Raises:
            RunError: The process has ended.
        """
        assert self._process.stdin
        with contextlib.suppress(OSError):  # a broken pipe: _read says it better
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        raise RunError(
            "A peer of the benchmark has ended",
            where=self._name,
            found=f"exit status {self._process.wait()}",
            wanted="an answer",
            next_step="its last words are above",
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the process, and waits for it."""
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if error[0] is not None:
            self._process.kill()
        self._process.wait()
        self._process.stdout.close()
