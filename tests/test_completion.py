"""What shells complete: the values of options, by the protocol of each shell and in bash itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from alds_cli.allocation.layer_options import ERROR_DEFINITIONS
from alds_cli.architectures.zoo import ZOO
from alds_cli.cli.verbs import declared_options
from alds_cli.datasets.preprocessing import PRESETS
from alds_cli.methods import METHODS
from alds_cli.methods.solvers import SOLVERS
from alds_cli.options import choices
from alds_cli.records import DROP_MEASURES, Interpolation


@pytest.fixture
def completed(run, monkeypatch):
    """What a shell is told that the last word of a command line may become."""

    def call(line, shell):
        words = line.split(" ")
        monkeypatch.setenv("_ALDS_COMPLETE", f"complete_{shell}")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
        monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
        monkeypatch.setenv("_TYPER_COMPLETE_WORD_TO_COMPLETE", words[-1])
        code, out, err = run()
        assert (code, err) == (0, "")
        return _candidates(out, shell)

    return call


def _candidates(out, shell):
    """Undo what is put around candidates for a shell."""
    if shell == "zsh":
        marked = out.removeprefix("_arguments '*: :((").removesuffix("))'\n").splitlines()
        return [own.strip('"').replace("\\:", ":") for own in marked]
    return out.split()


LINES = {
    "alds compress m.pt --method alds-": ["alds-data", "alds-fisher", "alds-error", "alds-simple"],
    "alds compress m.pt --solver k": ["knapsack"],
    "alds compress m.pt --arch cifar_resnet11": ["cifar_resnet110"],
    "alds train --recipe imagenet-r": ["imagenet-resnet18"],
    "alds train --optimizer ": ["sgd", "rmsprop", "adamw"],
    "alds sweep m.pt --methods svd,m": ["svd,messi"],
    "alds schema ta": ["table"],
    "alds config show ev": ["evaluate"],
    "alds evaluate m.pt --format g": ["github"],
}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("line", LINES)
def test_values_are_completed(line, shell, completed):
    assert completed(line, shell) == LINES[line]


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_where_nothing_fits_the_shell_completes_files(shell, completed):
    assert completed("alds compress m.pt --arch ./own", shell) == []
    assert completed("alds compress ./m", shell) == []


def test_the_values_are_those_that_there_are():
    assert tuple(METHODS) == choices.METHOD_NAMES
    assert all(METHODS[name] is not None for name in choices.METHOD_NAMES)
    assert set(choices.SOLVER_NAMES) == set(SOLVERS) | {"lagrangian"}
    assert set(choices.ERROR_NAMES) == set(ERROR_DEFINITIONS)
    assert (*choices.DROP_NAMES, "loss") == tuple(DROP_MEASURES)  # a loss is not searched by
    assert tuple(PRESETS) == choices.PREPROCESSINGS
    assert get_args(Interpolation) == choices.INTERPOLATIONS


def test_every_network_of_the_zoo_is_completed(completed):
    assert set(completed("alds train --arch ", "bash")) >= set(ZOO)


def test_every_option_that_is_given_a_name_is_completed():
    """But those whose value is a name of the user's own."""
    for options in declared_options().values():
        for declared in options:
            assert declared.mark.values or declared.mark.metavar != "NAME", declared.flags


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_without_pytorch(tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch is imported')")
    programs, script = Path(sys.executable).parent, tmp_path / "complete.sh"
    script.write_text(f"""
        PATH={programs}:$PATH
        export PYTHONPATH={tmp_path}:$PYTHONPATH
        eval "$(_ALDS_COMPLETE=source_bash alds)"
        complete -p alds
        for beginning in compress:alds-f train:vgg16_; do
            case $beginning in
                compress:*) COMP_WORDS=(alds compress m.pt --method "${{beginning#*:}}") ;;
                train:*) COMP_WORDS=(alds train --arch "${{beginning#*:}}") ;;
            esac
            COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
            _alds_completion alds
            echo "${{COMPREPLY[@]}}"
        done
    """)
    done = subprocess.run(["bash", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "complete -o default -F _alds_completion alds",
        "alds-fisher",
        "vgg16_bn",
    ]
