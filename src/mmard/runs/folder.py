"""A run folder: resolved settings, metrics, checkpoints. Killed at any moment, it stays whole."""

import fcntl
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch
import yaml

from mmard.models.weights import metadata_of
from mmard.runs.metrics_lines import line_of, record_in
from mmard.utils.checkpoint_digest import is_whole, seal
from mmard.utils.errors import MmardError, first_line
from mmard.utils.files import load_safely, read_json, write_json, write_text, write_whole
from mmard.utils.layout import LAYOUT, LAYOUT_FILE, must_be_readable
from mmard.utils.numbers import is_number
from mmard.utils.packages import optional
from mmard.utils.safe_open import must_stay_in, open_to_append
from mmard.utils.text_files import parse_json, read_text, read_yaml

NO_EFFECT = ("about", "out", "tensorboard", "tracking", "teacher_recipe", "teacher_check", "licence")
"""Settings that change nothing in a result."""


class RunFolder:
    """The files of one run, in ``path``: settings.yaml, method.txt, metrics.jsonl, checkpoint.pt, best and last weights, eval/.

    Raises:
        MmardError: for a folder of a newer layout.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).expanduser()
        must_be_readable(self.path)
        self.settings_file = self.path / "settings.yaml"
        self.formula_file = self.path / "method.txt"
        self.metrics_file = self.path / "metrics.jsonl"
        self.checkpoint_file = self.path / "checkpoint.pt"
        self.best_file = self.path / "best.safetensors"
        self.last_file = self.path / "last.safetensors"
        self.teachers_file = self.path / "teachers.json"
        self.history_file = self.path / "history.json"
        self._board: Any = None
        self._lock: IO[str] | None = None
        self._made = False

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    def __fspath__(self) -> str:
        """Return the folder: a run stands wherever a path may, in this package and in Python's own functions."""
        return str(self.path)

    def lock(self) -> None:
        """Keep other processes out until `close`; the lock goes with the process, however that ends."""
        try:
            self._made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open_to_append(self.path / ".lock")
        except OSError as e:
            raise MmardError(f"cannot write in {self.path}: {first_line(e)}; choose another folder") from e
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            self._made = False  # it is its holder's
            self._lock.seek(0)
            holder = self._lock.read().strip() or "another"
            raise MmardError(f"{self.path} is in use by process {holder}; wait, or choose another out=") from e
        except OSError as e:
            raise MmardError(f"cannot lock {self.path}: {first_line(e)}; choose an out= on another file system") from e
        if not os.fstat(self._lock.fileno()).st_nlink:
            raise MmardError(f"{self.path} was just removed by the process that had made it; start again")
        with suppress(OSError):  # on a full disk the lock holds, only without a name
            self._lock.truncate(0)
            self._lock.write(str(os.getpid()))
            self._lock.flush()

    @property
    def has_run(self) -> bool:
        """Tell whether a run has got so far that there is something to lose."""
        return self.checkpoint_file.exists() or self.best_file.exists() or bool(self.metrics())

    @property
    def is_run(self) -> bool:
        """Tell whether `mmard train` made this folder."""
        return self.settings_file.is_file()

    def settings(self) -> dict[str, Any]:
        """Read the settings as the file has them, without defaults that came later.

        Raises:
            MmardError: for a folder that is no run's, or a file that cannot be read.
        """
        if not self.is_run:
            raise MmardError(
                f"{self.path} is no run folder (no settings.yaml in it); expected one that mmard train made"
            )
        must_stay_in(self.path, self.settings_file)  # what a link leads to would be shown in reports
        return read_yaml(self.settings_file)

    def begin(self, settings: dict[str, Any], tensorboard: bool = False, formula: str = "") -> None:
        """Write the resolved settings and the method's formula; ``tensorboard`` copies the metrics there too."""
        write_text(self.path / LAYOUT_FILE, f"{LAYOUT}\n")
        write_text(self.formula_file, formula + "\n")
        write_text(self.settings_file, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        self._board = _board(self.path / "tensorboard") if tensorboard else None

    def formula(self) -> str:
        """Read the method's formula as it was when it was trained; empty where the folder does not keep it."""
        try:
            must_stay_in(self.path, self.formula_file)
            return printable(read_text(self.formula_file)) if self.formula_file.is_file() else ""
        except MmardError:
            return ""

    def close(self) -> None:
        """Flush what is not on disk yet and let others in; of a run that was refused no empty folder stays."""
        with suppress(OSError):
            if self._made and self._lock is not None and [*self.path.iterdir()] == [self.path / ".lock"]:
                (self.path / ".lock").unlink()
                self.path.rmdir()
        for file in (self._board, self._lock):
            with suppress(OSError):  # of a full disk, which the write that matters has named
                if file is not None:
                    file.close()

    def append(self, record: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        try:
            with open_to_append(self.metrics_file) as f:
                f.write(line_of(record))
                f.flush()
                os.fsync(f.fileno())  # as the checkpoint that follows: it must not be of an epoch that has no line
        except OSError as e:
            there = self.path.is_dir()
            kept = "the last checkpoint is kept" if there else "its folder is gone: was it moved or removed?"
            raise MmardError(f"cannot write {self.metrics_file}: {first_line(e)}; {kept}") from e
        if self._board is not None:
            for name, value in record.items():
                parts = {f"{name}/{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
                for tag, number in parts.items():
                    if not isinstance(number, str):
                        self._board.add_scalar(tag, number, record["step"])

    def metrics(self) -> list[dict[str, Any]]:
        """Read all lines of the metrics; a last one cut short by a kill is left out, with a warning.

        Raises:
            MmardError: for another line that is no record of a step.
        """
        if not self.metrics_file.exists():
            return []
        lines = read_text(self.metrics_file).splitlines()
        records = [record_in(line, f"{self.metrics_file}: line {i}") for i, line in enumerate(lines, 1)]
        whole = [r for r in records if r is not None]
        if None in records[:-1]:
            at = records.index(None) + 1
            raise MmardError(f"{self.metrics_file}: line {at} is no record of a step; mend that line, or remove it")
        if None in records:
            warnings.warn(
                f"{self.metrics_file}: its last line is cut short and left out; a run that goes on takes it from its checkpoint",
                stacklevel=2,
            )
        return whole

    def forget_after(self, step: int, last: dict[str, Any] | None = None) -> None:
        """Drop the metrics of steps that a resumed run will do again, and of one that begins anew its end; make the folder.

        Args:
            last: the line that the checkpoint says was the last, which is put back where it is missing.
        """
        kept = [r for r in self.metrics() if r["step"] <= step]
        if last is not None and all(r["step"] != last["step"] for r in kept):
            kept.append(last)
        if last is not None and (lost := last["epoch"] - len({r["epoch"] for r in kept})) > 0:
            warnings.warn(f"{self.metrics_file} has no lines of {lost} epochs that are done", stacklevel=2)
        write_text(self.metrics_file, "".join(line_of(r) for r in kept))
        for file in (self.last_file, self.history_file) if step == 0 else ():
            file.unlink(missing_ok=True)

    def keep_history(self, history: list[dict[str, Any]]) -> None:
        """Write history.json: when the run was extended, and what changed then."""
        text = json.dumps(history, indent=2, ensure_ascii=False) + "\n"
        write_text(self.history_file, text, make_folder=False)

    def describe_history(self) -> list[str]:
        """Describe the run's extensions, a line each; none where it was never extended.

        Raises:
            MmardError: for a file that is not as `keep_history` writes it.
        """
        file = self.history_file
        found = parse_json(read_text(file), str(file)) if file.is_file() else []
        try:
            return [printable(describe_extension(entry)) for entry in found]
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as e:
            raise MmardError(f"{file} is no history of a run ({first_line(e)}); mend it, or remove it") from e

    def is_finished(self) -> bool:
        """Tell whether training came to its end; while it goes on by another plan, the last weights are those of the old one."""
        if not self.last_file.is_file():
            return False
        with suppress(MmardError, TypeError, LookupError):  # faults of these files are told where they are read
            ended = metadata_of(self.last_file).get("epoch")
            history = parse_json(read_text(self.history_file), "") if self.history_file.is_file() else [{"epoch": -1}]
            return not is_number(ended) or ended > history[-1]["epoch"]
        return True

    def keep_teachers(self, found: dict[str, Any]) -> None:
        """Write teachers.json: the check of each teacher before training."""
        write_json(self.teachers_file, found)

    def teachers(self) -> dict[str, Any]:
        """Read the check of each teacher before training; empty where there was none."""
        return read_json(self.teachers_file) if self.teachers_file.is_file() else {}

    def describe_teachers(self) -> list[str]:
        """Describe the check of each teacher before training, a line each; none where there was none.

        Raises:
            MmardError: for a file that is not as training writes it.
        """
        file, found = self.teachers_file, self.teachers()
        try:
            return [printable(describe_teacher_check(name, look)) for name, look in found.items()]
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise MmardError(f"{file} does not say what was found of teachers ({first_line(e)}); remove it") from e

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint in one step, with a digest of its contents; a folder that is gone is an error."""
        write_whole(self.checkpoint_file, lambda part: _save_sealed(state, part), make_folder=False)

    def made_with(self) -> dict[str, Any] | None:
        """Read the settings in the checkpoint, not those of a file that anyone may edit; None where it has none, as old ones."""
        if not self.checkpoint_file.is_file():
            return None
        try:
            state = load_safely(self.checkpoint_file, mapped=True)
        except Exception:  # damaged bytes fail in every way there is
            state = self.load()  # which says what is wrong
        settings = state.get("settings") if isinstance(state, dict) else None
        return settings if isinstance(settings, dict) else None

    def load(self) -> dict[str, Any] | None:
        """Read the checkpoint, None where there is none yet. It is read with ``weights_only`` and can run no code.

        Raises:
            MmardError: when it is not whole, not what was written, or no checkpoint.
        """
        if not self.checkpoint_file.exists():
            return None
        try:
            if not is_whole(self.checkpoint_file):
                fault = "its contents do not match its digest; put a copy in its place, or remove it to start anew"
                raise MmardError(f"{self.checkpoint_file} is damaged: {fault}")
            state = load_safely(self.checkpoint_file)
        except MmardError:
            raise
        except Exception as e:  # of an old one without a digest: damaged bytes fail in every way there is
            raise MmardError(
                f"{self.checkpoint_file} is no whole checkpoint (it cannot be read); remove it to start anew"
            ) from e
        if not isinstance(state, dict) or not isinstance(step := state.get("step"), int) or step < 0:
            raise MmardError(f"{self.checkpoint_file} is no checkpoint of this package; remove it to start anew")
        return state


def title_of(path: Path) -> str:
    """Name a run after its folder; a cell of a study, whose folder is its seed, after the folder around it too."""
    at = path.resolve()
    return f"{at.parent.name}-{at.name}" if at.name.startswith("seed-") else at.name


def epochs_done(metrics: Sequence[Mapping[str, Any]]) -> int:
    """Count the epochs in lines of the metrics."""
    return max((int(r["epoch"]) for r in metrics), default=0)


def best_validation(metrics: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Find the line of the epoch whose checkpoint was kept as the best: the most robust on held-out images, then the cleanest.

    As in training: where a line says that clean accuracy chose, its robust accuracy counts for nothing.
    """

    def rank(line: Mapping[str, Any]) -> tuple[float, float, int]:
        return 0.0 if line.get("chosen_by") == "clean" else line["robust"], line["clean"], -line["epoch"]

    validated = [r for r in metrics if all(is_number(r.get(key)) for key in ("robust", "clean"))]
    return max(validated, key=rank, default=None)


def _save_sealed(state: dict[str, Any], path: Path) -> None:
    sums = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)  # the seal stands on them
    try:
        torch.save(state, path)
    finally:
        torch.serialization.set_crc32_options(sums)
    seal(path)


def printable(text: Any) -> str:
    """Remove control characters but line breaks from a text of somebody's file, and all after 10,000 letters."""
    return "".join(c for c in str(text or "")[:10_000] if c == "\n" or c.isprintable()).strip()


def _board(path: Path) -> Any:
    return optional("torch.utils.tensorboard", "board", "tensorboard=true").SummaryWriter(str(path))


def changes(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Find settings that differ: dotted key → old and new value."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found |= changes(a, b, f"{prefix}{key}.")
        elif a != b:
            found[f"{prefix}{key}"] = (a, b)
    return found


def listed(changed: dict[str, tuple[Any, Any]]) -> str:
    """Write changes as ``key: old → new; key: old → new``."""
    return "; ".join(f"{key}: {old} → {new}" for key, (old, new) in changed.items())


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Find settings that differ, as ``key: old → new``."""
    return [listed({key: pair}) for key, pair in changes(old, new, prefix).items()]


def describe_extension(entry: Mapping[str, Any]) -> str:
    """Describe an extension of a run in one line, from its entry in history.json."""
    changed = ", ".join(f"{key} {old} → {new}" for key, (old, new) in entry["changed"].items())
    return f"extended at epoch {entry['epoch']:g}: {changed}; learning rate {entry['lr'][0]:.3g} → {entry['lr'][1]:.3g}"


def describe_teacher_check(name: str, found: Mapping[str, Any]) -> str:
    """Describe the check of a teacher in one line, from its entry in teachers.json."""
    robust = f", PGD-10 {found['pgd_10']:.1f} % ({found['threat']})" if "pgd_10" in found else ""
    claims = {k: v for k, v in found["claimed"].items() if is_number(v)}
    claimed = f"; claimed: {', '.join(f'{k} {v:g} %' for k, v in claims.items())}" if claims else ""
    who = "teacher" if name == "teacher" else f"teachers.{name}"
    return f"{who}: clean {found['clean']:.1f} %{robust} on {found['images']} held-out images{claimed}"
