"""What a process finds out about its group from the environment."""

import pytest

from cclm.cli.main import run
from cclm.errors import UserError
from cclm.launch.process_group import first_host, understand, variables_of_srun

STEP = {
    "SLURM_JOB_ID": "1234", "SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": "7", "SLURM_NTASKS": "7",
    "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "2", "SLURM_STEP_NODELIST": "gpu[07-09]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),3",
}  # fmt: skip
"""A task on the third of three nodes."""


def test_a_task_of_srun_is_a_process_of_one_job() -> None:
    environment = dict(STEP)
    understand(environment)
    found = {name: environment[name] for name in environment.keys() - STEP.keys()}
    port = found.pop("MASTER_PORT")
    assert found == {
        "WORLD_SIZE": "7", "RANK": "5", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3", "MASTER_ADDR": "gpu07",
    }  # fmt: skip
    assert 20000 <= int(port) < 32000
    assert variables_of_srun({**STEP, "SLURM_PROCID": "0", "SLURM_NODEID": "0"})["MASTER_PORT"] == port
    assert variables_of_srun({**STEP, "SLURM_STEP_ID": "3"})["MASTER_PORT"] != port


def test_srun_of_one_task_and_a_batch_script_are_one_process() -> None:
    assert variables_of_srun({**STEP, "SLURM_STEP_NUM_TASKS": "1"}) == {}
    of_sbatch = {name: value for name, value in STEP.items() if "STEP" not in name}
    assert variables_of_srun({**of_sbatch, "SLURM_PROCID": "0"}) == {}
    assert variables_of_srun({}) == {}


def test_what_is_set_already_stays() -> None:
    environment = {**STEP, "MASTER_ADDR": "here", "MASTER_PORT": "7"}
    understand(environment)
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("here", "7")
    of_torchrun = {**STEP, "WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "7"}
    understand(of_torchrun)
    assert of_torchrun["WORLD_SIZE"] == "2"


def test_a_step_that_does_not_say_which_task_this_is() -> None:
    with pytest.raises(UserError, match="srun --ntasks-per-node=1 cclm launch"):
        variables_of_srun({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"})


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node1", "node1"), ("node1,node2", "node1"), ("node[03-05,9],other", "node03"), ("node[7,9]", "node7"),
        ("a-b[1-2]-x,c", "a-b1-x"), ("10.0.0.1,10.0.0.2", "10.0.0.1"),
    ],
)  # fmt: skip
def test_the_first_host_of_a_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


def test_one_process_needs_nothing_else() -> None:
    environment = {"WORLD_SIZE": "1", "RANK": "0"}
    understand(environment)
    assert environment == {"WORLD_SIZE": "1", "RANK": "0"}


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two is not a number"),
        ({"WORLD_SIZE": "2", "RANK": ""}, "RANK= is not a number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "WORLD_SIZE=2 and RANK=2 do not fit together"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 and RANK=0 do not fit together"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "MASTER_ADDR and MASTER_PORT are not set; start them by cclm launch"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "but RANK is not set"),
    ],
)
def test_what_does_not_fit_is_a_sentence(environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        understand(environment)


@pytest.mark.parametrize("command", ["pretrain", "finetune", "evaluate"])
def test_commands_that_train_look(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    assert run([command, "config.yaml", *(["--checkpoint", "x"] if command == "evaluate" else [])]) == 2
    assert "WORLD_SIZE=two is not a number" in capsys.readouterr().err
