"""Run a recipe from the command line: `cli` reads the arguments of `main` from YAML files and flags.

The signature of a recipe's `main` is its schema. Each dataclass argument is a section of the YAML file and a group of
flags (`--training.learning_rate 0.02`). An unknown key is an error.
"""

from __future__ import annotations

import inspect
import re
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_type_hints

from softprompts.config.help import KINDS, completion_script, help_of
from softprompts.config.messages import check_values, explain
from softprompts.config.paths import check_utf8, expand_paths
from softprompts.config.yaml_files import check_mapping, check_yaml, is_read, nearest_key
from softprompts.errors import Interrupted, RunFinished, UserError, is_first_process, logger
from softprompts.system import locks
from softprompts.system.files import FULL, error_number, expanded
from softprompts.system.logs import print_log
from softprompts.system.memory import is_out_of_memory
from softprompts.system.processes import lost_process
from softprompts.system.quiet import look_in_the_scripts_folder_last, quiet_libraries
from softprompts.system.streams import end_process_of_launch, fail, quiet_streams

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings


def build_parser(main: Callable[..., None]) -> tuple[ArgumentParser, set[str]]:
    """Return the parser for `main`'s typed arguments and the dotted keys that it accepts."""
    set_parsing_settings(add_print_completion_argument=True)
    parser = ArgumentParser(
        description=inspect.getdoc(inspect.getmodule(main)), exit_on_error=False, default_env=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML file with these keys; flags override it")
    for name, hint in get_type_hints(main).items():
        if name == "return":
            continue
        if not (isinstance(hint, type) and is_dataclass(hint)):
            raise TypeError(f"{main.__name__}: argument {name} is not a dataclass")
        parser.add_class_arguments(hint, name)
    valid = {key for key in vars(parser.get_defaults(skip_validation=True).as_flat()) if not key.startswith("config")}
    sections = {key.split(".")[0] for key in valid}
    return parser, valid | sections


def parse(main: Callable[..., None], argv: list[str]) -> dict[str, Any]:
    """Return `main`'s arguments, read from `argv` (`--config FILE.yaml`, then flags).

    Raises:
        UserError: unknown key, wrong type, missing file; the message names the nearest valid key.
    """
    for argument in argv:
        check_utf8("argument", argument)
    for word, following in zip_longest(argv, argv[1:], fillvalue=""):
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            check_mapping(name, value or following)
    parser, valid = build_parser(main)
    return _arguments(main, parser, lambda: parser.parse_args(_checked_words(argv, valid)))


def parse_sections(main: Callable[..., None], text: str) -> dict[str, Any]:
    """Return `main`'s arguments, read from a text of YAML whose keys are checked already.

    Raises:
        UserError: wrong type, wrong value.
    """
    parser, _ = build_parser(main)
    return _arguments(main, parser, lambda: parser.parse_string(text))


def _arguments(main: Callable[..., None], parser: ArgumentParser, read: Callable[[], Any]) -> dict[str, Any]:
    """Return the arguments of `main`, as dataclasses, from the settings that `read` returns."""
    try:
        settings = read()
        if isinstance(settings.get("config"), list):
            del settings["config"]
        expand_paths(settings)
        for section, kind in get_type_hints(main).items():
            if section != "return":
                check_values(section, settings[section], kind)
        return {k: v for k, v in vars(parser.instantiate_classes(settings)).items() if k != "config"}
    except UserError:
        raise
    except (ArgumentError, ValueError, TypeError) as error:
        raise UserError(explain(str(error), get_type_hints(main))) from None


def _checked_words(argv: list[str], valid: set[str]) -> list[str]:
    """Return the words of a command line, config files first, with expanded paths and `--resume` spelled out.

    `--resume` is `--run.resume true`, or `--SECTION.resume true` for a recipe whose run is another recipe's.

    Raises:
        UserError: a flag is unknown; a config file is missing or not valid.
    """
    words, files, checked = iter(argv), [], []
    resume = next((key for key in sorted(valid) if key.endswith(".resume")), "run.resume")
    for word in words:
        flag = re.fullmatch(r"--([\w.]+)\+?(=.*)?", word, re.DOTALL)
        name = flag[1] if flag else ""
        if word == "--resume":
            checked += [f"--{resume}", "true"]
            continue
        if name == "config":
            path = word.partition("=")[2] or next(words, "")
            if path:
                path = expanded("--config", path)
                check_yaml(path, valid)
                files.append(f"--config={path}")
                continue
        elif name not in ("", "help", "print_config", "print_completion") and not is_read(name, valid):
            raise UserError(f'unknown flag "--{name}"{nearest_key(name, valid)}')
        checked.append(word)
    return files + checked  # flags override files, in any order


def cli(
    main: Callable[..., None],
    check: Callable[[dict[str, Any]], None] | None = None,
    others: Mapping[str, Callable[..., None]] | None = None,
) -> None:
    """Run a recipe's `main` from the command line, after `check` has checked its arguments.

    One of `others` runs instead of `main` if the command line has a flag of its section.

    The process ends with one line and an exit code. A `UserError`, an error of the operating system about a file, full
    memory, or a lost process of a launch ends with 2 and a line on standard error. `RunFinished` ends with 0,
    `Interrupted` with 128 + signal, an interrupt before training with 130, and a closed pipe at standard output with
    141. The library's log is printed, see `print_log`. A process that has met others of its launch ends here.
    """
    main = _asked_main(main, others or {})
    quiet_libraries()
    look_in_the_scripts_folder_last()
    try:
        with quiet_streams():
            _run(main, check)
    finally:
        end_process_of_launch()


def _run(main: Callable[..., None], check: Callable[[dict[str, Any]], None] | None) -> None:
    """Run a recipe's `main`; turn its errors into one line and an exit code."""
    try:
        print_log()
        if asked := asked_for(main, sys.argv[1:]):
            print(asked, end="")
            return
        arguments = parse(main, sys.argv[1:])
        if check:
            check(arguments)
        main(**arguments)
        sys.stdout.flush()  # a full disk there is an error as well
    except UserError as error:
        fail(str(error))
    except RunFinished as finished:
        _tell(str(finished))
    except Interrupted as stopped:
        _tell(str(stopped))
        sys.exit(128 + stopped.signal)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        line = _line_of(error)
        if line is None:
            raise
        fail(line)
    finally:
        locks.release()


def _line_of(error: Exception) -> str | None:
    """Return one line for an error of the machine; None for a bug of this project, which needs its traceback."""
    if is_out_of_memory(error):
        return (
            "out of memory: the machine's memory is full, or a limit of this process is reached (ulimit -v, cgroup); "
            "saved files are unharmed. Provide more memory, then --resume"
        )
    if isinstance(error, RuntimeError):
        return lost_process(error)
    # Without a file it is a bug of this project, or of a library.
    if not isinstance(error, OSError) or isinstance(error, BrokenPipeError):
        return None
    if error.filename is None and error_number(error) not in FULL:
        return None
    return ": ".join(str(part) for part in (error.filename, error.strerror) if part)


def _asked_main(main: Callable[..., None], others: Mapping[str, Callable[..., None]]) -> Callable[..., None]:
    """Return the `main` whose section has a flag on the command line; by default the first."""
    given = (other for section, other in others.items() if any(w.startswith(f"--{section}.") for w in sys.argv[1:]))
    return next(given, main)


def _tell(text: str) -> None:
    if is_first_process():
        logger.info(text)


def asked_for(main: Callable[..., None], argv: list[str]) -> str:
    """Return the help or the completion script that a command line requests; empty if it requests none.

    Raises:
        UserError: the section, or the kind of completion, is unknown.
    """
    for index, argument in enumerate(argv):
        word, _, value = argument.partition("=")
        value = value or next((w for w in argv[index + 1 : index + 2] if not w.startswith("-")), "")
        if word in ("-h", "--help"):
            return help_of(main, value)
        if word == "--print_completion" and value == "bash":
            return completion_script(Path(inspect.getfile(main)).stem, build_parser(main)[1])
        if word == "--print_completion" and value not in KINDS:
            advice = "; for zsh, use bash with `autoload -U bashcompinit && bashcompinit`" if "zsh" in value else ""
            raise UserError(f"--print_completion: expected {' | '.join(KINDS)}, found {value or 'nothing'}{advice}")
    return ""
