from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from transformers import MixtralConfig

import hf_mixture.cli
from hf_mixture import list_methods, list_routers
from hf_mixture.cli.main import _one_line, build_parser, main
from hf_mixture.training.commands import packaged_recipes


COMMANDS = {
    "completion",
    "curate",
    "describe",
    "doctor",
    "everything",
    "export-lora",
    "inspect",
    "list",
    "matsim",
    "mix",
    "mixer",
    "mote",
    "mwq",
    "plan",
    "retrieve",
    "simulate-ep",
    "spread",
    "supernets",
    "taskexpert",
    "thoughts",
    "trace",
    "train",
    "trajectories",
    "unlearn",
    "upcycle",
}


def commands() -> set[str]:
    [action] = [action for action in build_parser()._actions if action.dest == "command"]
    return set(action.choices)


def test_each_file_is_a_command() -> None:
    folder = Path(hf_mixture.cli.__file__).parent
    # A command with several actions is a folder.
    files = {path.stem for path in folder.glob("[a-z]*.py")} | {
        path.parent.name for path in folder.glob("*/__init__.py")
    }
    assert commands() == COMMANDS == {name.replace("_", "-") for name in files - {"main"}}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "import hf_mixture_cli\n"
        "try: hf_mixture_cli.entry_point()\n"
        "finally: print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(command in done.stdout for command in COMMANDS)
    assert not {"torch", "peft", "transformers", "numpy", "huggingface_hub", "yaml"} & set(done.stderr.split())


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: hf-mixture {command}")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--traceback"], "COMMAND"),
        (["trian"], "unknown choice 'trian'; did you mean 'train'?"),
        (
            ["train", "my_txt"],
            "not one of the packaged recipes; did you mean 'my_text'?",
        ),
        (["list", "--jso"], "unknown arguments --jso; see hf-mixture list --help"),
        (["doctor", "no/such/folder"], "neither a folder nor a Hub id"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("usage: hf-mixture")
    assert main(["help"]) == 0
    assert capsys.readouterr().out in shown.err


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    MixtralConfig().save_pretrained(tmp_path / "mixtral")
    (tmp_path / "plan").write_text("A file.", encoding="utf-8")
    words = ["plan", "--model", str(tmp_path / "mixtral"), "--gpus", "8", "--gpu", "h200", "--output"]
    assert main([*words, str(tmp_path / "plan")]) == 2
    assert f"error: {tmp_path / 'plan'}: File exists; it is a file where a folder" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "plan" / "inner")]) == 2
    assert "plan/inner: Not a directory; a part of the path is a file" in capsys.readouterr().err


def test_a_full_disk_is_said_with_a_remedy() -> None:
    with pytest.raises(OSError, match="Errno 28") as raised, pa.OSFile("/dev/full", "wb") as full:
        full.write(b"text")
    assert _one_line(raised.value) == "No space left on device; free some space, or choose another folder"


def test_traceback_on_request() -> None:
    with pytest.raises(ValueError, match="neither a folder"):
        main(["--traceback", "doctor", "no/such/folder"])


def test_list_names_methods_and_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert len(listed["methods"]) == 20
    assert listed["methods"][0]["name"] == "MoS"
    assert listed["recipes"] == sorted(path.stem for path in (Path(__file__).parents[2] / "recipes").glob("*.yaml"))
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert "arXiv 2410.00938" in said
    for command, recipe in {
        "mote run": "mote_refusal",
        "thoughts": "mot_domains, mot_hub",
        "upcycle": "upcycle",
    }.items():
        assert f"recipes for hf-mixture {command}: {recipe}\n" in said


def test_list_routers_is_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--routers", "--json"]) == 0
    listed = {router["name"]: router for router in json.loads(capsys.readouterr().out)["routers"]}
    assert sorted(listed) == [router.name for router in list_routers()]
    assert listed["top_p"]["options"]["threshold"] == 0.4
    assert not listed["expert_choice"]["causal"]
    assert main(["list", "--routers"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n{name}" in f"\n{said}" for name in listed)


def test_describe_says_where_everything_is(capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parents[2]
    recipes = packaged_recipes()
    for method in list_methods():
        assert main(["describe", *method.name.upper().split(), "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["name"] == method.name
        assert (root / method.document).is_file()
        assert method.evidence
        for name in method.evidence:
            assert (root / "benchmarks" / "results" / f"{name}.json").is_file(), name
        assert said["commands"] == [f"hf-mixture {recipes[name]} {name}" for name in method.recipes]
    assert main(["describe", "mos"]) == 0
    assert "get_peft_model(model, MosConfig(...))" in capsys.readouterr().out


def test_describe_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "matsin"]) == 2
    assert "did you mean 'MatSim'?" in capsys.readouterr().err


def test_every_recipe_belongs_to_a_method() -> None:
    assert {name for method in list_methods() for name in method.recipes} == set(packaged_recipes())


def test_bash_completes_commands_and_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion.sh"
    script.write_text(capsys.readouterr().out, encoding="utf-8")
    asked = (
        f"source {script}; complete_with=$(complete -p hf-mixture | sed 's/.*-F \\([^ ]*\\).*/\\1/'); "
        'try() { COMP_WORDS=(hf-mixture "$@"); COMP_CWORD=$#; $complete_with; echo ${COMPREPLY[*]}; }; '
        "try desc; try describe --js"
    )
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["describe", "--json"]
