"""What every command shares: how errors become exit codes."""

import os
import sys
import traceback
from collections.abc import Iterable

import cyclopts

from lossatlas._errors import InputError, NotCertifiedError, is_interruption


OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def run(app: cyclopts.App, tokens: Iterable[str] | None = None) -> int:
    """Run a command and turn how it ended into an exit code.

    **Arguments:**
    - `app`: the application.
    - `tokens`: the words of the command line; those of the process by default.

    **Returns:**
    The number that the command returns, if it does, else 0 fine; 1 failed (an error of ours is shown with its
    traceback); 2 bad input, with one line on stderr; 130 interrupted. With `LOSSATLAS_DEBUG` set, bad input is shown
    with its traceback too.
    """
    try:
        code = app(tokens, print_error=False, exit_on_error=False, result_action="return_value")
        sys.stdout.flush()
    except (cyclopts.CycloptsError, InputError) as error:
        if os.environ.get("LOSSATLAS_DEBUG"):
            traceback.print_exc()
        return _say(error, BAD_INPUT)
    except NotCertifiedError as error:
        return _say(error, FAILED)
    except KeyboardInterrupt as error:
        return _interrupted(error)
    except BrokenPipeError:
        # The reader of our output went away (`| head`); without this Python complains once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:  # noqa: BLE001
        if is_interruption(error):
            return _interrupted(error)
        traceback.print_exc()
        return _say(f"failed with {type(error).__name__}: {error}", FAILED)
    return code if isinstance(code, int) else OK


def _interrupted(error: BaseException) -> int:
    return _say(" ".join(["interrupted.", *getattr(error, "__notes__", [])]), INTERRUPTED)


def _say(what: object, code: int) -> int:
    line = " ".join(str(what).split())
    sys.stderr.write(f"lossatlas: {line}\n")
    return code
