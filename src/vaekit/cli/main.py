"""`vaekit`: the app, and what an ending means.

0    done
1    a fault of vaekit's: a traceback
2    something that the user can mend: one line on standard error
130  interrupted: one line on standard error
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError
from cyclopts.exceptions import MissingArgumentError, UnusedCliTokensError

from vaekit import __version__
from vaekit.cli import augment, conditions, data, demo, directions, latents, reduce, refit, tables, text, training, use
from vaekit.errors import VaekitError

HELP = """Your own data into a variational autoencoder, and every job that it is for.

Start with `vaekit demo`, or with your own data: `vaekit train DATA -o MODEL`, then `vaekit generate MODEL -o samples.png`
(`samples.csv` of a table, `samples.txt` of text).
"""

app = App(name="vaekit", help=HELP, version=__version__, help_format="markdown", suppress_keyboard_interrupt=False)
for module in (data, training, refit, use, latents, conditions, directions, reduce, text, tables, augment, demo):
    module.add_commands(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code; a fault of vaekit's is raised."""
    try:
        app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        return _say(_sentence(error), 2)
    except VaekitError as error:
        return _say(str(error), 2)
    except KeyboardInterrupt as interrupt:
        return _say(str(interrupt) or "Interrupted: outputs that were not finished have not been written.", 130)
    except BrokenPipeError:  # the reader of standard output has gone, as in `vaekit info MODEL | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _say(text: str, code: int) -> int:
    print(" ".join(text.split()), file=sys.stderr, flush=True)
    return code


def _sentence(error: CycloptsError) -> str:
    """A parse error in one line, with where to read more."""
    error.verbose = False
    command = " ".join(["vaekit", *(error.command_chain or ())])
    found = " ".join(str(error).split())
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        found = f"`{command}` must have {error.argument.name}, none was given."
    elif isinstance(error, UnusedCliTokensError):
        found = f"`{command}` takes fewer values, found {' '.join(error.unused_tokens or [])!r} beyond them."
    return f"{found} See `{command} --help`."
